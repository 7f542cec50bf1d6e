package celltest_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"cell.network/cell/celltest"
	"cell.network/cell/internal/node"
)

// wake gives a host the code of a greeter with this [scaling], and runs it.
func wake(t *testing.T, o *celltest.Organism, i int, scaling string) {
	t.Helper()
	if err := o.Node(i).Deploy("greeter", "[scaling]\n"+scaling, func(_ context.Context, _ string, in []byte) ([]byte, error) {
		return fmt.Appendf(nil, "hello %s", in), nil
	}); err != nil {
		t.Fatal(err)
	}
}

// most watches a host for a while and returns the most replicas that it ran.
func most(ctx context.Context, w simulated, i int, d time.Duration) (n int) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if c, err := w.Status(ctx, i); err == nil {
			k := 0
			for _, r := range c.Replicas {
				if r.Self && (r.State == node.ReplicaAlive || r.State == node.ReplicaStarting) {
					k++
				}
			}
			n = max(n, k)
		}
	}
	return n
}

// A host that was away while the cell was stopped does not run it when it comes
// back, on the LAN of the others or elsewhere.
func TestAwayDuringStop(t *testing.T) {
	for _, away := range []int{1, 3} {
		t.Run(fmt.Sprint("node ", away), func(t *testing.T) {
			storm(t, celltest.Options{Nodes: 6}, func(ctx context.Context, t *testing.T, o *celltest.Organism, w simulated) {
				for _, i := range []int{0, 1, 3} {
					wake(t, o, i, "min_replicas = 2\n")
				}
				until(ctx, t, w, 0, "three hosts know of each other", func(c node.CellStatus) bool { return len(c.Hosts) == 3 })
				time.Sleep(time.Minute) // and write that down
				if err := o.Node(0).Operate(); err != nil {
					t.Fatal(err)
				}
				if err := o.Node(away).Down(); err != nil {
					t.Fatal(err)
				}
				if _, err := o.Node(0).Stop(ctx, "greeter"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if err := o.Node(away).Restart(); err != nil {
					t.Fatal(err)
				}
				if n := most(ctx, w, away, 2*time.Minute); n > 0 {
					t.Errorf("it ran %d replicas of a stopped cell", n)
				}
			})
		})
	}
}

// A host that restarts starts nothing where others run enough.
func TestRestartDoublesNothing(t *testing.T) {
	for _, away := range []int{1, 3} {
		t.Run(fmt.Sprint("node ", away), func(t *testing.T) {
			storm(t, celltest.Options{Nodes: 6}, func(ctx context.Context, t *testing.T, o *celltest.Organism, w simulated) {
				for _, i := range []int{0, 2, 1, 3} {
					wake(t, o, i, "min_replicas = 2\n")
				}
				until(ctx, t, w, 0, "four hosts know of each other", func(c node.CellStatus) bool { return len(c.Hosts) == 4 })
				time.Sleep(time.Minute)
				if err := o.Node(away).Down(); err != nil {
					t.Fatal(err)
				}
				until(ctx, t, w, 0, "two replicas", func(c node.CellStatus) bool { return c.Live == 2 && c.Draining+c.Starting == 0 })
				if err := o.Node(away).Restart(); err != nil {
					t.Fatal(err)
				}
				if n := most(ctx, w, away, 30*time.Second); n > 0 {
					t.Errorf("it started %d replicas, though two ran elsewhere", n)
				}
			})
		})
	}
}

// A cell that sleeps has no lease anywhere; its hosts hear the operator all the same.
func TestAsleep(t *testing.T) {
	storm(t, celltest.Options{Nodes: 6}, func(ctx context.Context, t *testing.T, o *celltest.Organism, w simulated) {
		for _, i := range []int{0, 1, 3} {
			wake(t, o, i, "min_replicas = 0\nmax_replicas = 4\n")
		}
		until(ctx, t, w, 0, "three hosts know of each other", func(c node.CellStatus) bool { return len(c.Hosts) == 3 })
		until(ctx, t, w, 0, "asleep", func(c node.CellStatus) bool { return c.Live+c.Draining == 0 })
		time.Sleep(3 * time.Minute)
		if err := o.Node(0).Operate(); err != nil {
			t.Fatal(err)
		}
		if err := o.Node(0).Scale(ctx, "greeter", 0, 2); err != nil {
			t.Fatal(err)
		}
		for _, i := range []int{1, 3} {
			until(ctx, t, w, i, "has heard of the new bounds", func(c node.CellStatus) bool { return c.Max == 2 })
		}
		begin := time.Now()
		if out, err := o.Node(1).Call(ctx, "greeter@"+o.Author()+"/hello", []byte("Ada")); err != nil || string(out) != "hello Ada" {
			t.Errorf("woken by a call: %q, %v", out, err)
		}
		t.Logf("woken in %v", time.Since(begin))
		if _, err := o.Node(0).Stop(ctx, "greeter"); err != nil {
			t.Fatal(err)
		}
		for _, i := range []int{1, 3} {
			until(ctx, t, w, i, "has heard of the stop", func(c node.CellStatus) bool { return c.Stopped && c.Live == 0 })
		}
	})
}
