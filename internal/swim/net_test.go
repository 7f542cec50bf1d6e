package swim

import (
	"fmt"
	"testing"
	"time"

	"cell.network/cell/internal/record"
)

// A goodbye reaches everybody at once.
func TestLeave(t *testing.T) {
	for _, loss := range []float64{0, 0.05} {
		w := newWorld(t, *simSeed, overWAN, loss)
		build(w, *simNodes)
		var all []time.Duration
		for k := range 10 {
			leaver, at, knew := w.nodes[k*5], w.now, 0
			w.onChange = func(n *node, c Change) {
				if c.Node == leaver.id && c.Is == Left {
					knew++
					all = append(all, w.now.Sub(at))
				} else if c.Is == Dead {
					t.Errorf("node %d: node %d is %v", n.index, w.byKey[c.Node].index, c.Is)
				}
			}
			leaver.sign(true, record.Order{})
			leaver.act()
			for to := range leaver.links {
				leaver.unlink(to)
			}
			w.after(2*time.Second, leaver.crash)
			w.run(3 * time.Second)
			if alive := w.alive(); knew != alive {
				t.Errorf("%d of %d know that node %d has left", knew, alive, leaver.index)
			}
		}
		w.run(30 * time.Second) // and nobody takes it for dead instead
		t.Logf("%.0f %% lost, %d nodes, seed %d: a goodbye is known after %v (p50), %v (p99), %v (max)",
			100*loss, *simNodes, *simSeed, quantile(all, .5), quantile(all, .99), quantile(all, 1))
		if quantile(all, .99) > 500*time.Millisecond {
			t.Error("too late")
		}
	}
}

// halves cuts the network in two for ten minutes and returns when all were
// alive for each other again.
func halves(t *testing.T, w *world, side func(n *node) int) time.Duration {
	t.Helper()
	w.cut = func(a, b *node) bool { return side(a) != side(b) }
	w.run(10 * time.Minute)
	for _, a := range w.nodes {
		for _, b := range w.nodes {
			if s := a.d.State(b.id); a != b && (side(a) == side(b)) != (s == Alive) {
				t.Fatalf("while cut, node %d holds node %d %v", a.index, b.index, s)
			}
		}
	}
	w.cut = func(a, b *node) bool { return false }
	at, bytes := w.now, w.bytes
	var last time.Time
	missing := 0
	for _, a := range w.nodes {
		missing += len(w.nodes) - 1 - a.d.live
	}
	w.onChange = func(n *node, c Change) {
		was, is := c.Was.live(), c.Is.live()
		switch {
		case is && !was:
			missing--
			last = w.now
		case was && !is:
			missing++
		}
	}
	w.run(20 * time.Second)
	if missing != 0 {
		t.Errorf("%d pairs do not know of each other", missing)
	}
	w.run(time.Minute)
	if err := w.settled(); err != nil {
		t.Error(err)
	}
	t.Logf("%d nodes, seed %d: whole %v after the cut has ended, %.0f bytes sent per node", len(w.nodes), w.seed, last.Sub(at).Round(time.Millisecond),
		float64(w.bytes-bytes)/float64(len(w.nodes)))
	return last.Sub(at)
}

// A network that was cut in two is whole again without help, however unequal
// the parts.
func TestPartition(t *testing.T) {
	for _, c := range []struct {
		nodes, minor int
	}{{2, 1}, {5, 1}, {20, 10}, {*simNodes, 1}, {*simNodes, *simNodes / 10}, {*simNodes, *simNodes / 2}} {
		t.Run(fmt.Sprintf("%d of %d", c.minor, c.nodes), func(t *testing.T) {
			w := newWorld(t, *simSeed, overWAN, 0.01)
			build(w, c.nodes)
			if d := halves(t, w, func(n *node) int {
				if n.index < c.minor {
					return 1
				}
				return 0
			}); d > 10*time.Second {
				t.Error("too late")
			}
		})
	}
}

