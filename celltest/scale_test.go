package celltest_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cell.network/cell/celltest"
	"cell.network/cell/internal/autonomic"
	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/node"
)

// What a request of the greeter's method work needs. The greeter holds itself to
// its limit, since not every system holds it there.
const (
	workTime  = 20 * time.Millisecond // of CPU
	workCores = 0.2                   // that all requests to a replica get together
)

// scaling is that of the greeter in the stories below, where six of its requests
// a second keep a replica at its target, and ten keep it busy.
var scaling = fmt.Sprintf(`version = "1.0.0"
[scaling]
min_replicas = 2
max_replicas = 12
[limits]
cpu = %g
`, workCores)

// stage is a world in which a cell lives on several hosts.
type stage struct {
	world
	hosts  []int         // have the code, or get it; on the first are the author's keys
	caller int           // calls it
	away   time.Duration // for which the author and the first host are gone
	heals  time.Duration // in which replicas that died are replaced; 0 where other work of the machine may delay it
}

// stories are the same for all worlds.
var stories = []struct {
	name string
	play func(ctx context.Context, t *testing.T, s stage)
}{
	{"divides and dies", playDivides},
	{"the operator's word", playOperator},
	{"a drained host hands over", playDrain},
	{"heals", playHeals},
	{"grows without its author", playGrows},
}

// The stories with six nodes, and with more and a twentieth of all packets lost.
func TestStoriesSimulated(t *testing.T) {
	t.Parallel()
	for _, weather := range []struct {
		name  string
		o     celltest.Options
		stage stage
	}{
		{"fair", celltest.Options{Nodes: 6}, stage{hosts: []int{0, 1, 3, 4}, caller: 5}},
		{"loss", celltest.Options{Nodes: 9, Loss: 0.05}, stage{hosts: []int{0, 1, 3, 4, 6}, caller: 8}},
	} {
		for _, story := range stories {
			t.Run(weather.name+"/"+story.name, func(t *testing.T) {
				storm(t, weather.o, func(ctx context.Context, t *testing.T, o *celltest.Organism, w simulated) {
					if err := o.Node(0).Operate(); err != nil {
						t.Fatal(err)
					}
					w.manifest = scaling
					s := weather.stage
					s.world, s.away, s.heals = w, 6*time.Minute, 2*time.Second // the first are three lives of a lease
					story.play(ctx, t, s)
				})
			})
		}
	}
}

// meet has all hosts run the cell and waits until each knows of all.
func (s stage) meet(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, i := range s.hosts {
		mustRun(t, s, i)
	}
	s.known(ctx, t, s.hosts...)
}

func (s stage) known(ctx context.Context, t *testing.T, hosts ...int) {
	t.Helper()
	for _, i := range hosts {
		until(ctx, t, s, i, fmt.Sprintf("%d hosts know of each other", len(hosts)), func(c node.CellStatus) bool { return len(c.Hosts) == len(hosts) })
	}
}

// stays looks for d at what hosts see, and wants ok all the while from when they
// have seen it first.
func (s stage) stays(ctx context.Context, t *testing.T, d time.Duration, what string, ok func(node.CellStatus) bool, hosts ...int) {
	t.Helper()
	for _, i := range hosts {
		until(ctx, t, s, i, what, ok)
	}
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(d / 100) {
		for _, i := range hosts {
			if c, err := s.Status(ctx, i); err != nil || !ok(c) {
				t.Fatalf("node %d: no longer %s: %v, %+v", i, what, err, c)
			}
		}
	}
}

// until waits for a node to see a population that satisfies ok.
func until(ctx context.Context, t *testing.T, w world, i int, what string, ok func(node.CellStatus) bool) node.CellStatus {
	t.Helper()
	begin := time.Now()
	for {
		c, err := w.Status(ctx, i)
		if err == nil && ok(c) {
			t.Logf("%s after %v: %d live", what, time.Since(begin), c.Live)
			return c
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("node %d: %s: never; %v; %d live, %d starting, %d draining, wants %d: %s\n%+v", i, what, err, c.Live, c.Starting, c.Draining, c.Want, c.Decision, c.Replicas)
		}
	}
}

