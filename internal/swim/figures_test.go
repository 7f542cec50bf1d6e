package swim

import (
	"flag"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"cell.network/cell/internal/record"
)

var (
	simNodes = flag.Int("nodes", 60, "nodes of the simulated network")
	simTime  = flag.Duration("idle", 100*time.Second, "for which the simulated network is left alone")
	simSeed  = flag.Uint64("seed", 1, "of the simulation")
)

// quantile of sorted spans.
func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(len(all)-1, int(q*float64(len(all))))].Round(time.Millisecond)
}

// A machine that stops without a word is known to be dead by the last of the
// others within seconds, with packets lost or not; nobody else is taken for dead.
func TestCrash(t *testing.T) {
	for _, c := range []struct {
		name string
		base func(a, b *node) time.Duration
		loss float64
		most time.Duration // until the last one knows
	}{
		{"lan", overLAN, 0, 5 * time.Second},
		{"lan, 5 % lost", overLAN, 0.05, 5 * time.Second},
		{"wan", overWAN, 0, 12 * time.Second},
		{"wan, 5 % lost", overWAN, 0.05, 12 * time.Second},
	} {
		w := newWorld(t, *simSeed, c.base, c.loss)
		build(w, *simNodes)
		var lasts, doubts, medians []time.Duration
		for k := range 12 {
			w.run(time.Duration(rand.New(rand.NewPCG(*simSeed, uint64(k))).Int64N(int64(3 * time.Second))))
			victim, at := w.nodes[k*7%len(w.nodes)], w.now
			var knew []time.Duration
			var doubt time.Duration
			w.onChange = func(n *node, ch Change) {
				if ch.Is == Suspect && ch.Node == victim.id && doubt == 0 {
					doubt = w.now.Sub(at)
				}
				if ch.Is == Dead && ch.Node == victim.id {
					knew = append(knew, w.now.Sub(at))
				} else if ch.Is == Dead {
					t.Errorf("%s: node %d takes node %d for dead", c.name, n.index, w.byKey[ch.Node].index)
				}
			}
			victim.crash()
			w.run(15 * time.Second)
			if alive := w.alive(); len(knew) != alive {
				t.Errorf("%s: %d of %d know of the death of node %d", c.name, len(knew), alive, victim.index)
			}
			lasts, doubts, medians = append(lasts, quantile(knew, 1)), append(doubts, doubt), append(medians, quantile(knew, .5))
		}
		t.Logf("%s: %d nodes, seed %d: a crash is suspected after %v (p50), %v (max), known to half after %v (p50), to the last after %v (p50), %v (max)", c.name,
			*simNodes, *simSeed, quantile(doubts, .5), quantile(doubts, 1), quantile(medians, .5), quantile(lasts, .5), quantile(lasts, 1))
		if quantile(lasts, 1) > c.most {
			t.Errorf("%s: too late", c.name)
		}
	}
}

func (w *world) alive() (n int) {
	for _, x := range w.nodes {
		if x.up {
			n++
		}
	}
	return n
}

// Losses alone kill nobody, and being there costs next to nothing.
func TestIdle(t *testing.T) {
	for _, c := range []struct {
		name string
		base func(a, b *node) time.Duration
		loss float64
	}{{"lan", overLAN, 0}, {"wan", overWAN, 0}, {"wan, 5 % lost", overWAN, 0.05}} {
		w := newWorld(t, *simSeed, c.base, c.loss)
		build(w, *simNodes)
		w.onChange = func(n *node, ch Change) {
			if ch.Is == Dead {
				t.Errorf("%s: node %d takes node %d for dead", c.name, n.index, w.byKey[ch.Node].index)
			}
		}
		for _, x := range w.nodes { // contacts are signed anew every 8 hours
			n := x
			var again func()
			again = func() { n.sign(false, record.Order{}); n.act(); w.after(8*time.Hour, again) }
			w.after(time.Duration(w.rng.Int64N(int64(8*time.Hour))), again)
		}
		seconds := simTime.Seconds()
		bytes, messages, suspects, dials := w.bytes, w.messages, w.suspects, w.dials
		w.run(*simTime)
		per := seconds * float64(len(w.nodes))
		rate := float64(w.bytes-bytes) / per
		t.Logf("%s: %d nodes, seed %d: idle %.1f bytes and %.2f messages a second per node, %.4f dials; %d suspicions, none dead, in %.0f node-seconds",
			c.name, *simNodes, *simSeed, rate, float64(w.messages-messages)/per, float64(w.dials-dials)/per, (w.suspects-suspects)/len(w.nodes), per)
		if rate > 100 {
			t.Errorf("%s: too much", c.name)
		}
		if err := w.settled(); err != nil {
			t.Error(c.name, err)
		}
	}
}
