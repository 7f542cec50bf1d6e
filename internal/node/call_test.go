package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/axon"
	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/mesh"
	"cell.network/cell/internal/pulse"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/sim"
)

const lab identity.Network = "lab"

var worker = identity.Cell{Author: ring(9).Author.Public(), Name: "worker"}

// stage is a node of which only what calls is there, and other nodes of which
// only what answers is. It lives in a bubble.
type stage struct {
	*Node
	t      *testing.T
	net    *sim.Network
	self   *performer // this node's replica, if it has one
	others []*performer
}

// performer serves the worker, one call after the other.
type performer struct {
	key      identity.Private
	host     *host.Host
	axon     *axon.Axon
	begun    atomic.Int64
	executed atomic.Int64
	refuse   atomic.Pointer[frame.Error]
	turn     chan struct{} // held for the time of one call's work
	work     time.Duration
}

func newPerformer(work time.Duration) *performer {
	return &performer{turn: make(chan struct{}, 1), work: work}
}

func (p *performer) serve(ctx context.Context, _ frame.Request) (frame.Response, error) {
	p.begun.Add(1)
	if e := p.refuse.Load(); e != nil {
		return frame.Response{}, e
	}
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	time.Sleep(p.work)
	p.executed.Add(1)
	return frame.Response{Body: []byte("done")}, nil
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{Node: bare(t), t: t, net: sim.NewNetwork(sim.Config{Seed: 1, Latency: sim.LAN})}
	t.Cleanup(s.net.Close)
	k := ring(100).Node
	h := s.openHost(k, 0)
	s.axon = axon.New(h, lab, axon.Config{})
	s.mesh = mesh.New(mesh.Config{Network: lab.ID(), Key: k})
	var err error
	if s.pulse, err = pulse.New(h, pulse.Config{Network: lab, Key: k, Row: s.row}); err != nil {
		t.Fatal(err)
	}
	s.quit = make(chan struct{}) // nobody decides here, so nothing is waited for
	close(s.quit)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = s.mesh.Run(ctx) })
	t.Cleanup(func() { _ = s.axon.Close(); _ = h.Close(); stop(); running.Wait(); s.wg.Wait() })
	return s
}

func (s *stage) openHost(k identity.Private, i int) *host.Host {
	s.t.Helper()
	h, err := host.New(host.Config{
		Key: k, Network: lab, ListenPacket: s.net.Listen, Listen: []string{fmt.Sprintf("/ip4/%s/udp/4001/quic-v1", sim.Addr(i))},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

// runHere gives the node a replica.
func (s *stage) runHere(work time.Duration) {
	s.self = newPerformer(work)
	ours, theirs := sim.Pipe()
	inner := frame.NewConn(theirs, frame.Config{Handler: s.self.serve})
	r := &replica{id: "worker-1", state: ReplicaAlive, trunk: frame.NewConn(ours, frame.Config{})}
	s.services[worker] = &service{cell: worker, replicas: []*replica{r}}
	s.t.Cleanup(func() { _ = r.trunk.Close(); _ = inner.Close() })
}

// join makes another node that serves the worker, and makes it known.
func (s *stage) join(work time.Duration) *performer {
	s.t.Helper()
	i := len(s.others) + 1
	p := newPerformer(work)
	p.key = ring(byte(100 + i)).Node
	p.host = s.openHost(p.key, i)
	p.axon = axon.New(p.host, lab, axon.Config{Handler: func(ctx context.Context, _ identity.Key, r frame.Request) (frame.Response, error) {
		return p.serve(ctx, r)
	}})
	s.t.Cleanup(func() { _ = p.axon.Close(); _ = p.host.Close() })
	s.others = append(s.others, p)
	s.announce(p, 1, record.StateAlive)
	return p
}

// announce lets the node hear a lease of p.
func (s *stage) announce(p *performer, sequence uint64, state record.State) {
	s.t.Helper()
	g, err := record.SignGrant(ring(9).Author, lab.ID(), "", []record.Subject{{Kind: record.SubjectAny}}, time.Now().Truncate(time.Hour), 300*24*time.Hour)
	if err != nil {
		s.t.Fatal(err)
	}
	l, err := record.SignLease(p.key, lab.ID(), record.Offer{
		Cell: worker, State: state, Addrs: p.host.LeaseAddrs(true), Grant: g.Raw,
		Order: record.Order{Incarnation: 1, Sequence: sequence}, Issued: time.Now(), TTL: time.Hour,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.mesh.Heard(l)
}

func (s *stage) call(ctx context.Context) error {
	_, err := s.Node.Call(ctx, frame.Request{Target: worker.String() + "/do"})
	return err
}

// load lets callers call for some time, and returns how many calls began here
// and at each other node. All must succeed, each executed once.
func (s *stage) load(callers int, d time.Duration) []int {
	s.t.Helper()
	all := s.others
	if s.self != nil {
		all = append([]*performer{s.self}, all...)
	}
	var before, executed int64
	counts := make([]int, len(all))
	for i, p := range all {
		counts[i] = -int(p.begun.Load())
		before += p.executed.Load()
	}
	until := time.Now().Add(d)
	var calls atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for time.Now().Before(until) {
				if err := s.call(s.t.Context()); err != nil {
					s.t.Errorf("call: %v", err)
					return
				}
				calls.Add(1)
			}
		})
	}
	wg.Wait()
	for i, p := range all {
		counts[i] += int(p.begun.Load())
		executed += p.executed.Load()
	}
	if executed-before != calls.Load() {
		s.t.Errorf("%d calls, executed %d times", calls.Load(), executed-before)
	}
	return counts
}

func share(counts []int, i int) float64 {
	sum := 0
	for _, n := range counts {
		sum += n
	}
	return 100 * float64(counts[i]) / float64(sum)
}

func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// TestReplicasElsewhereTakeLoad has a replica here from the start, and two on
// other nodes later.
func TestReplicasElsewhereTakeLoad(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t)
		s.runHere(5 * time.Millisecond)
		s.load(8, time.Second)
		s.join(5 * time.Millisecond)
		s.join(5 * time.Millisecond)
		counts := s.load(8, time.Second)
		t.Logf("the first second: %v", counts)
		for i := range counts {
			if x := share(counts, i); x < 20 || x > 50 {
				t.Errorf("the first second: %v, want nearly a third each", counts)
			}
		}
		counts = s.load(8, 5*time.Second)
		for i := range counts {
			if x := share(counts, i); x < 28 || x > 38 {
				t.Errorf("then: %v, want a third each", counts)
			}
		}
		s.load(1, 30*time.Second)
		if counts = s.load(1, 30*time.Second); share(counts, 0) < 99 {
			t.Errorf("a lone caller: %v, want all here", counts)
		}
	})
}

