package mesh

import (
	"math/rand/v2"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
)

// far measures round trips to nodes as a test sets them.
type far map[identity.Key]time.Duration

func (f far) rtt(k identity.Key) (time.Duration, bool) {
	d, ok := f[k]
	return d, ok
}

func (f far) set(n int, d time.Duration) { f[key(n).Public()] = d }

// TestRankByRoundTrip lets nodes be measured one after the other.
func TestRankByRoundTrip(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := far{}
		m := start(t, 10, Config{RTT: f.rtt})
		m.learn(lease(t, 20, "greeter", 1), told{tier: TierDHT})
		time.Sleep(time.Second)
		m.learn(lease(t, 21, "greeter", 1), told{tier: TierDHT})
		m.Heard(lease(t, 22, "greeter", 1))
		look := func(want ...int) {
			t.Helper()
			time.Sleep(11 * time.Second) // a glimpse lasts for ten
			wantOthers(t, m, "greeter", want...)
			var got []int
			for e := range m.Discover(t.Context(), cellOf("greeter")) {
				for n := range 40 {
					if key(n).Public() == e.Node {
						got = append(got, n)
					}
				}
			}
			for i := range want {
				if len(got) != len(want) || got[i] != want[i] {
					t.Fatalf("Discover yields %v, want %v", got, want)
				}
			}
		}
		look(22, 20, 21) // nothing measured: the neighbour, then who is known for longest
		f.set(21, 30*time.Millisecond)
		look(22, 21, 20)
		f.set(22, 90*time.Millisecond) // a neighbour by radio, say
		look(21, 22, 20)
		f.set(20, 25*time.Millisecond)
		look(20, 21, 22)
		f.set(20, 31*time.Millisecond) // little worse than it was
		look(20, 21, 22)
		f.set(20, 60*time.Millisecond)
		look(21, 20, 22)
		delete(f, key(21).Public()) // the connection is gone, the distance is not
		look(21, 20, 22)
		m.Heard(lease(t, 21, "greeter", 2, draining))
		look(20, 22, 21)
	})
}

// TestRankDoesNotFlap measures two nodes that are as far away, give or take a
// tenth, a thousand times. Ranking by the last measurement alone must flap, or
// the test proves nothing.
func TestRankDoesNotFlap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	turns, last := [2]int{}, [2]bool{}
	var a, b time.Duration
	for i := range 1000 {
		noisy := func() time.Duration { return time.Duration((18 + 4*r.Float64()) * float64(time.Millisecond)) }
		x, y := noisy(), noisy()
		a, b = settle(a, x), settle(b, y)
		now := [2]bool{a < b, x < y}
		for j := range now {
			if i > 0 && now[j] != last[j] {
				turns[j]++
			}
		}
		last = now
	}
	if turns[0] != 0 || turns[1] < 300 {
		t.Errorf("the order changed %d times, by the last measurement alone %d times", turns[0], turns[1])
	}
	if d := settle(200*time.Millisecond, 20*time.Millisecond); d != 20*time.Millisecond {
		t.Errorf("a shorter path is ranked as %v", d)
	}
	if settle(0, 0) == 0 {
		t.Error("measured, and yet not measured")
	}
}