// liveOn counts the replicas that serve on some nodes.
func liveOn(w world, c node.CellStatus, nodes ...int) (n int) {
	for _, r := range c.Replicas {
		for _, i := range nodes {
			if r.State == node.ReplicaAlive && r.Node.String() == w.Key(i) {
				n++
			}
		}
	}
	return n
}

// callRate is how many requests a second one caller of a load makes at most.
const callRate = 2

// load calls the cell from a node so many times a second until stop, which
// returns how many calls there were; they come in bursts. None may fail, except that a replica which is
// killed takes with it what it had: those are counted as lost.
func load(ctx context.Context, t *testing.T, w world, i, rate int) (stop func() (calls, lost int64)) {
	calling, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var calls, lost, failed atomic.Int64
	callers := (rate + callRate - 1) / callRate
	pace := time.Second * time.Duration(callers) / time.Duration(rate)
	for range callers {
		wg.Go(func() {
			next := time.NewTicker(pace)
			defer next.Stop()
			for {
				select {
				case <-next.C:
				case <-calling.Done():
					return
				}
				out, err := w.Call(ctx, i, "greeter@"+w.Author()+"/work")
				switch {
				case errors.Is(err, &frame.Error{Code: frame.Unavailable}):
					lost.Add(1)
				case err != nil || out != "hello Ada":
					if failed.Add(1) < 5 {
						t.Errorf("node %d, after %d calls: %q, %v", i, calls.Load(), out, err)
					}
				}
				calls.Add(1)
			}
		})
	}
	return func() (int64, int64) {
		cancel()
		wg.Wait()
		if f := failed.Load(); f > 0 {
			t.Errorf("%d of %d calls failed", f, calls.Load())
		}
		return calls.Load(), lost.Load()
	}
}

// served stops a load of which nothing may be lost.
func served(t *testing.T, what string, stop func() (calls, lost int64)) {
	t.Helper()
	calls, lost := stop()
	if lost > 0 {
		t.Errorf("%s: %d of %d calls were lost", what, lost, calls)
	}
	t.Logf("%s: %d calls", what, calls)
}

// playDivides: under load there are more replicas, over several hosts; when it
// has gone, the oldest end until the minimum is left; no call fails.
func playDivides(ctx context.Context, t *testing.T, s stage) {
	s.meet(ctx, t)
	n := len(s.hosts)
	stop := load(ctx, t, s, s.caller, 12*n) // that is two replicas a host
	c := until(ctx, t, s, s.hosts[0], "more replicas", func(c node.CellStatus) bool { return c.Live >= 2*n-1 })
	on := 0
	for _, i := range s.hosts {
		on += min(liveOn(s, c, i), 1)
	}
	if on < 3 {
		t.Errorf("they run on %d hosts only", on)
	}
	served(t, "under load", stop)
	first := c.Replicas[0].Generation
	stop = load(ctx, t, s, s.caller, 2)
	c = until(ctx, t, s, s.hosts[0], "shrunk to its minimum", func(c node.CellStatus) bool { return c.Live == 2 && c.Starting+c.Draining == 0 })
	served(t, "while it shrank", stop)
	if now := c.Replicas[0].Generation; now == first {
		t.Errorf("the oldest is still there, of generation %d", now)
	}
}

