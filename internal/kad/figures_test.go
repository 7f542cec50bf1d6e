package kad

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/identity"
)

// spread is how long the same thing took many times.
type times []time.Duration

func (t times) at(share float64) time.Duration {
	slices.Sort(t)
	if len(t) == 0 {
		return 0
	}
	return t[min(len(t)-1, int(share*float64(len(t))))].Round(time.Millisecond)
}

func (t times) String() string {
	return fmt.Sprintf("p50 %v p90 %v p99 %v", t.at(0.5), t.at(0.9), t.at(0.99))
}

// TestFigures measures on a planet whose nodes know each other from membership.
// CELL_KAD_NODES and CELL_KAD_ROUNDS make it larger than what must hold here.
func TestFigures(t *testing.T) {
	nodes, rounds := 50, 10
	if n, err := strconv.Atoi(os.Getenv("CELL_KAD_NODES")); err == nil {
		nodes = n
	} else if testing.Short() {
		t.Skip("many connections")
	}
	if n, err := strconv.Atoi(os.Getenv("CELL_KAD_ROUNDS")); err == nil {
		rounds = n
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 21)
		w.seeded(nodes)
		w.membership(w.nodes...)
		w.figures(rounds, "alive", 0, 450*time.Millisecond, 600*time.Millisecond)
		for range nodes / 5 {
			w.kill(w.alive())
		}
		w.figures(rounds, "a fifth silently dead", 10_000, 600*time.Millisecond, time.Second)
	})
}

// figures announces and finds, each time from other nodes, and fails where half
// of the searches took longer than most, or half of the announcements.
func (w *world) figures(rounds int, what string, base int, most, mostPut time.Duration) {
	w.t.Helper()
	var put, first, all, again, none times
	var asked, askedPut, early, missed int
	for i := range rounds {
		cell, owner := cellNo(base+i), w.alive()
		start, before := time.Now(), owner.Asked()
		w.put(owner, cell, 1, time.Hour)
		put = append(put, time.Since(start))
		for range 3 {
			finder := w.alive()
			at := finder.Asked()
			got, one, full, err := finder.find(cell)
			if len(got) != 1 || err != nil { // put returns before the last holders have it
				early++
				if got, _, _, err = finder.find(cell); len(got) != 1 || err != nil {
					missed++
				}
			}
			asked += int(finder.Asked() - at)
			first, all = append(first, one), append(all, full)
			_, _, full, _ = finder.find(cell)
			again = append(again, full)
			if _, _, full, err := finder.find(cellNo(base + 1_000_000 + i)); err == nil {
				none = append(none, full)
			}
		}
		askedPut += int(owner.Asked() - before)
	}
	w.t.Logf("%d nodes, %s, %d too early, %d missed:\n  announce  %v (%.1f requests)\n  first     %v\n  all       %v (%.1f requests)\n  all again %v\n  nobody    %v",
		len(w.nodes), what, early, missed, put, float64(askedPut)/float64(rounds), first, all, float64(asked)/float64(len(all)), again, none)
	if missed > 0 || early > max(1, len(all)/50) {
		w.t.Errorf("%s: %d of %d searches found nothing, and %d nothing at the first try", what, missed, len(all), early)
	}
	if all.at(0.5) > most || none.at(0.5) > most || put.at(0.5) > mostPut {
		w.t.Errorf("%s: half of the searches took longer than %v, or of the announcements than %v", what, most, mostPut)
	}
}

// tombs returns how long it takes until every one of the watchers of a cell has
// heard that it is withdrawn.
func (w *world) tombs(cell identity.Cell, owner *member, watchers []*member) times {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	heard := make(chan time.Time, len(watchers))
	for _, n := range watchers {
		go func() {
			for l, err := range n.Watch(ctx, cell) {
				if err == nil && l.Tombstone() {
					heard <- time.Now()
				}
			}
		}()
	}
	time.Sleep(10 * time.Second)
	start := time.Now()
	w.put(owner, cell, 2, 0)
	var out times
	for range watchers {
		select {
		case at := <-heard:
			out = append(out, at.Sub(start))
		case <-time.After(30 * time.Second):
			w.t.Error("a watcher was not told")
		}
	}
	cancel()
	synctest.Wait()
	return out
}

func TestWatchersHearOfWithdrawals(t *testing.T) {
	if testing.Short() {
		t.Skip("many connections")
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 22)
		w.seeded(50)
		w.membership(w.nodes...)
		var all times
		for i := range 3 {
			owner := w.alive()
			w.put(owner, cellNo(i), 1, time.Hour)
			all = append(all, w.tombs(cellNo(i), owner, w.nodes[10:30])...)
		}
		t.Logf("withdrawal to watcher: %v", all)
		if all.at(0.99) > 600*time.Millisecond {
			t.Error("too late")
		}
	})
}
