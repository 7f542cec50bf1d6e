package pulse

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/sim"
	"cell.network/cell/internal/swim"
	"github.com/libp2p/go-libp2p/core/network"
)

// attacker is a node that says what it likes on one stream.
type attacker struct {
	t      *testing.T
	key    identity.Private
	stream network.Stream
	host   *host.Host
}

// attack opens a stream from the i-th machine to n.
func (w *world) attack(n *member, i int) *attacker {
	w.t.Helper()
	h := w.hostAt(i, i, new(atomic.Int64))
	w.t.Cleanup(func() { _ = h.Close() })
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer cancel()
	if err := h.Dial(ctx, n.key(), targetAt(n.i).Addrs); err != nil {
		w.t.Fatal(err)
	}
	id, _ := host.PeerID(n.key())
	s, err := h.Open(ctx, id, n.proto)
	if err != nil {
		w.t.Fatal(err)
	}
	return &attacker{w.t, testKey(i), s, h}
}

// row makes a row of the i-th key, which need not be the attacker's.
func (a *attacker) row(i int, sequence uint64, change func(*record.RowOffer)) []byte {
	return rowOf(a.t, i, sequence, time.Now(), change).Raw
}

func (a *attacker) say(m message) error {
	_ = a.stream.SetWriteDeadline(time.Now().Add(5 * time.Second))
	_, err := writeMessage(a.stream, m)
	return err
}

// stranger makes a row that of a node of no colony.
func stranger(o *record.RowOffer) { o.Member = nil }

func full(rows ...[]byte) (m message) {
	for _, r := range rows {
		m.Rows = append(m.Rows, fullNews{Row: r})
	}
	return m
}

// drain reads and forgets, and returns the rows that came when the stream ends.
func (a *attacker) drain() <-chan int {
	rows := make(chan int, 1)
	go func() {
		n := 0
		for {
			m, err := readMessage(a.stream)
			if err != nil {
				rows <- n
				return
			}
			n += len(m.Rows) + len(m.Splices)
		}
	}()
	return rows
}

func TestBadRowsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 30, Latency: sim.LAN})
		w.mesh(2, everybody)
		time.Sleep(3 * time.Second)
		victim := w.nodes[0]
		a := w.attack(victim, 10)
		came := a.drain()
		good := a.row(11, 1, nil)
		forged := bytes.Clone(good)
		forged[len(forged)-5] ^= 1
		foreign, err := record.SignRow(testKey(12), identity.Network("other").ID(), record.RowOffer{Issued: time.Now(), TTL: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		stolen := offerOf(13) // a membership of node 13
		stolen.Issued, stolen.TTL = time.Now(), 10*time.Second
		h := record.Header{Domain: record.DomainRow, Network: testNet.ID(), Issued: stolen.Issued, TTL: stolen.TTL}
		thief, err := record.Sign(testKey(14), h, []any{0, 0, 0, 0, 0, []any{}, stolen.Member})
		if err != nil {
			t.Fatal(err)
		}
		for reason, raw := range map[string][]byte{
			"signature": forged,
			"network":   foreign.Raw,
			"grant":     thief,
			"stale":     rowOf(t, 15, 1, time.Now().Add(-10*time.Minute), stranger).Raw,
			"clock":     rowOf(t, 16, 1, time.Now().Add(10*time.Minute), stranger).Raw,
			"malformed": make([]byte, 300),
			"size":      make([]byte, record.MaxRowSize+1),
		} {
			if err := a.say(full(a.row(10, 1, nil), raw)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
			if victim.count(reason) != 1 {
				t.Errorf("%s: refused %v", reason, victim.refused)
			}
		}
		if err := a.say(full(good)); err != nil { // the control
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		for i := 11; i <= 16; i++ {
			if known := victim.knows(testKey(i).Public()) >= 0; known != (i == 11) {
				t.Errorf("node %d is known: %v", i, known)
			}
		}
		// What is no message ends the stream.
		_, _ = a.stream.Write([]byte{0, 3, 0xff, 0xff, 0xff})
		if <-came; victim.count(ReasonMessage) != 1 {
			t.Errorf("refused %v", victim.refused)
		}
		w.wantAllKnown(3 * time.Second)
	})
}

// A row of a node that died, kept back and sent again later, changes nothing;
// nor does one of this node that it has not signed.
func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 31, Latency: sim.LAN})
		w.mesh(3, everybody)
		time.Sleep(5 * time.Second)
		victim, dead := w.nodes[0], w.nodes[1]
		older := dead.Own().Raw
		dead.say(func(o *record.RowOffer) { o.Capacity.Room++ })
		time.Sleep(2 * time.Second)
		last := dead.Own().Raw
		dead.kill()
		time.Sleep(record.MaxRowTTL + 10*time.Second)
		a := w.attack(victim, 10)
		a.drain()
		twin := rowOf(t, 0, 99, time.Now(), func(o *record.RowOffer) { o.Order.Incarnation = 1 << 60 }).Raw
		if err := a.say(full(a.row(10, 1, nil), older, last, twin)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if victim.knows(dead.key()) >= 0 {
			t.Error("a replay woke the dead")
		}
		if victim.count(ReasonOrder) != 1 || victim.count(ReasonTwin) != 1 {
			t.Errorf("refused %v", victim.refused)
		}
	})
}

