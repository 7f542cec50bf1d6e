package node

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/identity"
)

// arena plays calls against a balancer in virtual time: closed loops of callers
// before servers that work on one call after the other.
type arena struct {
	t       *testing.T
	b       balancer
	cell    identity.Cell
	now     time.Time
	servers []*server
	options []option
	queue   []event // by time
	rand    *rand.Rand
	greets  int
}

// server is a place with one processor.
type server struct {
	trip    time.Duration // to it and back
	service func() time.Duration
	wide    bool  // answers all at once, as one that waits for others does
	refuse  error // all requests
	absent  bool  // no ping is answered
	free    time.Time
	begun   int // calls
	busy    int // calls in flight
	most    int // of them at a time
	total   time.Duration
}

type event struct {
	at time.Time
	do func()
}

func newArena(t *testing.T, servers ...*server) *arena {
	a := &arena{t: t, cell: asker, now: time.Unix(1e9, 0), rand: rand.New(rand.NewPCG(1, 2))}
	for _, s := range servers {
		a.add(s)
	}
	return a
}

// add makes a server known. One without a trip is a replica on this node.
func (a *arena) add(s *server) {
	o := option{place: place{node: identity.Key{byte(len(a.servers) + 1)}}}
	if s.trip == 0 {
		o.place = place{replica: new(replica)}
	}
	a.servers, a.options = append(a.servers, s), append(a.options, o)
}

func (a *arena) after(d time.Duration, do func()) {
	e := event{a.now.Add(d), do}
	i, _ := slices.BinarySearchFunc(a.queue, e, func(x, y event) int { return cmp.Or(x.at.Compare(y.at), -1) })
	a.queue = slices.Insert(a.queue, i, e)
}

// run lets callers call for some time, each again when he has his answer, and
// returns the share of calls that each server got, in percent.
func (a *arena) run(callers int, d time.Duration) []float64 {
	a.t.Helper()
	until := a.now.Add(d)
	for _, s := range a.servers {
		s.begun, s.most, s.total = 0, s.busy, 0
	}
	for range callers {
		a.call(until)
	}
	for len(a.queue) > 0 {
		e := a.queue[0]
		a.queue = a.queue[1:]
		a.now = e.at
		e.do()
	}
	if a.now.Before(until) {
		a.now = until
	}
	var shares []float64
	all := 0
	for _, s := range a.servers {
		all += s.begun
	}
	for _, s := range a.servers {
		shares = append(shares, 100*float64(s.begun)/float64(all))
	}
	return shares
}

// call begins a call; its caller goes on until then.
func (a *arena) call(until time.Time) {
	if !a.now.Before(until) {
		return
	}
	i, greet, sent := a.b.choose(a.cell, a.options, a.now)
	if greet >= 0 {
		a.greet(greet)
	}
	s := a.servers[i]
	s.begun++
	s.busy++
	s.most = max(s.most, s.busy)
	took, err := s.trip, s.refuse
	if err == nil {
		took = s.take(a.now)
	}
	a.after(max(took, time.Microsecond), func() {
		s.busy--
		s.total += took
		a.b.end(sent, err, a.now)
		a.call(until)
	})
}

// take returns when the answer to a call that is sent now will be there.
func (s *server) take(now time.Time) time.Duration {
	work := s.service()
	if s.wide {
		return s.trip + work
	}
	begin := now.Add(s.trip / 2)
	if begin.Before(s.free) {
		begin = s.free
	}
	s.free = begin.Add(work)
	return s.free.Add(s.trip / 2).Sub(now)
}

// begin counts a call as begun at a place that was not chosen.
func begin(b *balancer, cell identity.Cell, p place, now time.Time) sent {
	_, _, s := b.choose(cell, []option{{place: p}}, now)
	return s
}

func (a *arena) begin(cell identity.Cell, p place, now time.Time) sent {
	return begin(&a.b, cell, p, now)
}

func (a *arena) greet(i int) {
	a.greets++
	s := a.servers[i]
	took, err := s.trip, error(nil)
	if s.absent {
		took, err = 2*time.Second, &frame.Error{Code: frame.Timeout}
	}
	a.after(took, func() { a.b.greeted(a.cell, a.options[i].node, s.trip, err, a.now) })
}

