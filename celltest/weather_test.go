package celltest_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/celltest"
)

// seed is that of the simulations here: CELL_SEED, or 1.
func seed(t *testing.T) uint64 {
	t.Helper()
	if s := os.Getenv("CELL_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return 1
}

// storm plays a scenario of many nodes in a bubble; the LANs are of three each
// and every node off the first knows node 0.
func storm(t *testing.T, o celltest.Options, play func(ctx context.Context, t *testing.T, o *celltest.Organism, w simulated)) {
	if testing.Short() {
		t.Skip("many nodes for a long virtual time")
	}
	synctest.Test(t, func(t *testing.T) {
		o.Seed = seed(t)
		o.LAN = func(i int) string { return fmt.Sprint("lan-", i/3) }
		o.Knows = func(i int) []int {
			if i < 3 {
				return nil
			}
			return []int{0}
		}
		org := celltest.New(t, o)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		play(ctx, t, org, simulated{o: org})
	})
}

// A partition ends calls across it in good time, and heals without an operator.
func TestPartition(t *testing.T) {
	storm(t, celltest.Options{Nodes: 9}, func(ctx context.Context, t *testing.T, o *celltest.Organism, w simulated) {
		mustRun(t, w, 1)
		for i := range 9 {
			eventually(ctx, t, w, i)
		}
		o.Partition([]int{0, 1, 2, 3}, []int{4, 5, 6, 7, 8})
		wantAnswer(ctx, t, w, 0, 2, 3) // this side goes on as before
		for i := 4; i < 9; i++ {
			begin := time.Now()
			limit, cancel := context.WithTimeout(ctx, 10*time.Second)
			if out, err := w.Call(limit, i, greeter(w)); err == nil {
				t.Errorf("node %d called across the partition: %q", i, out)
			} else if limit.Err() != nil {
				t.Errorf("node %d: the call ended with its deadline only: %v", i, err)
			}
			cancel()
			t.Logf("node %d gave up after %v", i, time.Since(begin))
		}
		time.Sleep(5 * time.Minute) // longer than any lease lasts
		o.Heal()
		healed := time.Now()
		for i := range 9 {
			eventually(ctx, t, w, i)
		}
		t.Logf("healed after %v", time.Since(healed))
	})
}

// With a tenth of all packets lost every call is still answered.
func TestLoss(t *testing.T) {
	storm(t, celltest.Options{Nodes: 6, Loss: 0.10}, func(ctx context.Context, t *testing.T, o *celltest.Organism, w simulated) {
		mustRun(t, w, 1)
		for i := range 6 {
			eventually(ctx, t, w, i)
		}
		for range 20 {
			wantAnswer(ctx, t, w, 0, 1, 2, 3, 4, 5)
		}
	})
}

// A third of the nodes dies at once. Whoever is left is found and answers.
func TestThirdDies(t *testing.T) {
	storm(t, celltest.Options{Nodes: 12}, func(ctx context.Context, t *testing.T, o *celltest.Organism, w simulated) {
		mustRun(t, w, 1)
		mustRun(t, w, 10)
		for i := range 12 {
			eventually(ctx, t, w, i)
		}
		for _, i := range []int{1, 4, 6, 8} { // the first replica's node among them
			w.KillNode(i)
		}
		for _, i := range []int{0, 2, 3, 5, 7, 9, 10, 11} {
			eventually(ctx, t, w, i)
		}
		if err := w.RestartNode(1); err != nil {
			t.Fatal(err)
		}
		mustRun(t, w, 1)
		for _, i := range []int{0, 1, 2, 3, 5, 7, 9, 10, 11} {
			eventually(ctx, t, w, i)
		}
	})
}
