package celltest_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cell.network/cell/celltest"
	"cell.network/cell/internal/node"
)

// workTime is the CPU that one request of the working cell needs.
const workTime = 20 * time.Millisecond

const scaling = "[scaling]\nmin_replicas = 2\nmax_replicas = 12\n"

// deploy gives nodes the code of a cell that needs CPU.
func deploy(t *testing.T, o *celltest.Organism, nodes ...int) {
	t.Helper()
	for _, i := range nodes {
		if err := o.Node(i).Deploy("greeter", scaling, func(ctx context.Context, method string, in []byte) ([]byte, error) {
			if method == "work" {
				if err := celltest.Work(ctx, workTime); err != nil {
					return nil, err
				}
			}
			return fmt.Appendf(nil, "hello %s", in), nil
		}); err != nil {
			t.Fatalf("deploy on node %d: %v", i, err)
		}
	}
}

// status is what a node says of the greeter; zero where it does not know it.
func status(o *celltest.Organism, i int) node.CellStatus {
	for _, c := range o.Node(i).Cells() {
		if strings.HasPrefix(c.Cell, "greeter@") {
			return c
		}
	}
	return node.CellStatus{}
}

// until waits for a node to see a population that satisfies ok.
func until(ctx context.Context, t *testing.T, o *celltest.Organism, i int, what string, ok func(node.CellStatus) bool) {
	t.Helper()
	begin := time.Now()
	for {
		c := status(o, i)
		if ok(c) {
			t.Logf("%s after %v: %d live", what, time.Since(begin), c.Live)
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("node %d: %s: never; %d live, %d starting, %d draining, wants %d: %s\n%+v", i, what, c.Live, c.Starting, c.Draining, c.Want, c.Decision, c.Replicas)
		}
	}
}

// load calls the cell from a node with so many callers until stop; no call may fail.
func load(ctx context.Context, t *testing.T, o *celltest.Organism, i, callers int) (stop func() int64) {
	calling, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var calls, failed atomic.Int64
	for range callers {
		wg.Go(func() {
			for calling.Err() == nil {
				out, err := o.Node(i).Call(ctx, "greeter@"+o.Author()+"/work", []byte("Ada"))
				if err != nil || string(out) != "hello Ada" {
					if failed.Add(1) < 5 {
						t.Errorf("node %d: %q, %v", i, out, err)
					}
				}
				calls.Add(1)
				time.Sleep(pause)
			}
		})
	}
	return func() int64 {
		cancel()
		wg.Wait()
		if f := failed.Load(); f > 0 {
			t.Errorf("%d of %d calls failed", f, calls.Load())
		}
		return calls.Load()
	}
}

// A cell divides under load, over several hosts, and shrinks to its minimum when
// the load is gone; no call fails.
func TestDividesAndDies(t *testing.T) {
	storm(t, celltest.Options{Nodes: 6}, func(ctx context.Context, t *testing.T, o *celltest.Organism, w simulated) {
		deploy(t, o, 0, 1, 3, 4)
		until(ctx, t, o, 0, "four hosts know of each other", func(c node.CellStatus) bool { return len(c.Hosts) == 4 })
		stop := load(ctx, t, o, 5, 6)
		until(ctx, t, o, 0, "more replicas", func(c node.CellStatus) bool { return c.Live >= 7 })
		hosts := map[string]bool{}
		for _, r := range status(o, 0).Replicas {
			hosts[r.Node.String()] = true
		}
		if len(hosts) < 3 {
			t.Errorf("they run on %d hosts only", len(hosts))
		}
		t.Logf("%d calls under load", stop())
		stop = load(ctx, t, o, 2, 1)
		until(ctx, t, o, 0, "shrunk to its minimum", func(c node.CellStatus) bool { return c.Live == 2 && c.Draining == 0 })
		t.Logf("%d calls while it shrank", stop())
	})
}