func steady(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

// jumpy takes d, and once in a hundred times twenty times as long.
func (a *arena) jumpy(d time.Duration) func() time.Duration {
	return func() time.Duration {
		if a.rand.IntN(100) == 0 {
			return 20 * d
		}
		return d + time.Duration(a.rand.Int64N(int64(d)/10))
	}
}

const here, near, far = 0, 300 * time.Microsecond, 100 * time.Millisecond

func TestLoneCallerStaysOnHisNode(t *testing.T) {
	for _, work := range []time.Duration{500 * time.Microsecond, 5 * time.Millisecond} {
		a := newArena(t)
		a.add(&server{trip: here, service: a.jumpy(work)})
		a.add(&server{trip: near, service: a.jumpy(work)})
		a.add(&server{trip: near, service: a.jumpy(work)})
		for phase := range 3 {
			if shares := a.run(1, 30*time.Second); shares[0] < 95 {
				t.Errorf("calls of %v, phase %d: shares %.2f, want nearly all on the own node", work, phase, shares)
			}
			a.run(8, time.Second) // the others are known, too
			a.now = a.now.Add(time.Duration(phase) * 5 * time.Second)
		}
	}
}

// TestLoneCallerAsksForNobody: no connection is opened for him.
func TestLoneCallerAsksForNobody(t *testing.T) {
	a := newArena(t, &server{trip: here, service: steady(time.Millisecond)}, &server{trip: near, service: steady(time.Millisecond)})
	if a.run(1, time.Minute); a.greets != 0 || len(a.b.cells[a.cell]) != 1 {
		t.Errorf("%d greetings, %d places are remembered", a.greets, len(a.b.cells[a.cell]))
	}
}

func TestCallsOfOthersCount(t *testing.T) {
	a := newArena(t, &server{trip: here, service: steady(time.Millisecond)}, &server{trip: here, service: steady(time.Millisecond)})
	a.run(4, time.Second)
	a.options[0].inflight = 2
	if best, _, _ := a.b.choose(a.cell, a.options, a.now); best != 1 {
		t.Error("a replica with calls of others is preferred to an idle one")
	}
}

func TestLoneCallerLeavesASlowNode(t *testing.T) {
	work := time.Millisecond
	a := newArena(t, &server{trip: here, service: func() time.Duration { return work }}, &server{trip: near, service: steady(time.Millisecond)})
	a.run(1, 10*time.Second)
	work = 50 * time.Millisecond
	if shares := a.run(1, time.Second); shares[0] > 20 {
		t.Errorf("the own node is slow: shares %.1f", shares)
	}
	work = time.Millisecond
	a.run(1, time.Minute)
	if shares := a.run(1, time.Second); shares[0] < 99 {
		t.Errorf("the own node is quick again: shares %.1f", shares)
	}
}

func TestLoadSpreadsEvenly(t *testing.T) {
	for _, work := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 100 * time.Millisecond} {
		for _, kind := range []string{"steady", "jumpy"} {
			a := newArena(t)
			for _, trip := range []time.Duration{here, near, near} {
				s := &server{trip: trip, service: steady(work)}
				if kind == "jumpy" {
					s.service = a.jumpy(work)
				}
				a.add(s)
			}
			shares := a.run(8, time.Duration(2000)*work)
			t.Logf("calls of %v, %s: shares %.1f", work, kind, shares)
			for _, x := range shares {
				if x < 25 || x > 42 {
					t.Errorf("calls of %v, %s: shares %.1f, want about a third each", work, kind, shares)
					break
				}
			}
		}
	}
}