// playOperator: `cell stop` on one host ends the cell on all, for good: neither
// healing nor a restart undoes it. `cell scale` reaches all hosts as well.
func playOperator(ctx context.Context, t *testing.T, s stage) {
	s.meet(ctx, t)
	n := len(s.hosts)
	first, last := s.hosts[0], s.hosts[n-1]
	if err := s.Scale(s.hosts[1], n+1, n+2); err == nil || !strings.Contains(err.Error(), "key") {
		t.Errorf("a host without keys spoke for all: %v", err)
	}
	if err := s.Scale(first, n+1, n+2); err != nil {
		t.Fatal(err)
	}
	until(ctx, t, s, last, "one more than hosts", func(c node.CellStatus) bool { return c.Live == n+1 && c.Min == n+1 && c.Max == n+2 })
	if everywhere, err := s.Stop(first); err != nil || !everywhere {
		t.Fatalf("stopped everywhere: %t, %v", everywhere, err)
	}
	for _, i := range s.hosts {
		until(ctx, t, s, i, "stopped", func(c node.CellStatus) bool { return c.Stopped && c.Live+c.Starting+c.Draining == 0 })
	}
	wantNoReplica(ctx, t, s, s.caller, 4*time.Second)
	if err := s.Down(s.hosts[1]); err != nil {
		t.Fatal(err)
	}
	if err := s.RestartNode(s.hosts[1]); err != nil {
		t.Fatal(err)
	}
	s.stays(ctx, t, 10*time.Second, "stopped, on all hosts and after a restart", func(c node.CellStatus) bool { return c.Stopped && c.Live+c.Starting == 0 }, s.hosts...)
	if err := s.Scale(first, n+1, 4*n); err != nil { // hosts that have to find each other again start more than they need
		t.Fatal(err)
	}
	mustRun(t, s, first)
	for _, i := range s.hosts {
		until(ctx, t, s, i, "at least as many as before it was stopped", func(c node.CellStatus) bool { return !c.Stopped && c.Live > n })
	}
	eventually(ctx, t, s, s.caller)
}

// playDrain: a host that is drained hands its replicas over, and no call fails.
func playDrain(ctx context.Context, t *testing.T, s stage) {
	s.meet(ctx, t)
	n := len(s.hosts)
	stop := load(ctx, t, s, s.caller, 2*callRate)
	drain := func(i int) {
		if err := s.Drain(i, false); err != nil {
			t.Fatal(err)
		}
		if c, err := s.Status(ctx, i); err != nil || liveOn(s, c, i) > 0 || !c.Drained {
			t.Errorf("node %d is drained: %+v, %v", i, c, err)
		}
	}
	for _, i := range s.hosts[:n-1] {
		drain(i)
	}
	last := s.hosts[n-1]
	until(ctx, t, s, last, "the minimum, on what is left", func(c node.CellStatus) bool { return c.Live == 2 && liveOn(s, c, last) == 2 })
	if err := s.Drain(s.hosts[0], true); err != nil {
		t.Fatal(err)
	}
	drain(last)
	until(ctx, t, s, s.hosts[0], "the minimum, on a host that was taken back", func(c node.CellStatus) bool { return liveOn(s, c, s.hosts[0]) == 2 })
	served(t, "while hosts were drained", stop)
}

// playHeals: replicas that die are replaced, those of a host that died as far as
// the minimum asks, and a node that comes back takes up what it ran.
func playHeals(ctx context.Context, t *testing.T, s stage) {
	s.meet(ctx, t)
	n := len(s.hosts)
	all, first, last := 2*n, s.hosts[0], s.hosts[n-1]
	if err := s.Scale(first, all, all+2); err != nil {
		t.Fatal(err)
	}
	until(ctx, t, s, last, "two a host", func(c node.CellStatus) bool { return c.Live == all })
	time.Sleep(autonomic.Newborn) // a host rests where one dies that is younger
	stop := load(ctx, t, s, s.caller, 2*callRate)
	c, err := s.Status(ctx, last)
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]bool)
	for _, r := range c.Replicas {
		known[fmt.Sprint(r.Node, r.ID)] = true
	}
	begin := time.Now()
	killed := 0
	for _, i := range s.hosts[:n/2] {
		k, err := s.KillReplicas(i)
		if err != nil {
			t.Fatal(err)
		}
		killed += k
	}
	if killed < n/2 {
		t.Fatalf("%d replicas were killed", killed)
	}
	until(ctx, t, s, last, fmt.Sprintf("%d killed replicas are back", killed), func(c node.CellStatus) bool {
		born := 0
		for _, r := range c.Replicas {
			if r.State == node.ReplicaAlive && !known[fmt.Sprint(r.Node, r.ID)] {
				born++
			}
		}
		return c.Live >= all && born >= killed // hosts that were too slow to claim a vacancy start one more
	})
	if took := time.Since(begin); s.heals > 0 && took > s.heals {
		t.Errorf("it took %v", took)
	}
	calls, lost := stop()
	if lost > int64(2*killed) { // each of two callers had one request under way at a time, maybe where one was killed
		t.Errorf("%d of %d calls were lost with %d replicas", lost, calls, killed)
	}
	s.KillNode(s.hosts[1])
	rest := append([]int{first}, s.hosts[2:]...)
	until(ctx, t, s, last, "a dead host's share is on the others", func(c node.CellStatus) bool { return liveOn(s, c, rest...) == all })
	for _, i := range rest {
		s.KillNode(i)
	}
	if err := s.RestartNode(last); err != nil {
		t.Fatal(err)
	}
	until(ctx, t, s, last, "taken up again by a restarted node", func(c node.CellStatus) bool { return liveOn(s, c, last) == all && c.Min == all })
	eventually(ctx, t, s, s.caller)
}

