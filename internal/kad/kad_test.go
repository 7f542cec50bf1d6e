package kad

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/sim"
	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a simulated planet with nodes on it.
type world struct {
	t     *testing.T
	net   *sim.Network
	rng   *rand.Rand
	nodes []*member

	mu   sync.Mutex             // guards what follows
	loss map[netip.Addr]float64 // share of packets to an address that vanish
	dice *rand.Rand
}

// latency is that of the planet; a packet that is lost takes a day.
func (w *world) latency(from, to netip.Addr) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if share := w.loss[to]; share > 0 && w.dice.Float64() < share {
		return 24 * time.Hour
	}
	return sim.World(from, to)
}

// deaf makes nodes miss a share of the packets that are sent to them.
func (w *world) deaf(nodes []*member, share float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range nodes {
		w.loss[n.addr] = share
	}
}

type member struct {
	*Kad
	key  identity.Private
	host *host.Host
	addr netip.Addr
	dead bool
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Logf("seed %d", seed)
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, seed)), loss: make(map[netip.Addr]float64), dice: rand.New(rand.NewPCG(seed, 1))}
	w.net = sim.NewNetwork(sim.Config{Seed: seed, Latency: w.latency})
	t.Cleanup(func() {
		for _, n := range w.nodes {
			n.stop()
		}
		w.net.Close()
	})
	return w
}