func TestSlowReplicaLosesItsShareAndGetsItBack(t *testing.T) {
	work := 5 * time.Millisecond
	a := newArena(t,
		&server{trip: here, service: steady(5 * time.Millisecond)},
		&server{trip: near, service: func() time.Duration { return work }},
		&server{trip: near, service: steady(5 * time.Millisecond)})
	a.run(8, 10*time.Second)
	work = 500 * time.Millisecond
	if shares := a.run(8, time.Second); shares[1] > 3 {
		t.Errorf("in the second in which it became slow: shares %.1f", shares)
	}
	if shares := a.run(8, 10*time.Second); shares[1] > 1 {
		t.Errorf("while it is slow: shares %.1f", shares)
	}
	work = 5 * time.Millisecond
	begin := a.now
	for a.run(8, time.Second)[1] < 20 {
		if a.now.Sub(begin) > 2*time.Minute {
			t.Fatal("it never gets its share back")
		}
	}
	back := a.now.Sub(begin)
	t.Logf("quick again, it has a fifth of the calls after %v", back)
	if back > time.Minute {
		t.Errorf("it has its share back after %v only", back)
	}
	if shares := a.run(8, time.Minute); shares[1] < 25 {
		t.Errorf("shares %.1f, want about a third each", shares)
	}
}

func TestNewEndpointIsTriedSoonButNotFlooded(t *testing.T) {
	for _, c := range []struct {
		name string
		new  *server
		most int // calls at a time in the first moment
	}{
		{"quick", &server{trip: near, service: steady(5 * time.Millisecond)}, 64 * 3 / 4},
		{"slow", &server{trip: near, service: steady(10 * time.Second)}, 4},
		{"wide and slow", &server{trip: near, wide: true, service: steady(time.Second)}, 4},
		{"absent", &server{trip: near, absent: true}, 0},
	} {
		a := newArena(t, &server{trip: here, service: steady(5 * time.Millisecond)})
		a.run(64, 10*time.Second)
		a.add(c.new)
		shares := a.run(64, 900*time.Millisecond)
		t.Logf("%s: shares %.1f, at most %d at a time, %d greetings", c.name, shares, c.new.most, a.greets)
		if c.new.most > c.most {
			t.Errorf("%s: %d calls at a time, want at most %d", c.name, c.new.most, c.most)
		}
		if (c.new.begun > 0) == c.new.absent {
			t.Errorf("%s: %d calls within a second", c.name, c.new.begun)
		}
		if c.name == "quick" && shares[1] < 35 {
			t.Errorf("%s: shares %.1f, want about a half", c.name, shares)
		}
		if a.greets != 1 {
			t.Errorf("%s: %d greetings, want one", c.name, a.greets)
		}
	}
}

// TestFirstCallWaitsForNobody: where every place is new, a request is sent to
// the first one and no greeting is waited for.
func TestFirstCallWaitsForNobody(t *testing.T) {
	a := newArena(t, &server{trip: near, service: steady(time.Millisecond)}, &server{trip: near, service: steady(time.Millisecond)})
	best, greet, s := a.b.choose(a.cell, a.options, a.now)
	if best != 0 || greet != -1 || !s.cold {
		t.Fatalf("option %d, greeting %d", best, greet)
	}
	// It waited for a connection, which says nothing about the place.
	a.b.end(s, nil, a.now.Add(4*time.Second))
	a.now = a.now.Add(4 * time.Second)
	if shares := a.run(1, time.Second); shares[0] < 99 {
		t.Errorf("shares %.1f, want the first", shares)
	}
	if shares := a.run(8, 10*time.Second); math.Abs(shares[0]-50) > 10 {
		t.Errorf("shares %.1f, want half each", shares)
	}
}