// TestCallsSpreadWithoutAReplicaHere is about a node that serves nothing.
func TestCallsSpreadWithoutAReplicaHere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t)
		for range 3 {
			s.join(5 * time.Millisecond)
		}
		s.load(8, time.Second)
		counts := s.load(8, 5*time.Second)
		for i := range counts {
			if x := share(counts, i); x < 28 || x > 38 {
				t.Errorf("%v, want a third each", counts)
			}
		}
	})
}

// TestReplicaIsBusyForOthers: what other nodes ask of the replica here counts
// for the calls of this node.
func TestReplicaIsBusyForOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t)
		s.runHere(5 * time.Millisecond)
		s.join(5 * time.Millisecond)
		s.load(8, time.Second)
		guests, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for guests.Err() == nil {
					_, _ = s.serveRemote(t.Context(), identity.Key{}, frame.Request{Target: worker.String() + "/do"})
				}
			})
		}
		before := s.others[0].begun.Load()
		var calls int64
		for until := time.Now().Add(time.Second); time.Now().Before(until); calls++ {
			if err := s.call(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		wg.Wait()
		if there := s.others[0].begun.Load() - before; there < calls*9/10 {
			t.Errorf("%d of %d calls went to the other node", there, calls)
		}
	})
}

// TestRefusedCallsGoElsewhere lets one of three refuse in every way there is;
// load sees to it that every call succeeds and is executed once.
func TestRefusedCallsGoElsewhere(t *testing.T) {
	for _, code := range []frame.Code{frame.Overloaded, frame.Draining, frame.NoReplica} {
		for _, who := range []string{"here", "there"} {
			t.Run(code.String()+" "+who, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := newStage(t)
					s.runHere(5 * time.Millisecond)
					s.join(5 * time.Millisecond)
					bad, at := s.join(5*time.Millisecond), 2
					if who == "here" {
						bad, at = s.self, 0
					}
					s.load(8, time.Second)
					bad.refuse.Store(&frame.Error{Code: code, Message: "not now"})
					if counts := s.load(8, 2*time.Second); share(counts, at) > 3 {
						t.Errorf("%v, want hardly any at the one that refuses", counts)
					}
				})
			})
		}
	}
}

// TestNodeThatIsGone is known and does not answer: no request waits for it
// where another place can take it.
func TestNodeThatIsGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t)
		s.runHere(5 * time.Millisecond)
		s.join(5 * time.Millisecond)
		gone := s.join(5 * time.Millisecond)
		s.net.Kill(sim.Addr(2))
		for range 8 {
			begin := time.Now()
			s.load(8, time.Second)
			if took := time.Since(begin); took > 1100*time.Millisecond {
				t.Errorf("a call took %v", took-time.Second)
			}
		}
		if n := gone.begun.Load(); n != 0 {
			t.Errorf("%d calls reached it", n)
		}
	})
}

