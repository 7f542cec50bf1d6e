// Package celltest runs many nodes in one process, on a network in memory and in
// virtual time, so that a test of minutes or hours of a distributed system
// takes seconds and is repeatable.
//
// Everything happens inside a bubble of testing/synctest. The nodes are those
// of the cell program, built by the same constructor; only the network, the
// processes of replicas and the compiler are replaced:
//
//	synctest.Test(t, func(t *testing.T) {
//		o := celltest.New(t, celltest.Options{Nodes: 5})
//		o.Node(0).Run("greeter", func(ctx context.Context, method string, in []byte) ([]byte, error) {
//			return []byte("hello"), nil
//		})
//		out, err := o.Node(4).Call(ctx, "greeter/hello", nil)
//	})
package celltest

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"cell.network/cell/internal/sim"
)

// Options say what an organism is like. The zero value is three nodes on one
// LAN without loss.
type Options struct {
	Nodes int     // default 3
	Seed  uint64  // of keys, loss and every other choice; default 1
	Loss  float64 // share of packets that vanish, 0 to 1
	// LAN names the local network of node i; "" is none. Default: all on one.
	LAN func(i int) string
	// Knows lists the nodes whose addresses node i is given to start with.
	// Default: none where it has a LAN, node 0 elsewhere.
	Knows func(i int) []int
	// Latency is the time that a packet takes one way between two addresses.
	// Default: 200 µs.
	Latency func(from, to netip.Addr) time.Duration
}

// Organism is a set of nodes that can reach each other.
type Organism struct {
	t        testing.TB
	opts     Options
	net      *sim.Network
	bus      *sim.Bus
	author   identity.Private
	colony   identity.Private
	programs programs
	nodes    []*Node

	closing sync.Once
}

// New starts an organism; call it inside a bubble. It ends with the test's
// body: Close is registered as a cleanup, which synctest runs in the bubble.
// The seed is printed.
func New(t testing.TB, o Options) *Organism {
	t.Helper()
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	if o.LAN == nil {
		o.LAN = func(int) string { return "lan" }
	}
	if o.Latency == nil {
		o.Latency = sim.LAN
	}
	t.Logf("organism of %d nodes, seed %d", o.Nodes, o.Seed)
	org := &Organism{
		t: t, opts: o,
		net:    sim.NewNetwork(sim.Config{Seed: o.Seed, Latency: o.Latency, Loss: o.Loss}),
		bus:    sim.NewBus(sim.BusConfig{Seed: o.Seed, Loss: o.Loss}),
		author: key(o.Seed, "author", 0), colony: key(o.Seed, "colony", 0),
	}
	// Certificates and leases carry the time; the bubble's clock starts in 2000.
	t.Cleanup(org.Close)
	for i := range o.Nodes {
		org.nodes = append(org.nodes, &Node{org: org, index: i, root: t.TempDir(), key: key(o.Seed, "node", i)})
	}
	for _, n := range org.nodes {
		err := n.save(map[string]identity.Private{node.RoleNode: n.key})
		if err == nil {
			err = n.start()
		}
		if err != nil {
			t.Fatalf("start node %d: %v", n.index, err)
		}
	}
	return org
}

// key derives a key from the seed: the same seed makes the same organism.
func key(seed uint64, role string, i int) identity.Private {
	return identity.PrivateFromSeed(sha256.Sum256(fmt.Appendf(binary.BigEndian.AppendUint64(nil, seed), "%s %d", role, i)))
}

// Node returns the i-th node.
func (o *Organism) Node(i int) *Node { return o.nodes[i] }

// Author is the author of all programs of the organism, in text form: others
// call them greeter@AUTHOR/hello.
func (o *Organism) Author() string { return o.author.Public().String() }

// Partition cuts the network: nodes of different groups do not reach each
// other. A node in no group reaches all. It replaces an earlier partition.
func (o *Organism) Partition(groups ...[]int) {
	var wan [][]netip.Addr
	var lan [][]netip.AddrPort
	for _, g := range groups {
		var w []netip.Addr
		var l []netip.AddrPort
		for _, i := range g {
			w = append(w, o.nodes[i].addr())
			l = append(l, o.nodes[i].lanAddr())
		}
		wan, lan = append(wan, w), append(lan, l)
	}
	o.net.Partition(wan...)
	o.bus.Partition(lan...)
}

// Heal ends a partition.
func (o *Organism) Heal() {
	o.net.Heal()
	o.bus.Heal()
}

// SetLoss changes the share of packets that vanish.
func (o *Organism) SetLoss(share float64) {
	o.net.SetLoss(share)
	o.bus.SetLoss(share)
}

// Close ends all nodes and the network. It may be called twice.
func (o *Organism) Close() {
	o.closing.Do(func() {
		var wg sync.WaitGroup
		for _, n := range o.nodes {
			wg.Go(func() { _ = n.end() })
		}
		wg.Wait()
		o.net.Close()
	})
}