// A stranger learns nothing.
func TestStrangersAreToldNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 32, Latency: sim.LAN})
		member := func(r record.Row) bool { return r.Member != nil && r.Member.Signer == colony.Public() }
		victim := w.add(0, nil, func(c *Config) { c.Wanted = member })
		friend := w.add(1, []Target{targetAt(0)}, func(c *Config) { c.Wanted = member })
		time.Sleep(3 * time.Second)
		if victim.knows(friend.key()) < 0 || friend.knows(victim.key()) < 0 {
			t.Error("two of a colony do not know each other")
		}
		for name, first := range map[string]func(a *attacker) message{
			"nothing":             func(*attacker) message { return message{All: true} },
			"his own row":         func(a *attacker) message { return full(a.row(10, 1, stranger)) },
			"the row of a member": func(a *attacker) message { return full(friend.Own().Raw) },
		} {
			a := w.attack(victim, 10)
			came := a.drain()
			if err := a.say(first(a)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if err := a.say(message{All: true, Holds: []holding{{Node: friend.self[:tagSize]}}}); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
			_ = a.host.Close()
			if n := <-came; n != 0 {
				t.Errorf("a stranger who says %s is told %d rows", name, n)
			}
			time.Sleep(time.Second)
		}
		silent := w.attack(victim, 11)
		began := time.Now()
		_, _ = silent.stream.Write([]byte{0}) // half a message
		if n := <-silent.drain(); n != 0 || time.Since(began) > greeting+time.Second {
			t.Errorf("a silent stranger stays for %v and is told %d rows", time.Since(began), n)
		}
		if victim.knows(testKey(10).Public()) >= 0 || len(victim.Links()) != 1 {
			t.Errorf("the stranger is known; %d links", len(victim.Links()))
		}
	})
}

// What becomes wanted is there at once, though nobody says it again.
func TestWantedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 40, Latency: sim.LAN})
		var open atomic.Bool
		victim := w.add(0, nil, func(c *Config) { c.Wanted = func(record.Row) bool { return open.Load() } })
		for i := range 3 {
			w.add(i+1, []Target{targetAt(0)}, nil)
		}
		time.Sleep(5 * time.Second)
		if n := len(victim.Rows()); n != 0 {
			t.Errorf("%d rows that nobody wants", n)
		}
		open.Store(true)
		time.Sleep(rethink + time.Second)
		if len(victim.Rows()) != 3 || w.nodes[1].knows(victim.key()) < 0 {
			t.Errorf("%d rows are known, %v there", len(victim.Rows()), w.nodes[1].knows(victim.key()))
		}
	})
}

// A neighbour who invents nodes fills his share of the table and no more, at a
// rate that costs little.
func TestFloodOfUnknownNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 33, Latency: sim.LAN})
		w.mesh(2, everybody)
		time.Sleep(3 * time.Second)
		victim := w.nodes[0]
		a := w.attack(victim, 10)
		a.drain()
		if err := a.say(full(a.row(10, 1, nil))); err != nil {
			t.Fatal(err)
		}
		var rows [][]byte // of two hundred nodes: signing is what takes time here
		for i := range 200 {
			rows = append(rows, a.row(1000+i, 1, nil))
		}
		said, before := 0, victim.rows
		for began := time.Now(); time.Since(began) < 5*time.Second; said += 20 {
			if a.say(full(rows[said%200:said%200+20]...)) != nil {
				break
			}
		}
		victim.mu.Lock()
		news, full := victim.rows-before, victim.refused[ReasonFull]
		victim.mu.Unlock()
		t.Logf("said %d, taken %d, refused as too many %d", said, news, full)
		if n := len(victim.Rows()); n > maxBrought+3 {
			t.Errorf("%d nodes are known", n)
		}
		if limit := readBurst + 10*readRate; full > limit || full == 0 {
			t.Errorf("%d rows were read in 5 s, want up to %d", full, limit)
		}
		late := w.add(5, []Target{targetAt(0)}, nil)
		time.Sleep(3 * time.Second)
		if victim.knows(late.key()) < 0 || w.nodes[1].knows(late.key()) < 0 || victim.knows(w.nodes[1].key()) > 3*time.Second {
			t.Error("honest nodes find no room")
		}
	})
}