func TestRefusalsCountAsSlow(t *testing.T) {
	for _, code := range []frame.Code{frame.NotSent, frame.Overloaded, frame.Draining, frame.NoReplica, frame.Unavailable, frame.Version} {
		a := newArena(t, &server{trip: here, service: steady(5 * time.Millisecond)}, &server{trip: near, service: steady(5 * time.Millisecond)})
		a.run(4, 5*time.Second)
		for i, o := range a.options {
			a.b.end(a.begin(a.cell, o.place, a.now), &frame.Error{Code: code}, a.now)
			cut := code == frame.NotSent || code == frame.Unavailable
			if l := a.b.cells[a.cell][o.place]; l.reached == (cut && i == 1) {
				t.Errorf("%s: option %d is reached: %v", code, i, l.reached)
			}
		}
		a.now = a.now.Add(time.Minute)
		a.run(4, 5*time.Second)
		bad := a.servers[1]
		bad.refuse = &frame.Error{Code: code}
		shares := a.run(4, time.Second)
		if shares[1] > 2 {
			t.Errorf("%s: shares %.1f, want none there", code, shares)
		}
		bad.refuse = nil
		a.run(4, 45*time.Second)
		if shares := a.run(4, 5*time.Second); shares[1] < 35 {
			t.Errorf("%s, later: shares %.1f, want half each", code, shares)
		}
	}
	// An error of the program is an answer as any other.
	a := newArena(t, &server{trip: here, service: steady(5 * time.Millisecond)}, &server{trip: near, service: steady(5 * time.Millisecond)})
	a.run(4, 5*time.Second)
	a.servers[0].refuse = fmt.Errorf("insufficient funds")
	if shares := a.run(4, 20*time.Millisecond); shares[0] < 50 {
		t.Errorf("errors of the program: shares %.1f", shares)
	}
}

// TestUnansweredCountsAsSlow lets callers give up, after long and at once.
func TestUnansweredCountsAsSlow(t *testing.T) {
	for _, code := range []frame.Code{frame.Timeout, frame.Cancelled} {
		a := newArena(t, &server{trip: here, service: steady(5 * time.Millisecond)}, &server{trip: near, service: steady(5 * time.Millisecond)})
		a.run(4, 5*time.Second)
		before := *a.b.cells[a.cell][a.options[1].place]
		a.b.end(a.begin(a.cell, a.options[1].place, a.now), &frame.Error{Code: code}, a.now)
		if after := a.b.cells[a.cell][a.options[1].place]; after.best != before.best || after.peak < before.peak*0.9 {
			t.Errorf("%s at once changes %v to %v", code, before, after)
		}
		s := a.begin(a.cell, a.options[1].place, a.now)
		a.now = a.now.Add(3 * time.Second)
		a.b.end(s, &frame.Error{Code: code}, a.now)
		if l := a.b.cells[a.cell][a.options[1].place]; l.peak < float64(3*time.Second) || l.mean > float64(time.Second) {
			t.Errorf("%s after 3 s: %v", code, l)
		}
		if shares := a.run(4, time.Second); shares[1] > 3 {
			t.Errorf("%s after 3 s: shares %.1f, want none there", code, shares)
		}
	}
}

func TestDrainingComesLast(t *testing.T) {
	a := newArena(t, &server{trip: near, service: steady(time.Millisecond)}, &server{trip: far, service: steady(time.Millisecond)}, &server{trip: near, absent: true})
	a.run(8, 10*time.Second)
	a.options[0].leaving = true
	if shares := a.run(64, 10*time.Second); shares[0] > 0 {
		t.Errorf("shares %.1f, want none for the one that drains", shares)
	}
	drains, alive, absent := a.options[0], a.options[1], a.options[2] // in vain was it greeted
	fresh, both := option{place: place{node: identity.Key{98}}}, option{place: place{node: identity.Key{99}}, leaving: true}
	for i, c := range []struct {
		options     []option
		best, greet int
	}{
		{[]option{drains, alive}, 1, -1},
		{[]option{drains, absent}, 0, -1},
		{[]option{drains, fresh}, 0, 1}, // the request does not wait
		{[]option{both, absent}, 1, -1},
		{[]option{both, drains}, 1, -1},
	} {
		if best, greet, _ := a.b.choose(a.cell, c.options, a.now); best != c.best || greet != c.greet {
			t.Errorf("case %d: option %d, greets %d; want %d and %d", i, best, greet, c.best, c.greet)
		}
	}
	if best, greet, _ := a.b.choose(a.cell, a.options[:1], a.now); best != 0 || greet != -1 {
		t.Errorf("alone: option %d", best)
	}
}