func TestDrainingNodeComesLast(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t)
		s.runHere(5 * time.Millisecond)
		p := s.join(5 * time.Millisecond)
		s.load(8, time.Second)
		s.announce(p, 2, record.StateDraining)
		if counts := s.load(8, time.Second); counts[1] != 0 {
			t.Errorf("%v, want none at the one that drains", counts)
		}
		s.self.refuse.Store(&frame.Error{Code: frame.Overloaded})
		if counts := s.load(8, time.Second); counts[1] == 0 {
			t.Errorf("%v: it was not even the last resort", counts)
		}
	})
}

// TestFailuresTell checks what a caller learns when nobody takes the request.
func TestFailuresTell(t *testing.T) {
	busy, full := &frame.Error{Code: frame.Overloaded, Message: "busy"}, &frame.Error{Code: frame.NoReplica, Message: "not mine"}
	for _, c := range []struct {
		name  string
		here  *frame.Error // nil: no replica here
		there []*frame.Error
		code  frame.Code
		text  []string
	}{
		{"nobody", nil, nil, frame.NoReplica, []string{"nobody found who serves worker", "lan: not in use"}},
		{"others refuse", nil, []*frame.Error{full, full}, frame.NoReplica, []string{"no replica of worker", "(cache): not mine; "}},
		{"one is busy", nil, []*frame.Error{full, busy}, frame.Overloaded, []string{"busy"}},
		{"here busy", busy, []*frame.Error{full}, frame.Overloaded, []string{"busy"}},
		{"all drain", &frame.Error{Code: frame.Draining, Message: "leaving"}, nil, frame.Draining, []string{"leaving"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newStage(t)
				var all []*performer
				for _, e := range c.there {
					p := s.join(0)
					p.refuse.Store(e)
					all = append(all, p)
				}
				if c.here != nil {
					s.runHere(0)
					s.self.refuse.Store(c.here)
					s.leaving = true // nothing is held for a replica to come
					all = append(all, s.self)
				}
				err := s.call(t.Context())
				var e *frame.Error
				if !errors.As(err, &e) || e.Code != c.code {
					t.Fatalf("%v, want %s", err, c.code)
				}
				for _, part := range c.text {
					if !strings.Contains(e.Message, part) {
						t.Errorf("%q does not say %q", e.Message, part)
					}
				}
				if c.code == frame.NoReplica && !strings.Contains(e.Hint, "cell lookup worker") {
					t.Errorf("hint %q", e.Hint)
				}
				for i, p := range all {
					if n := p.begun.Load(); n != 1 {
						t.Errorf("place %d was asked %d times, want once", i, n)
					}
				}
				if c.name == "others refuse" && len(s.mesh.Cached(worker)) != 0 {
					t.Error("those who do not serve the cell are not forgotten")
				}
			})
		})
	}
}

// TestMovedNodeIsTriedAgain: a request that fails at an old address finds the
// new one, once.
func TestMovedNodeIsTriedAgain(t *testing.T) {
	var x tries
	ep := mesh.Endpoint{Node: ring(1).Node.Public(), Tier: mesh.TierCache}
	refused := func(sequence uint64) (skips bool) {
		ep.Lease.Order.Sequence = sequence
		if x.asked(&ep) {
			return true
		}
		x.refused(option{place: place{node: ep.Node}, via: &ep}, &frame.Error{Code: frame.NotSent})
		return false
	}
	for i, want := range []struct {
		sequence uint64
		skips    bool
	}{{1, false}, {1, true}, {2, false}, {2, true}, {3, true}} {
		if got := refused(want.sequence); got != want.skips {
			t.Errorf("step %d: skipped %v", i, got)
		}
	}
	other := mesh.Endpoint{Node: ring(2).Node.Public()}
	if x.asked(&other) {
		t.Error("a node that was not tried is skipped")
	}
}

// BenchmarkCall is a call to the one replica here, no other being known: what
// a node adds is what is above BenchmarkTrunk.
func BenchmarkCall(b *testing.B) {
	n, _ := benched(b)
	req := frame.Request{Target: worker.String() + "/do", Body: make([]byte, 64)}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := n.Call(context.Background(), req); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkTrunk(b *testing.B) {
	_, r := benched(b)
	req := frame.Request{Target: worker.String() + "/do", Body: make([]byte, 64)}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := r.call(context.Background(), req); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func benched(b *testing.B) (*Node, *replica) {
	b.Helper()
	ours, theirs := sim.Pipe()
	inner := frame.NewConn(theirs, frame.Config{Handler: func(_ context.Context, r frame.Request) (frame.Response, error) {
		return frame.Response{Body: r.Body}, nil
	}})
	r := &replica{id: "worker-1", state: ReplicaAlive, trunk: frame.NewConn(ours, frame.Config{})}
	b.Cleanup(func() { _ = r.trunk.Close(); _ = inner.Close() })
	n := &Node{
		services: map[identity.Cell]*service{worker: {cell: worker, replicas: []*replica{r}}},
		mesh:     mesh.New(mesh.Config{Network: lab.ID(), Key: ring(100).Node}),
	}
	return n, r
}