// hostAt opens the host of the i-th machine.
func (w *world) hostAt(i int) *host.Host {
	w.t.Helper()
	h, err := host.New(host.Config{Key: testKey(i), Network: testNet, ListenPacket: w.net.Listen,
		Listen: []string{fmt.Sprintf("/ip4/%s/udp/4001/quic-v1", sim.Addr(i))}})
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// add starts the i-th machine.
func (w *world) add(i int, c Config) *member {
	w.t.Helper()
	h := w.hostAt(i)
	c.Network = testNet
	k, err := New(h, c)
	if err != nil {
		w.t.Fatal(err)
	}
	n := &member{Kad: k, key: testKey(i), host: h, addr: sim.Addr(i)}
	w.nodes = append(w.nodes, n)
	return n
}

func (n *member) stop() {
	if n.dead {
		return
	}
	n.dead = true
	if err := errors.Join(n.Close(), n.host.Close()); err != nil {
		panic(err)
	}
}

// kill cuts a machine's power.
func (w *world) kill(n *member) {
	w.net.Kill(n.addr)
	n.stop()
}

// seedAddr is the bootstrap address of the i-th machine.
func seedAddr(i int) string {
	return fmt.Sprintf("/ip4/%s/udp/4001/quic-v1/p2p/%s", sim.Addr(i), testPeer(i))
}

// seeded starts n machines whose routing tables are full from the start, as
// after a long life.
func (w *world) seeded(n int) {
	for i := range n {
		w.add(i, Config{still: true})
	}
	for _, a := range w.nodes {
		bucket := make(map[int]int)
		for _, j := range w.rng.Perm(n) {
			b := w.nodes[j]
			cpl := kb.CommonPrefixLen(kb.ConvertPeerID(a.host.ID()), kb.ConvertPeerID(b.host.ID()))
			if a == b || bucket[cpl] == 20 {
				continue
			}
			bucket[cpl]++
			a.host.Peerstore().AddAddrs(b.host.ID(), b.host.Addrs(), peerstore.PermanentAddrTTL)
			if _, err := a.dht.RoutingTable().TryAddPeer(b.host.ID(), true, false); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// membership tells nodes of each other, as gossip does.
func (w *world) membership(nodes ...*member) {
	for _, a := range nodes {
		for _, b := range nodes {
			if !a.dead && !b.dead {
				a.Known(b.key.Public(), b.host.LeaseAddrs(false), true, true)
			}
		}
	}
}

// alive returns a random machine that runs.
func (w *world) alive() *member {
	for {
		if n := w.nodes[w.rng.IntN(len(w.nodes))]; !n.dead {
			return n
		}
	}
}

// find collects a Find: the newest lease of every node, how long the first and
// all took, and the error.
func (n *member) find(cell identity.Cell) (got map[identity.Key]record.Lease, first, full time.Duration, err error) {
	got, start := make(map[identity.Key]record.Lease), time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for l, e := range n.Find(ctx, cell) {
		if err = e; e != nil {
			break
		}
		if len(got) == 0 {
			first = time.Since(start)
		}
		got[l.Node()] = l
		if l.Tombstone() {
			delete(got, l.Node())
		}
	}
	return got, first, time.Since(start), err
}

// put announces cell as served by n, or withdraws it with ttl 0.
func (w *world) put(n *member, cell identity.Cell, seq uint64, ttl time.Duration) int {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	holders, err := n.Put(ctx, lease(n.key, cell, seq, time.Now(), ttl))
	if err != nil {
		w.t.Errorf("%v", err)
	}
	return holders
}

func cellNo(i int) identity.Cell {
	return identity.Cell{Author: author.Public(), Name: identity.Name(fmt.Sprint("cell-", i))}
}

func (w *world) bootstrap(nodes ...*member) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, n := range nodes {
		if err := n.Bootstrap(ctx); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestThreeNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a := w.add(0, Config{})
		b, c := w.add(1, Config{Bootstrap: []string{seedAddr(0)}}), w.add(2, Config{Bootstrap: []string{seedAddr(0)}})
		w.bootstrap(b, c)
		time.Sleep(time.Second)

		if holders := w.put(b, greeter, 1, time.Minute); holders < 2 {
			t.Errorf("%d nodes hold the lease", holders)
		}
		for name, n := range map[string]*member{"the seed": a, "the owner": b, "a stranger": c} {
			got, first, _, err := n.find(greeter)
			if err != nil || len(got) != 1 || got[b.key.Public()].Cell != greeter {
				t.Errorf("%s found %v, %v", name, got, err)
			}
			if first > 500*time.Millisecond {
				t.Errorf("%s waited %v for the first lease", name, first)
			}
		}
		if got, _, _, err := c.find(cellNo(9)); err != nil || len(got) != 0 {
			t.Errorf("a cell that nobody serves: %v, %v", got, err)
		}

		w.put(b, greeter, 2, 0)
		for name, n := range map[string]*member{"the seed": a, "the owner": b, "a stranger": c} {
			if got, _, _, err := n.find(greeter); err != nil || len(got) != 0 {
				t.Errorf("after the withdrawal %s found %v, %v", name, got, err)
			}
			given := 0
			for l := range n.Find(t.Context(), greeter) {
				if given++; !l.Tombstone() || l.Node() != b.key.Public() || given > 1 {
					t.Errorf("after the withdrawal %s was given the lease %v of %v", name, l.Order, l.Node())
				}
			}
			if given == 0 {
				t.Errorf("%s was not told of the withdrawal", name)
			}
		}
		ctx := t.Context()
		if _, err := c.ask(ctx, peer.AddrInfo{ID: a.host.ID()}, request{Op: opGet, Key: make([]byte, 32)}); err != nil {
			t.Error(err)
		}
		old := lease(b.key, greeter, 1, time.Now(), time.Hour)
		key := greeter.Key(testNet.ID())
		ans, err := c.ask(ctx, peer.AddrInfo{ID: a.host.ID()}, request{Op: opPut, Key: key[:], Lease: old.Raw})
		if err != nil || ans.Code != codeRefused || ans.Reason != "order" {
			t.Errorf("replay of a withdrawn lease: %+v, %v", ans, err)
		}
		if a.Stats()["order"] != 1 {
			t.Errorf("the refusal is not counted: %v", a.Stats())
		}
	})
}

func TestNoPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		n := w.add(0, Config{Bootstrap: []string{seedAddr(1)}}) // nobody is there
		start := time.Now()
		if _, _, _, err := n.find(greeter); !errors.Is(err, ErrNoPeers) {
			t.Errorf("find: %v", err)
		}
		if _, err := n.Put(t.Context(), lease(n.key, greeter, 1, time.Now(), time.Minute)); !errors.Is(err, ErrNoPeers) {
			t.Errorf("put: %v", err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("took %v", took)
		}
		if got, _, _, err := n.find(greeter); len(got) != 1 || !errors.Is(err, ErrNoPeers) {
			t.Errorf("its own lease: %v, %v", got, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := n.Bootstrap(ctx); !errors.Is(err, ErrNoPeers) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("bootstrap: %v", err)
		}
	})
}

// A node that comes before its seed finds it when it comes, by a name that DNS
// at first does not answer for, and later without any seed from its own file.
func TestBootstrapAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "peers")
		w := newWorld(t, 1)
		var asked atomic.Int32
		resolve := func(ctx context.Context, _ ma.Multiaddr) ([]ma.Multiaddr, error) {
			if asked.Add(1) == 1 {
				<-ctx.Done() // DNS is down
				return nil, ctx.Err()
			}
			return []ma.Multiaddr{ma.StringCast(seedAddr(0))}, nil
		}
		start := time.Now()
		n := w.add(1, Config{Bootstrap: []string{"/dnsaddr/seed.example"}, Resolve: resolve, PeersFile: file})
		if took := time.Since(start); took > time.Second {
			t.Errorf("starting waited %v for DNS", took)
		}
		time.Sleep(10 * time.Minute)
		if n := asked.Load(); n < 8 || n > 30 {
			t.Errorf("asked DNS %d times in ten minutes", n)
		}
		w.add(0, Config{})
		start = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		if err := n.Bootstrap(ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > backoffEmpty*5/4+5*time.Second {
			t.Errorf("the seed was found after %v", took)
		}
		n.stop()
		n = w.add(1, Config{PeersFile: file})
		w.bootstrap(n)
		w.put(n, greeter, 1, time.Minute)
	})
}