// TestFarNodes are used when what they cost on the way costs less than the
// queue at the near ones, and not before.
func TestFarNodes(t *testing.T) {
	for _, c := range []struct {
		callers  int
		low, top float64 // share of the far one, percent
	}{{1, 0, 0}, {4, 0, 0}, {8, 0, 0}, {64, 1, 10}, {512, 20, 45}} {
		a := newArena(t, &server{trip: here, service: steady(time.Millisecond)}, &server{trip: near, service: steady(time.Millisecond)}, &server{trip: far, service: steady(time.Millisecond)})
		a.run(c.callers, 20*time.Second)
		if n := a.servers[2].begun; c.top == 0 && n > 0 {
			t.Errorf("%d callers: %d calls to the far one before it was known", c.callers, n)
		}
		shares := a.run(c.callers, 20*time.Second)
		t.Logf("%d callers: shares %.2f", c.callers, shares)
		if shares[2] < c.low || shares[2] > c.top {
			t.Errorf("%d callers: shares %.2f, want %.0f to %.0f for the far one", c.callers, shares, c.low, c.top)
		}
	}
}

func TestLoadsAreBounded(t *testing.T) {
	var b balancer
	now := time.Unix(1e9, 0)
	cell := func(i int) identity.Cell { return identity.Cell{Name: identity.Name(fmt.Sprint("c", i))} }
	count := func() (n int) {
		for _, loads := range b.cells {
			n += len(loads)
		}
		if n != b.count {
			t.Fatalf("%d loads, counted as %d", n, b.count)
		}
		return n
	}
	busy := begin(&b, cell(0), place{node: identity.Key{1}}, now)
	for i := range 5 * maxLoads {
		p := place{node: identity.Key{byte(i), byte(i >> 8), 1}}
		b.end(begin(&b, cell(i%100), p, now), nil, now)
		if n := count(); n > maxLoads {
			t.Fatalf("%d loads", n)
		}
	}
	if l := b.cells[cell(0)][place{node: identity.Key{1}}]; l != busy.load || l.inflight != 1 {
		t.Error("a place with a call in flight was forgotten")
	}
	now = now.Add(loadTime + time.Second)
	b.end(begin(&b, cell(7), place{node: identity.Key{7}}, now), nil, now)
	if n := count(); n != 2 {
		t.Errorf("%d loads a minute later, want the busy one and the new one", n)
	}
	b.end(busy, nil, now)
	if best, greet, s := b.choose(cell(0), []option{{place: place{node: identity.Key{1}}}}, now.Add(2*loadTime)); best != 0 || greet != -1 || !s.cold {
		t.Error("a place that was not used for long is not new again")
	}
}

func TestGreetingsAreBounded(t *testing.T) {
	a := newArena(t, &server{trip: here, service: steady(time.Millisecond)})
	for range 20 {
		a.add(&server{trip: near})
	}
	for range 1 + trials {
		a.b.end(a.begin(a.cell, a.options[0].place, a.now), nil, a.now.Add(time.Millisecond))
	}
	var asked []int
	for range 100 {
		if _, greet, _ := a.b.choose(a.cell, a.options, a.now); greet >= 0 {
			asked = append(asked, greet)
		}
	}
	if want := []int{1, 2, 3, 4, 5, 6, 7, 8}; !slices.Equal(asked, want) {
		t.Errorf("greets %v, want %v", asked, want)
	}
	a.b.greeted(a.cell, a.options[3].node, 0, &frame.Error{Code: frame.NotSent}, a.now)
	if _, greet, _ := a.b.choose(a.cell, a.options, a.now); greet != 9 {
		t.Errorf("greets %d, want the next one", greet)
	}
}

// BenchmarkChoose is what a call pays, one replica here and some nodes elsewhere.
func BenchmarkChoose(b *testing.B) {
	for _, n := range []int{1, 3, 8, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var x balancer
			options := []option{{place: place{replica: new(replica)}}}
			for i := range n - 1 {
				options = append(options, option{place: place{node: identity.Key{byte(i), 1}}})
			}
			now := time.Now()
			for _, o := range options {
				for range 2 {
					x.end(begin(&x, asker, o.place, now), nil, now.Add(time.Millisecond))
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				_, _, s := x.choose(asker, options, now)
				x.end(s, nil, now.Add(time.Millisecond))
			}
		})
	}
}
