package pulse

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/sim"
	"cell.network/cell/internal/swim"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testNet identity.Network = "test"

var (
	author = identity.PrivateFromSeed([32]byte{1, 'a'})
	colony = identity.PrivateFromSeed([32]byte{2, 'c'})
	hello  = identity.Cell{Author: author.Public(), Name: "greeter"}
	epoch  = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
)

func testKey(i int) identity.Private {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(i))
	copy(seed[8:], "pulse")
	return identity.PrivateFromSeed(seed)
}

// world is a simulated network with nodes on it; it lives in a bubble.
type world struct {
	t     *testing.T
	net   *sim.Network
	seed  uint64
	nodes []*member
}

// member is a node: its row, its peers and what it was told.
type member struct {
	*Pulse
	w      *world
	i      int
	host   *host.Host
	sent   atomic.Int64 // bytes of UDP
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex // guards what follows
	offer   record.RowOffer
	peers   []Target
	at      int // machine
	came    map[identity.Key]map[record.Order]time.Time
	rows    int
	refused map[string]int
	changes []news
}

// news is a change of a member, and when it was told.
type news struct {
	at time.Time
	swim.Change
}

func newWorld(t *testing.T, c sim.Config) *world {
	t.Logf("seed %d", c.Seed)
	w := &world{t: t, net: sim.NewNetwork(c), seed: c.Seed}
	t.Cleanup(func() {
		for _, n := range w.nodes {
			n.stop()
		}
		w.net.Close()
	})
	return w
}

// counted counts the bytes that a socket sends.
type counted struct {
	net.PacketConn
	n *atomic.Int64
}

func (c counted) WriteTo(b []byte, a net.Addr) (int, error) {
	c.n.Add(int64(len(b)))
	return c.PacketConn.WriteTo(b, a)
}

// offerOf is the row of the i-th node: a replica or two under some load.
func offerOf(i int) record.RowOffer {
	m, err := record.SignMember(colony, testNet.ID(), testKey(i).Public(), epoch, 24*time.Hour)
	if err != nil {
		panic(err)
	}
	o := record.RowOffer{Member: m.Raw, Capacity: record.Capacity{CPU: 8000, CPUFree: 6000, Memory: 16384, MemoryFree: 8000, Room: 6}}
	c := record.RowCell{Cell: hello, Code: true, Epoch: 1, Seq: 3}
	for id := range uint64(1 + i%2) {
		c.Replicas = append(c.Replicas, record.RowReplica{ID: id + 1, Generation: uint64(i), State: record.ReplicaLive,
			Offered: 100_000, Inflight: 4000, P99: 20_000, CPU: 400, Memory: 30})
	}
	o.Cells = []record.RowCell{c}
	return o
}