// A newcomer that knows one node soon knows all, and all know it.
func TestJoin(t *testing.T) {
	w := newWorld(t, *simSeed, overWAN, 0.01)
	build(w, *simNodes)
	j := w.add()
	at, knew, before := w.now, 0, w.bytes
	var last, first time.Time
	w.onChange = func(n *node, c Change) {
		if c.Node == j.id && c.Is == Alive && c.Was == Unknown {
			knew, last = knew+1, w.now
		}
		if n == j && j.d.live == len(w.nodes)-1 && first.IsZero() {
			first = w.now
		}
	}
	j.start()
	j.dial(w.nodes[3])
	w.run(10 * time.Second)
	idle := 12.0 * 10 * float64(len(w.nodes))
	t.Logf("%d nodes, seed %d: the newcomer knows all after %v, all know it after %v; it has %d streams; %.0f kB sent by all", len(w.nodes), w.seed,
		first.Sub(at).Round(time.Millisecond), last.Sub(at).Round(time.Millisecond), len(j.links), (float64(w.bytes-before)-idle)/1000)
	if knew != len(w.nodes)-1 || first.IsZero() || first.Sub(at) > 5*time.Second {
		t.Errorf("%d know the newcomer, which knows %d", knew, j.d.live)
	}
	if err := w.settled(); err != nil {
		t.Error(err)
	}
}

// Nodes that all start at once, knowing one of them, find each other.
func TestStartTogether(t *testing.T) {
	w := newWorld(t, *simSeed, overWAN, 0.01)
	for range *simNodes {
		w.add()
	}
	for i, n := range w.nodes {
		n.start()
		if i > 0 {
			w.after(time.Duration(w.rng.Int64N(int64(time.Second))), func() { n.dial(w.nodes[0]) })
		}
	}
	var last time.Time
	w.onChange = func(n *node, c Change) { last = w.now }
	w.run(30 * time.Second)
	if err := w.settled(); err != nil {
		t.Error(err)
	}
	most, all := 0, 0
	for _, n := range w.nodes {
		most, all = max(most, len(n.links)), all+len(n.links)
	}
	t.Logf("%d nodes, seed %d: all know all after %v, %.1f streams per node, at most %d; %.0f kB sent per node", len(w.nodes), w.seed, last.Sub(epoch).Round(time.Millisecond),
		float64(all)/float64(len(w.nodes)), most, float64(w.bytes)/1000/float64(len(w.nodes)))
}

// A node that slept takes nobody for dead when it wakes, and is taken back.
func TestSleeper(t *testing.T) {
	w := newWorld(t, *simSeed, overWAN, 0.01)
	build(w, 40)
	sleeper := w.nodes[4]
	var woken bool
	w.onChange = func(n *node, c Change) {
		if c.Is == Dead && (n == sleeper || c.Node != sleeper.id) {
			t.Errorf("node %d takes node %d for dead", n.index, w.byKey[c.Node].index)
		}
	}
	sleeper.frozen = w.now.Add(30 * time.Second)
	w.after(30*time.Second, func() { woken = true; sleeper.timer = time.Time{}; sleeper.act() })
	w.run(29 * time.Second)
	for _, n := range w.nodes {
		if n != sleeper && n.d.State(sleeper.id) != Dead {
			t.Errorf("node %d holds the sleeper %v", n.index, n.d.State(sleeper.id))
		}
	}
	w.run(16 * time.Second)
	if err := w.settled(); err != nil || !woken {
		t.Error(err)
	}
}

// A node that starts again, at another address and with a clock that went back,
// is met again and its old contact forgotten.
func TestRestart(t *testing.T) {
	w := newWorld(t, *simSeed, overWAN, 0.01)
	build(w, 30)
	n := w.nodes[9]
	n.inc = 10
	n.sign(false, record.Order{})
	n.act()
	w.run(5 * time.Second)
	n.crash()
	w.run(20 * time.Second)
	n.inc, n.links = 2, map[*node]*pipe{}
	for _, o := range w.nodes {
		delete(o.links, n)
		o.d.Unlinked(n.id, w.now)
	}
	n.start()
	n.dial(w.nodes[0])
	w.run(10 * time.Second)
	if err := w.settled(); err != nil {
		t.Error(err)
	}
	if m, _ := w.nodes[20].d.Member(n.id); m.Contact.Order.Compare(record.Order{Incarnation: 10, Sequence: 1}) <= 0 {
		t.Errorf("others hold its contact %v", m.Contact.Order)
	}
}

// Nodes that cannot be dialled take part as others do.
func TestUnreachable(t *testing.T) {
	w := newWorld(t, *simSeed, overWAN, 0.01)
	for i := range 60 {
		w.add().noAddr = i%3 == 1
	}
	for i, n := range w.nodes {
		n.start()
		if i > 0 {
			n.dial(w.nodes[0])
		}
	}
	w.run(30 * time.Second)
	w.onChange = func(n *node, c Change) {
		if c.Is == Dead {
			t.Errorf("node %d takes node %d for dead", n.index, w.byKey[c.Node].index)
		}
	}
	w.run(10 * time.Minute)
	if err := w.settled(); err != nil {
		t.Error(err)
	}
}