// `cell stop` on one host ends the cell on all, for good: neither healing nor a
// restart undoes it. `cell scale` reaches all hosts as well.
func TestOperatorsWord(t *testing.T) {
	storm(t, celltest.Options{Nodes: 6}, func(ctx context.Context, t *testing.T, o *celltest.Organism, w simulated) {
		deploy(t, o, 0, 1, 3)
		until(ctx, t, o, 0, "three hosts know of each other", func(c node.CellStatus) bool { return len(c.Hosts) == 3 })
		lo, hi := 4, 5
		if err := o.Node(1).Scale(ctx, "greeter", lo, hi); err == nil {
			t.Error("a node without keys spoke for all")
		}
		if err := o.Node(0).Operate(); err != nil {
			t.Fatal(err)
		}
		if err := o.Node(0).Scale(ctx, "greeter", lo, hi); err != nil {
			t.Fatal(err)
		}
		until(ctx, t, o, 3, "scaled to four", func(c node.CellStatus) bool { return c.Live == 4 && c.Min == lo && c.Max == hi })
		if everywhere, err := o.Node(0).Stop(ctx, "greeter"); err != nil || !everywhere {
			t.Fatalf("stopped everywhere: %t, %v", everywhere, err)
		}
		for _, i := range []int{0, 1, 3} {
			until(ctx, t, o, i, "stopped", func(c node.CellStatus) bool { return c.Stopped && c.Live+c.Starting+c.Draining == 0 })
		}
		wantNoReplica(ctx, t, w, 5, 4*time.Second)
		if err := o.Node(1).Down(); err != nil {
			t.Fatal(err)
		}
		if err := o.Node(1).Restart(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		for _, i := range []int{0, 1, 3} {
			if c := status(o, i); c.Live+c.Starting > 0 || !c.Stopped {
				t.Errorf("node %d: it runs again: %+v", i, c)
			}
		}
	})
}

// A node that is drained hands its replicas over, and no call fails.
func TestDrainHandsOver(t *testing.T) {
	storm(t, celltest.Options{Nodes: 6}, func(ctx context.Context, t *testing.T, o *celltest.Organism, w simulated) {
		deploy(t, o, 0, 1, 3)
		until(ctx, t, o, 0, "three hosts know of each other", func(c node.CellStatus) bool { return len(c.Hosts) == 3 })
		stop := load(ctx, t, o, 5, 1)
		for _, i := range []int{0, 1} {
			if err := o.Node(i).Drain(ctx, "", false); err != nil {
				t.Fatal(err)
			}
			for _, r := range status(o, i).Replicas {
				if r.Self && r.State == node.ReplicaAlive {
					t.Errorf("node %d is drained and runs %+v", i, r)
				}
			}
		}
		until(ctx, t, o, 3, "two replicas on what is left", func(c node.CellStatus) bool { return c.Live == 2 })
		if err := o.Node(0).Drain(ctx, "", true); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d calls", stop())
	})
}

// Replicas that die are replaced, those of a host that died as far as the
// minimum asks, and a node that comes back takes up what it ran.
func TestHeals(t *testing.T) {
	storm(t, celltest.Options{Nodes: 6}, func(ctx context.Context, t *testing.T, o *celltest.Organism, w simulated) {
		if err := o.Node(0).Operate(); err != nil {
			t.Fatal(err)
		}
		deploy(t, o, 0, 1, 3)
		until(ctx, t, o, 0, "three hosts know of each other", func(c node.CellStatus) bool { return len(c.Hosts) == 3 })
		if err := o.Node(0).Scale(ctx, "greeter", 6, 8); err != nil {
			t.Fatal(err)
		}
		until(ctx, t, o, 0, "six replicas", func(c node.CellStatus) bool { return c.Live == 6 })
		time.Sleep(20 * time.Second) // they are no newborns any more
		stop := load(ctx, t, o, 5, 1)
		youngest := uint64(0)
		for _, r := range status(o, 3).Replicas {
			youngest = max(youngest, r.Generation)
		}
		begin := time.Now()
		killed := 0
		for _, i := range []int{0, 1} {
			n, err := o.Node(i).KillReplicas("greeter")
			if err != nil {
				t.Fatal(err)
			}
			killed += n
		}
		until(ctx, t, o, 3, fmt.Sprintf("%d killed replicas are back", killed), func(c node.CellStatus) bool {
			born := 0
			for _, r := range c.Replicas {
				if r.State == node.ReplicaAlive && r.Generation > youngest {
					born++
				}
			}
			return c.Live == 6 && born == killed
		})
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
		stop()
		w.KillNode(1)
		until(ctx, t, o, 3, "a dead host's share is on the others", func(c node.CellStatus) bool {
			here := 0
			for _, r := range c.Replicas {
				if r.State == node.ReplicaAlive && r.Node.String() != o.Node(1).Key() {
					here++
				}
			}
			return here == 6
		})
		w.KillNode(0)
		w.KillNode(3)
		if err := o.Node(3).Restart(); err != nil {
			t.Fatal(err)
		}
		until(ctx, t, o, 3, "taken up again by a restarted node", func(c node.CellStatus) bool { return c.Live == 6 && c.Min == 6 })
		eventually(ctx, t, w, 5)
	})
}

// Each side of a partition keeps the cell above its minimum, and afterwards it
// comes back within its bounds.
func TestPartitionKeepsMinimum(t *testing.T) {
	storm(t, celltest.Options{Nodes: 6, Loss: 0.05}, func(ctx context.Context, t *testing.T, o *celltest.Organism, w simulated) {
		deploy(t, o, 0, 1, 3, 4)
		until(ctx, t, o, 0, "four hosts know of each other", func(c node.CellStatus) bool { return len(c.Hosts) == 4 })
		time.Sleep(2 * time.Minute) // two are left
		o.Partition([]int{0, 1, 2}, []int{3, 4, 5})
		for _, i := range []int{0, 3} {
			until(ctx, t, o, i, "two replicas on this side", func(c node.CellStatus) bool {
				live := 0
				for _, r := range c.Replicas {
					for _, j := range []int{i, i + 1} {
						if r.State == node.ReplicaAlive && r.Node.String() == o.Node(j).Key() {
							live++
						}
					}
				}
				return live == 2
			})
		}
		o.Heal()
		for _, i := range []int{0, 3} {
			until(ctx, t, o, i, "two replicas in all", func(c node.CellStatus) bool { return len(c.Hosts) == 4 && c.Live == 2 && c.Draining == 0 })
		}
	})
}

// The author's key and the first node are gone for three times the life of a
// lease: the population stays above its minimum.
func TestWithoutAuthor(t *testing.T) {
	storm(t, celltest.Options{Nodes: 6}, func(ctx context.Context, t *testing.T, o *celltest.Organism, w simulated) {
		deploy(t, o, 0, 1, 3)
		until(ctx, t, o, 1, "three hosts know of each other", func(c node.CellStatus) bool { return len(c.Hosts) == 3 })
		w.KillNode(0)
		low := 0
		for end := time.Now().Add(6 * time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
			if c := status(o, 1); c.Live < 2 {
				low++
			}
		}
		if low > 10 {
			t.Errorf("below the minimum for %d of 360 seconds", low)
		}
		until(ctx, t, o, 1, "two replicas", func(c node.CellStatus) bool { return c.Live == 2 })
		eventually(ctx, t, w, 5)
	})
}