// playGrows: the author publishes, and is gone for good, with his keys and the
// first host. The cell spreads to a host that had nothing of it, stays above its
// minimum, and grows again from what the hosts have on disk when all is dead.
func playGrows(ctx context.Context, t *testing.T, s stage) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("publishing needs git")
	}
	n := len(s.hosts)
	first, newcomer, others := s.hosts[0], s.hosts[n-1], s.hosts[1:n-1]
	if err := s.Publish(first); err != nil {
		t.Fatal(err)
	}
	mustRun(t, s, first)
	for _, i := range others {
		s.grow(ctx, t, i)
	}
	s.known(ctx, t, s.hosts[:n-1]...)
	s.KillNode(first)
	s.grow(ctx, t, newcomer)
	others = s.hosts[1:]
	s.stays(ctx, t, s.away, "at its minimum or above", func(c node.CellStatus) bool { return liveOn(s, c, others...) >= 2 }, others...)
	eventually(ctx, t, s, s.caller)
	killed := 0
	for _, i := range others {
		k, err := s.KillReplicas(i)
		if err != nil {
			t.Fatal(err)
		}
		killed += k
	}
	t.Logf("the last %d replicas are dead", killed)
	eventually(ctx, t, s, s.caller)
	until(ctx, t, s, newcomer, "the minimum again", func(c node.CellStatus) bool { return liveOn(s, c, others...) >= 2 })
	for _, i := range others {
		s.KillNode(i)
	}
	if err := s.RestartNode(newcomer); err != nil {
		t.Fatal(err)
	}
	until(ctx, t, s, newcomer, "the minimum, on a restarted host", func(c node.CellStatus) bool { return liveOn(s, c, newcomer) == 2 && c.Seq == 1 })
	eventually(ctx, t, s, s.caller)
}

// grow has a host get the cell from whoever seeds it, which it may have to hear
// of first.
func (s stage) grow(ctx context.Context, t *testing.T, i int) {
	t.Helper()
	begin := time.Now()
	for {
		err := s.Grow(i)
		if err == nil {
			t.Logf("node %d grew it after %v", i, time.Since(begin))
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("grow on node %d: %v", i, err)
		}
	}
}

// Each side of a partition keeps the cell above its minimum, and afterwards it
// comes back within its bounds.
func TestPartitionKeepsMinimum(t *testing.T) {
	storm(t, celltest.Options{Nodes: 6, Loss: 0.05}, func(ctx context.Context, t *testing.T, o *celltest.Organism, w simulated) {
		w.manifest = scaling
		s := stage{world: w, hosts: []int{0, 1, 3, 4}}
		s.meet(ctx, t)
		until(ctx, t, s, 0, "no more than the minimum", func(c node.CellStatus) bool { return c.Live == 2 && c.Draining == 0 })
		o.Partition([]int{0, 1, 2}, []int{3, 4, 5})
		for _, i := range []int{0, 3} {
			until(ctx, t, s, i, "two replicas on this side", func(c node.CellStatus) bool { return liveOn(s, c, i, i+1) == 2 })
		}
		o.Heal()
		for _, i := range []int{0, 3} {
			until(ctx, t, s, i, "two replicas in all", func(c node.CellStatus) bool { return len(c.Hosts) == 4 && c.Live == 2 && c.Draining == 0 })
		}
	})
}