// A neighbour who does not read is dropped, and nobody else notices.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 34, Latency: sim.LAN})
		w.mesh(2, everybody)
		time.Sleep(3 * time.Second)
		victim := w.nodes[0]
		a := w.attack(victim, 10)
		if err := a.say(full(a.row(10, 1, nil))); err != nil {
			t.Fatal(err)
		}
		seq := uint64(1)
		for began := time.Now(); victim.count(ReasonSlow) == 0; {
			if time.Since(began) > 3*time.Minute {
				t.Fatal("nobody minds")
			}
			if seq++; seq%20 == 0 {
				_ = a.say(full(a.row(10, seq, nil)))
			}
			victim.say(func(o *record.RowOffer) { // a row with nothing of the one before
				o.Cells = nil
				for i := range 20 {
					key := testKey(int(seq)*100 + i).Public()
					o.Cells = append(o.Cells, record.RowCell{Cell: identity.Cell{Author: key, Name: "noise"}, Code: true})
				}
			})
			time.Sleep(minGap)
			if age := w.nodes[1].knows(victim.key()); age > time.Second {
				t.Fatalf("another node knows a row %v old", age)
			}
		}
		time.Sleep(100 * time.Millisecond)
		if n := len(victim.Links()); n != 1 {
			t.Errorf("%d links are left", n)
		}
	})
}

// An equivocator, who signs two rows of one order, harms himself only.
func TestTwoRowsOfOneOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 35, Latency: sim.LAN})
		w.mesh(2, everybody)
		time.Sleep(3 * time.Second)
		var as []*attacker
		for i, n := range w.nodes {
			a := w.attack(n, 10+i)
			a.drain()
			as = append(as, a)
			if err := a.say(full(a.row(10+i, 1, nil))); err != nil {
				t.Fatal(err)
			}
		}
		sent := w.nodes[0].sent.Load() + w.nodes[1].sent.Load()
		for seq := range uint64(10) {
			for i, a := range as {
				raw := a.row(20, seq+1, func(o *record.RowOffer) { o.Capacity.Room = uint32(i) })
				if err := a.say(full(raw)); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(500 * time.Millisecond)
		}
		if n := w.nodes[0].sent.Load() + w.nodes[1].sent.Load() - sent; n > 60_000 {
			t.Errorf("%d bytes were sent about ten pairs of rows", n)
		}
		w.wantAllKnown(3 * time.Second)
	})
}

// However many knock, there is a limit, and targets still get in.
func TestTooManyLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 36, Latency: sim.LAN})
		victim := w.add(0, []Target{targetAt(1)}, nil)
		time.Sleep(time.Second)
		for i := range maxGuests + 5 {
			a := w.attack(victim, 100+i) // each with a row that is wanted
			a.drain()
			if err := a.say(full(a.row(100+i, 1, nil))); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if n := len(victim.Links()); n != maxGuests {
			t.Errorf("%d links, want %d", n, maxGuests)
		}
		friend := w.add(1, []Target{targetAt(0)}, nil)
		time.Sleep(3 * time.Second)
		if n := len(victim.Links()); n != maxGuests+1 || victim.knows(friend.key()) < 0 {
			t.Errorf("a target does not get in: %d links", n)
		}
		time.Sleep(silence + time.Second) // the knockers fall silent
		if n := len(victim.Links()); n != 1 {
			t.Errorf("%d links are left of silent peers", n)
		}
	})
}

// Strangers with whom no rows are exchanged make room for whoever comes, once
// they had the time to learn of others.
func TestStrangersMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 37, Latency: sim.LAN})
		victim := w.add(0, nil, nil)
		time.Sleep(time.Second)
		for i := range maxGuests {
			a := w.attack(victim, 100+i)
			a.drain()
			if err := a.say(message{nodes: [][]byte{nil}}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		friend := w.add(1, []Target{targetAt(0)}, nil)
		time.Sleep(2 * time.Second)
		if n := len(victim.Links()); n != maxGuests || victim.knows(friend.key()) >= 0 {
			t.Errorf("%d links, and one more got in before their time was over", n)
		}
		time.Sleep(greeting + maxWait/4)
		if n := len(victim.Links()); n != maxGuests || victim.knows(friend.key()) < 0 {
			t.Errorf("%d links, and a guest with a row does not get in", n)
		}
		for i := range maxGuests {
			a := w.attack(victim, 200+i)
			a.drain()
			_ = a.say(message{nodes: [][]byte{nil}})
		}
		time.Sleep(time.Second)
		if !slices.Contains(victim.Links(), friend.key()) || len(victim.Links()) != maxGuests {
			t.Error("strangers put out one with whom rows are exchanged")
		}
	})
}