// Twelve nodes join through one, and all find what any of them serves.
func TestJoin(t *testing.T) {
	if testing.Short() {
		t.Skip("a thousand connections")
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		for i := range 12 {
			w.add(i, Config{Bootstrap: []string{seedAddr(0)}})
		}
		w.bootstrap(w.nodes...)
		time.Sleep(5 * time.Second)
		for i, n := range w.nodes {
			if n.Size() < 8 {
				t.Errorf("node %d knows %d of 11 others", i, n.Size())
			}
		}
		if holders := w.put(w.nodes[7], greeter, 1, time.Minute); holders < 5 {
			t.Errorf("%d nodes hold the lease", holders)
		}
		time.Sleep(time.Second)
		if holders := len(w.holding(greeter, nil)); holders != 12 {
			t.Errorf("%d nodes hold the lease after a second", holders)
		}
		for i, n := range w.nodes {
			if got, _, _, err := n.find(greeter); err != nil || len(got) != 1 {
				t.Errorf("node %d found %v, %v", i, got, err)
			}
		}
	})
}

// On real sockets two nodes are a network.
func TestLoopback(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var nodes []*Kad
	var boot []string
	for i := range 2 {
		h, err := host.New(host.Config{Key: testKey(i), Network: testNet, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
		if err != nil {
			t.Fatal(err)
		}
		k, err := New(h, Config{Network: testNet, Bootstrap: boot})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := errors.Join(k.Close(), k.Close(), h.Close()); err != nil {
				t.Error(err)
			}
		})
		boot = append(boot, fmt.Sprintf("%s/p2p/%s", h.Addrs()[0], h.ID()))
		nodes = append(nodes, k)
	}
	for _, k := range nodes {
		if err := k.Bootstrap(ctx); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	g, err := record.SignGrant(author, testNet.ID(), "", []record.Subject{{Kind: record.SubjectAny}}, now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	l, err := record.SignLease(testKey(0), testNet.ID(), record.Offer{Cell: greeter, State: record.StateAlive, Grant: g.Raw,
		Addrs: [][]byte{addr("/ip4/127.0.0.1/udp/9/quic-v1")}, Issued: now, TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if holders, err := nodes[0].Put(ctx, l); err != nil || holders != 2 {
		t.Errorf("%d nodes hold the lease, %v", holders, err)
	}
	for got, err := range nodes[1].Find(ctx, greeter) {
		if err != nil || got.Node() != testKey(0).Public() {
			t.Errorf("found %v, %v", got, err)
		}
		return
	}
	t.Error("found nothing")
}