func (w *world) hostAt(i, at int, sent *atomic.Int64) *host.Host {
	w.t.Helper()
	h, err := host.New(host.Config{Key: testKey(i), Network: testNet, Listen: []string{fmt.Sprintf("/ip4/%s/udp/4001/quic-v1", sim.Addr(at))},
		ListenPacket: func(network string, a *net.UDPAddr) (net.PacketConn, error) {
			c, err := w.net.Listen(network, a)
			return counted{c, sent}, err
		}})
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// add starts the i-th node with the peers that it knows.
func (w *world) add(i int, peers []Target, change func(*Config)) *member {
	w.t.Helper()
	return w.addAt(i, i, peers, change)
}

// addAt starts it on another machine than the i-th.
func (w *world) addAt(i, at int, peers []Target, change func(*Config)) *member {
	w.t.Helper()
	n := &member{w: w, i: i, at: at, offer: offerOf(i), peers: peers, came: make(map[identity.Key]map[record.Order]time.Time),
		refused: make(map[string]int), done: make(chan struct{})}
	n.host = w.hostAt(i, at, &n.sent)
	n.start(change)
	w.nodes = append(w.nodes, n)
	return n
}

func (n *member) start(change func(*Config)) {
	c := Config{Network: testNet, Key: testKey(n.i), Incarnation: uint64(time.Now().UnixMilli()), Seed: n.w.seed + uint64(n.i) + 1,
		Row:   func() record.RowOffer { n.mu.Lock(); defer n.mu.Unlock(); return n.offer },
		Peers: func() []Target { n.mu.Lock(); defer n.mu.Unlock(); return n.peers },
		Contact: func() record.ContactOffer {
			n.mu.Lock()
			defer n.mu.Unlock()
			return record.ContactOffer{Addrs: targetAt(n.at).Addrs, Server: true}
		},
		OnMember: func(c swim.Change) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.changes = append(n.changes, news{time.Now(), c})
		},
		OnRow: func(r record.Row) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.rows++
			if n.came[r.Signer] == nil {
				n.came[r.Signer] = make(map[record.Order]time.Time)
			}
			n.came[r.Signer][r.Order] = time.Now()
		},
		OnRefused: func(_ identity.Key, reason string) { n.mu.Lock(); defer n.mu.Unlock(); n.refused[reason]++ },
	}
	if change != nil {
		change(&c)
	}
	p, err := New(n.host, c)
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.Pulse = p
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() {
		defer close(n.done)
		if err := p.Run(ctx); err != nil {
			panic(err)
		}
	}()
}

// stop ends a node as it should.
func (n *member) stop() {
	n.cancel()
	<-n.done
	_ = n.host.Close()
}

// kill cuts a node's power.
func (n *member) kill() {
	n.w.net.Kill(sim.Addr(n.at))
	n.stop()
}

func (n *member) key() identity.Key { return testKey(n.i).Public() }

// say changes the node's row.
func (n *member) say(change func(*record.RowOffer)) {
	n.mu.Lock()
	o := n.offer
	o.Cells = slices.Clone(o.Cells)
	for i := range o.Cells {
		o.Cells[i].Replicas = slices.Clone(o.Cells[i].Replicas)
	}
	change(&o)
	n.offer = o
	n.mu.Unlock()
	n.Changed()
}

// knows returns the age of what a node knows of another one, or -1.
func (n *member) knows(k identity.Key) time.Duration {
	for _, s := range n.Rows() {
		if s.Row.Signer == k {
			return s.Age
		}
	}
	return -1
}

func (n *member) count(reason string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.refused[reason]
}

func targetAt(i int) Target {
	ip := sim.Addr(i).As4()
	return Target{Node: testKey(i).Public(), Addrs: [][]byte{{4, ip[0], ip[1], ip[2], ip[3], 0x91, 2, 4001 >> 8, 4001 & 255, 0xcd, 3}}}
}

// mesh starts n nodes, each of which knows those that f says.
func (w *world) mesh(n int, f func(i, j int) bool) {
	for i := range n {
		var peers []Target
		for j := range n {
			if i != j && f(i, j) {
				peers = append(peers, targetAt(j))
			}
		}
		w.add(i, peers, nil)
	}
}

func everybody(int, int) bool { return true }

// wantAllKnown fails where a node knows too little, or too old a row.
func (w *world) wantAllKnown(oldest time.Duration) {
	w.t.Helper()
	for _, a := range w.nodes {
		for _, b := range w.nodes {
			if age := a.knows(b.key()); a != b && (age < 0 || age > oldest) {
				w.t.Errorf("node %d knows a row of node %d that is %v old, want up to %v", a.i, b.i, age, oldest)
			}
		}
	}
}

func TestRowsReachEverybody(t *testing.T) {
	for name, f := range map[string]func(i, j int) bool{
		"all know all":         everybody,
		"one knows the others": func(i, _ int) bool { return i == 0 },
		"a chain":              func(i, j int) bool { return j == i+1 },
		"a ring":               func(i, j int) bool { return j == (i+1)%6 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, sim.Config{Seed: 1})
				w.mesh(6, f)
				time.Sleep(8 * time.Second)
				w.wantAllKnown(4 * time.Second)
				for _, n := range w.nodes {
					if n.count("signature") > 0 || n.count(ReasonSplice) > 0 {
						t.Errorf("node %d refused %v", n.i, n.refused)
					}
				}
			})
		})
	}
}

func TestOneStreamBetweenTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 2})
		w.mesh(5, everybody)
		time.Sleep(20 * time.Second)
		for _, n := range w.nodes {
			if got := len(n.Links()); got != 4 {
				t.Errorf("node %d has %d links", n.i, got)
			}
			streams := 0
			for _, c := range n.host.Network().Conns() {
				for _, s := range c.GetStreams() {
					if s.Protocol() == n.proto {
						streams++
					}
				}
			}
			if streams != 4 {
				t.Errorf("node %d has %d streams", n.i, streams)
			}
		}
	})
}

// A change is told at once, noise with the next refresh.
func TestChangeAndNoise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 3, Latency: sim.LAN})
		w.mesh(2, everybody)
		time.Sleep(5*time.Second + 100*time.Millisecond)
		a, b := w.nodes[0], w.nodes[1]
		offered := func() uint32 {
			for _, s := range b.Rows() {
				return s.Row.Cells[0].Replicas[0].Offered
			}
			return 0
		}
		a.say(func(o *record.RowOffer) { o.Cells[0].Replicas[0].Offered = 115_000 })
		time.Sleep(minGap + 10*time.Millisecond)
		if got := offered(); got != 115_000 {
			t.Errorf("60 ms after a change by 15 %%: %d", got)
		}
		before := a.Own().Order
		a.say(func(o *record.RowOffer) { o.Cells[0].Replicas[0].Offered = 120_000 })
		time.Sleep(15 * time.Second)
		if got := offered(); got != 115_000 || a.Own().Order != before {
			t.Errorf("a change by 4 %% was told at once: %d", got)
		}
		time.Sleep(11 * time.Second)
		if got := offered(); got != 120_000 {
			t.Errorf("a change by 4 %% was not told with the refresh: %d", got)
		}
		// A storm of changes does not make a storm of rows.
		before = a.Own().Order
		for i := range uint32(100) {
			a.say(func(o *record.RowOffer) { o.Cells[0].Replicas[0].Offered = 1000 << (i % 16) })
			time.Sleep(2 * time.Millisecond)
		}
		if rows := a.Own().Order.Sequence - before.Sequence; rows < 2 || rows > 5 {
			t.Errorf("100 changes in 200 ms made %d rows", rows)
		}
	})
}

// Who stops a cell waits for it: an operator's word is not held until the
// refresh, and arrives as it was signed.
func TestPopulationIsToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 4, Latency: sim.LAN})
		w.mesh(3, everybody)
		time.Sleep(5*time.Second + 100*time.Millisecond)
		for i, stopped := range []bool{false, true} {
			p, err := record.SignPopulation(colony, testNet.ID(), record.PopulationOffer{Cell: hello, Min: 2, Max: 9, Stopped: stopped,
				Order: record.Order{Incarnation: 1, Sequence: uint64(i)}, Issued: time.Now(), TTL: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			w.nodes[0].say(func(o *record.RowOffer) { o.Cells[0].Population = p.Raw })
			time.Sleep(minGap + 10*time.Millisecond)
			for _, n := range w.nodes[1:] {
				for _, s := range n.Rows() {
					if s.Row.Node() == w.nodes[0].Own().Node() && !bytes.Equal(s.Row.Cells[0].Population, p.Raw) {
						t.Errorf("stopped %v: node %d holds %x", stopped, n.i, s.Row.Cells[0].Population)
					}
				}
			}
		}
	})
}

func TestRefreshWithoutChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 4})
		w.mesh(3, everybody)
		time.Sleep(5 * time.Second)
		before := w.nodes[0].Own().Order.Sequence
		time.Sleep(200 * time.Second)
		if rows := w.nodes[0].Own().Order.Sequence - before; rows != 8 {
			t.Errorf("%d rows in 200 s, want one every 25 s", rows)
		}
		w.wantAllKnown(0)
	})
}

// What does not find room in one row is told by the next ones, soon.
func TestLongRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 4, Latency: sim.LAN})
		turn := 0
		var words []record.RowCell
		for i := range 12 {
			cell := identity.Cell{Author: author.Public(), Name: identity.Name(fmt.Sprintf("service-%02d", i))}
			p, err := record.SignPopulation(colony, testNet.ID(), record.PopulationOffer{Cell: cell, Stopped: true,
				Order: record.Order{Incarnation: 1, Sequence: 1}, Issued: time.Now(), TTL: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			words = append(words, record.RowCell{Cell: cell, Code: true, Population: p.Raw})
		}
		told := map[identity.Name]bool{}
		w.add(0, []Target{targetAt(1)}, func(c *Config) {
			c.Row = func() record.RowOffer {
				turn++
				k := turn % len(words)
				return record.RowOffer{Cells: append(slices.Clone(words[k:]), words[:k]...)}
			}
		})
		w.add(1, nil, func(c *Config) {
			c.OnRow = func(r record.Row) {
				for _, c := range r.Cells {
					if len(c.Population) > 0 {
						told[c.Cell.Name] = true
					}
				}
			}
		})
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if len(told) < len(words) {
			t.Errorf("of %d stopped cells, another node heard of %d within 7 s", len(words), len(told))
		}
	})
}

func TestGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 6, Loss: 0.1})
		w.mesh(4, func(i, j int) bool { return j == i+1 }) // the last one hears through the others
		time.Sleep(8 * time.Second)
		w.wantAllKnown(4 * time.Second)
		gone := w.nodes[0]
		began := time.Now()
		gone.stop()
		if took := time.Since(began); took > bye+100*time.Millisecond {
			t.Errorf("a goodbye took %v", took)
		}
		time.Sleep(2 * time.Second)
		for _, n := range w.nodes[1:] {
			if age := n.knows(gone.key()); age >= 0 {
				t.Errorf("node %d still knows the node that said goodbye", n.i)
			}
		}
		w.nodes = w.nodes[1:]
		w.wantAllKnown(5 * time.Second)
	})
}

// A node that starts again outranks its former life, also after a goodbye.
func TestRestart(t *testing.T) {
	for _, polite := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, sim.Config{Seed: 7})
			w.mesh(3, everybody)
			time.Sleep(5 * time.Second)
			old := w.nodes[0]
			if polite {
				began := time.Now()
				if old.stop(); time.Since(began) > 500*time.Millisecond {
					t.Errorf("a goodbye that everybody heard took %v", time.Since(began))
				}
			} else {
				old.kill()
			}
			w.nodes = w.nodes[1:]
			time.Sleep(time.Second)
			w.add(0, []Target{targetAt(1), targetAt(2)}, nil)
			time.Sleep(5 * time.Second)
			w.wantAllKnown(3 * time.Second)
		})
	}
}

// A network in which two nodes cannot talk to each other still joins them.
func TestTwoThatCannotMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 9})
		w.mesh(5, func(i, j int) bool { return i+j != 1 }) // 0 and 1 never meet
		time.Sleep(8 * time.Second)
		w.wantAllKnown(2500 * time.Millisecond)
		a, b := w.nodes[0], w.nodes[1]
		began := time.Now()
		a.say(func(o *record.RowOffer) { o.Capacity.Room = 0 })
		time.Sleep(minGap)
		order := a.Own().Order
		time.Sleep(time.Second)
		b.mu.Lock()
		defer b.mu.Unlock()
		if at, ok := b.came[a.key()][order]; !ok || at.Sub(began) > 700*time.Millisecond {
			t.Errorf("the change came after %v (%v)", at.Sub(began), ok)
		}
	})
}
