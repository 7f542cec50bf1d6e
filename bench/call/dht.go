package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"cell.network/cell/bench/report"
	"cell.network/cell/internal/axon"
	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/kad"
	"cell.network/cell/internal/record"
)

// swarmSize is how many nodes the DHT has before a newcomer joins, all in one
// process: enough that not every node holds every lease, few enough for two
// cores.
func (b *bench) swarmSize() int { return pick(b, 16, 24) }

// swarmSpec is what the process of a DHT is told.
type swarmSpec struct {
	Seed  uint64
	Nodes int
	Names int // of cells that the last node serves: c0, c1, …
}

func cellName(i int) string { return fmt.Sprintf("c%d", i) }

// swarmPart is a DHT of ours. Its last node serves the cells; ready are the
// addresses of its first, with /p2p.
func swarmPart(arg []byte) (any, func(), error) {
	var s swarmSpec
	if err := json.Unmarshal(arg, &s); err != nil {
		return nil, nil, err
	}
	var hosts []*host.Host
	var kads []*kad.Kad
	var axons []*axon.Axon
	stop := func() {
		for _, a := range axons {
			_ = a.Close()
		}
		for _, k := range kads {
			_ = k.Close()
		}
		for _, h := range hosts {
			_ = h.Close()
		}
	}
	var first []string
	for i := range s.Nodes {
		h, a, err := newAxon(key(s.Seed, "swarm", i), loopback)
		if err != nil {
			stop()
			return nil, nil, err
		}
		hosts, axons = append(hosts, h), append(axons, a)
		k, err := kad.New(h, kad.Config{Network: network, Mode: kad.ModeServer, Bootstrap: first})
		if err != nil {
			stop()
			return nil, nil, err
		}
		kads = append(kads, k)
		if i == 0 {
			for _, x := range h.Addrs() {
				first = append(first, x.String()+"/p2p/"+h.ID().String())
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	err := joined(ctx, s.Nodes, func(i int) int { return kads[i].Size() })
	if err == nil {
		err = each(s.Names, func(i int) error { return s.announce(ctx, i, hosts[s.Nodes-1], kads[s.Nodes-1]) })
	}
	if err != nil {
		stop()
		return nil, nil, err
	}
	return first, stop, nil
}

// joined waits until every node knows at least half of the others.
func joined(ctx context.Context, nodes int, size func(int) int) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; i < nodes; {
		if size(i) >= nodes/2 {
			i++
			continue
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("node %d knows %d others: %w", i, size(i), ctx.Err())
		}
	}
	return nil
}

// each calls f for 0 to n-1, a few at a time.
func each(n int, f func(int) error) error {
	const atOnce = 8
	var wg sync.WaitGroup
	errs, next := make([]error, n), make(chan int)
	for range atOnce {
		wg.Go(func() {
			for i := range next {
				errs[i] = f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return errors.Join(errs...)
}

// announce puts the lease of one cell into the DHT.
func (s swarmSpec) announce(ctx context.Context, i int, h *host.Host, k *kad.Kad) error {
	author, now := key(s.Seed, "author", 0), time.Now()
	grant, err := record.SignGrant(author, network.ID(), identity.Name(cellName(i)), []record.Subject{{Kind: record.SubjectNode, Key: h.Key()}}, now, 24*time.Hour)
	if err != nil {
		return err
	}
	lease, err := record.SignLease(key(s.Seed, "swarm", s.Nodes-1), network.ID(), record.Offer{
		Cell: identity.Cell{Author: author.Public(), Name: identity.Name(cellName(i))}, State: record.StateAlive, Addrs: h.LeaseAddrs(false),
		Grant: grant.Raw, Order: record.Order{Incarnation: 1, Sequence: 1}, Issued: now, TTL: time.Hour,
	})
	if err != nil {
		return err
	}
	_, err = k.Put(ctx, lease)
	return err
}

// dht measures the way through the DHT: for a node that starts and knows one
// address, and for one that has joined and meets a name that is new to it.
func (b *bench) dht(ctx context.Context) {
	newcomers, newNames := pick(b, 5, 41), pick(b, 11, 101)
	names := newcomers + newNames + 1
	ours, oursJoined, closeOurs := b.cellDHT(ctx, names, newcomers)
	defer closeOurs()
	theirs, theirsJoined, closeTheirs := b.stockDHT(ctx, names, newcomers)
	defer closeTheirs()
	wait(ctx, settle)
	cs := []report.Contender{ours, theirs}
	b.compare("new caller to its first call, DHT", report.Time, cs, report.Times(ctx, newcomers, b.rand, cs), 2)
	cs = []report.Contender{oursJoined, theirsJoined}
	b.compare("new name to its first call, DHT", report.Time, cs, report.Times(ctx, newNames, b.rand, cs), 1)
}

// cellDHT is a DHT in another process, newcomers in this one, and one node
// here that joins at once and stays.
func (b *bench) cellDHT(ctx context.Context, names, newcomers int) (fresh, stays report.Contender, stop func()) {
	fresh.Name, stays.Name, stop = "cell", "cell", func() {}
	var first []string
	child, err := report.StartChild("swarm", swarmSpec{b.seed, b.swarmSize(), names}, &first)
	if err != nil {
		fresh.Err, stays.Err = err, err
		return fresh, stays, stop
	}
	cpu := func() (time.Duration, error) { return sum(child.CPU) }
	fresh.CPU, stays.CPU = cpu, cpu
	count := 0
	fresh.Op = func(ctx context.Context) (time.Duration, error) {
		count++
		return b.joiner(ctx, count, first)
	}
	root := filepath.Join(b.dir, "joined")
	n, err := nodeSpec{Root: root, Seed: b.seed, Index: 1000, Bootstrap: first}.build()
	if err != nil {
		stays.Err = err
		return fresh, stays, func() { _ = child.Close() }
	}
	leave := n.run()
	call := func(ctx context.Context, i int) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		_, err := n.node.Call(ctx, frame.Request{Target: target(b.seed, cellName(i), "echo"), Body: hello})
		return err
	}
	stays.Err = call(ctx, 0)
	next := newcomers
	stays.Op = func(ctx context.Context) (time.Duration, error) {
		next++
		begin := time.Now()
		err := call(ctx, next)
		return time.Since(begin), err
	}
	return fresh, stays, func() { leave(); _ = child.Close() }
}

// joiner joins a DHT by one address, calls a cell and returns how long the two
// took. It is made of a node's parts, since a node's files would be counted too.
func (b *bench) joiner(ctx context.Context, i int, first []string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	h, a, err := newAxon(key(b.seed, "joiner", i), loopback)
	if err != nil {
		return 0, err
	}
	defer func() { _ = a.Close(); _ = h.Close() }()
	begin := time.Now()
	k, err := kad.New(h, kad.Config{Network: network, Mode: kad.ModeServer, Bootstrap: first})
	if err != nil {
		return 0, err
	}
	defer k.Close()
	if err := k.Bootstrap(ctx); err != nil {
		return 0, err
	}
	for f, err := range k.Search(ctx, identity.Cell{Author: key(b.seed, "author", 0).Public(), Name: identity.Name(cellName(i))}) {
		if err != nil {
			return 0, err
		}
		_, err = a.Call(ctx, f.Lease.Node(), f.Lease.Addrs, frame.Request{Target: "echo", Body: hello})
		return time.Since(begin), err
	}
	return 0, fmt.Errorf("nobody serves %s", cellName(i))
}

// stockDHT is the same with stock hosts and the stock DHT.
func (b *bench) stockDHT(ctx context.Context, names, newcomers int) (fresh, stays report.Contender, stop func()) {
	const name = "kad-dht 0.42.2, libp2p 0.51.0"
	fresh.Name, stays.Name, stop = name, name, func() {}
	var first libp2pAddr
	child, err := report.StartChild("libp2p-dht", swarmSpec{b.seed, b.swarmSize(), names}, &first)
	if err != nil {
		fresh.Err, stays.Err = err, err
		return fresh, stays, stop
	}
	cpu := func() (time.Duration, error) { return sum(child.CPU) }
	fresh.CPU, stays.CPU = cpu, cpu
	count := 0
	fresh.Op = func(ctx context.Context) (time.Duration, error) {
		count++
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		h, err := newLibp2p(loopback[0])
		if err != nil {
			return 0, err
		}
		begin := time.Now()
		n, err := newStockNode(ctx, h, first)
		if err != nil {
			return 0, err
		}
		defer n.stop()
		err = n.call(ctx, cellName(count))
		return time.Since(begin), err
	}
	join, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	h, err := newLibp2p(loopback[0])
	if err != nil {
		stays.Err = err
		return fresh, stays, func() { _ = child.Close() }
	}
	n, err := newStockNode(join, h, first)
	if err != nil {
		stays.Err = err
		return fresh, stays, func() { _ = child.Close() }
	}
	stays.Err = n.call(join, cellName(0))
	next := newcomers
	stays.Op = func(ctx context.Context) (time.Duration, error) {
		next++
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		begin := time.Now()
		err := n.call(ctx, cellName(next))
		return time.Since(begin), err
	}
	return fresh, stays, func() { n.stop(); _ = child.Close() }
}