// What is no message of swim ends the stream.
func TestJunkAboutNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 38, Latency: sim.LAN})
		w.mesh(3, everybody)
		time.Sleep(3 * time.Second)
		victim := w.nodes[0]
		for i, junk := range [][]byte{{0xff}, bytes.Repeat([]byte{0xff}, 100), make([]byte, swim.MaxMessage)} {
			a := w.attack(victim, 10+i)
			came := a.drain()
			if err := a.say(message{nodes: [][]byte{nil, junk}}); err != nil {
				t.Fatal(err)
			}
			<-came // the stream is over
			synctest.Wait()
			if victim.count(ReasonMember) != i+1 {
				t.Errorf("after %d messages of junk: refused %v", i+1, victim.refused)
			}
		}
		time.Sleep(10 * time.Second)
		w.wantNoDeath()
		w.wantAllKnown(0)
	})
}

// voice is an attacker's honest end of membership: it makes messages to abuse.
func (a *attacker) voice(to identity.Key, addrs [][]byte) [][]byte {
	d := swim.New(swim.Config{Self: a.key.Public(), Network: testNet.ID(), Sign: a.key.Sign, Rand: rand.New(rand.NewPCG(1, 2))})
	c, err := record.SignContact(a.key, testNet.ID(), record.ContactOffer{Addrs: addrs, Order: record.Order{Incarnation: 1, Sequence: 1}, Issued: time.Now()})
	if err != nil {
		a.t.Fatal(err)
	}
	d.Own(c, time.Now())
	d.Linked(to, time.Now())
	var all [][]byte
	for i := range 30 {
		for _, e := range d.Take(time.Now().Add(time.Duration(i) * 100 * time.Millisecond)).Send {
			all = append(all, e.Msg)
		}
	}
	return all
}

// A peer who says what an honest one says, as often as he can, costs little and
// makes nobody look dead.
func TestFloodAboutNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 39, Latency: sim.LAN})
		w.mesh(4, everybody)
		time.Sleep(3 * time.Second)
		victim := w.nodes[0]
		a := w.attack(victim, 10)
		a.drain()
		words := a.voice(victim.key(), targetAt(10).Addrs)
		if len(words) == 0 {
			t.Fatal("it has nothing to say")
		}
		before, said := victim.Sent(), 0
		for began := time.Now(); time.Since(began) < 10*time.Second; said++ {
			m := message{nodes: [][]byte{words[said%len(words)]}}
			for len(m.nodes) < 64 {
				m.nodes = append(m.nodes, words[(said+len(m.nodes))%len(words)])
			}
			if a.say(m) != nil {
				break
			}
		}
		t.Logf("%d messages of %d kinds; the victim said %d bytes meanwhile", 64*said, len(words), victim.Sent()-before)
		if n := victim.Sent() - before; n > 1<<20 {
			t.Errorf("the victim said %d bytes", n)
		}
		time.Sleep(10 * time.Second)
		for _, n := range w.nodes {
			for _, m := range w.nodes {
				if n != m && n.State(m.key()) != swim.Alive {
					t.Errorf("node %d takes node %d to be %v", n.i, m.i, n.State(m.key()))
				}
			}
		}
		w.wantAllKnown(0)
	})
}

// On a real machine.
func TestLoopback(t *testing.T) {
	open := func(i int, peers []Target, came chan<- record.Row) (*host.Host, *Pulse, func()) {
		h, err := host.New(host.Config{Key: testKey(i), Network: testNet, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
		if err != nil {
			t.Fatal(err)
		}
		p, err := New(h, Config{Network: testNet, Key: testKey(i), Incarnation: 1, Row: func() record.RowOffer { return record.RowOffer{} },
			Peers: func() []Target { return peers },
			OnRow: func(r record.Row) {
				select {
				case came <- r:
				default:
				}
			}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = p.Run(ctx) }()
		return h, p, func() {
			cancel()
			<-done
			_ = h.Close()
		}
	}
	first, second := make(chan record.Row, 16), make(chan record.Row, 16)
	h, a, stopA := open(1, nil, first)
	defer stopA()
	_, b, stopB := open(2, []Target{{Node: h.Key(), Addrs: h.LeaseAddrs(true)}}, second)
	want := func(came <-chan record.Row, from identity.Key, goodbye bool) {
		t.Helper()
		late := time.After(20 * time.Second)
		for {
			select {
			case r := <-came:
				if r.Signer == from && r.Goodbye() == goodbye {
					return
				}
			case <-late:
				t.Fatalf("no row of %s with goodbye %v", from.Short(), goodbye)
			}
		}
	}
	want(first, b.self, false)
	want(second, a.self, false)
	stopB()
	want(first, b.self, true)
	if err := a.Run(t.Context()); err == nil {
		t.Error("a pulse ran twice")
	}
}
