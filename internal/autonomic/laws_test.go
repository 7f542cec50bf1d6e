package autonomic

import (
	"flag"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// seeds is how many schedules each law is tried on; a failure prints its seed.
var seeds = flag.Uint64("seeds", 1, "simulated schedules per test")

// simPolicy matches a replica of 100 requests per second that should carry 70.
var simPolicy = Policy{Min: 2, Max: 40, InflightTarget: 7, CPUTarget: 0.7, ScaleUp: 0.8, ScaleDown: 0.3}

func step(low, high float64, from, to time.Duration) func(time.Duration) float64 {
	return func(t time.Duration) float64 {
		if t >= from && t < to {
			return high
		}
		return low
	}
}

type figures struct {
	capacity  time.Duration // until what callers know carries the load
	overshoot int
	failed    float64 // percent
	seconds   float64
	spawns    int
	outside   time.Duration // outside [Min, Max] after the first 5 s
}

// measure runs a world and looks at a step at time at.
func measure(w *world, at, until time.Duration, need int) figures {
	f := figures{capacity: -1, overshoot: -need}
	w.trace = func() {
		n := w.population()
		if w.now > 5*time.Second && (n < w.policy.Min || n > w.policy.Max) {
			f.outside += simTick
		}
		if w.now < at {
			return
		}
		f.overshoot = max(f.overshoot, n-need)
		if f.capacity < 0 && float64(len(w.routed()))*simRate >= w.load(w.now) {
			f.capacity = w.now - at
		}
	}
	w.run(until)
	f.failed, f.seconds, f.spawns = 100*w.failed/w.arrived, w.seconds, w.spawns
	return f
}

func first(w *world, n int) {
	for i := range n {
		w.agents[i%len(w.agents)].spawn(uint64(i + 1))
	}
}

func median[T int | float64 | time.Duration](xs []T) (mid, worst T) {
	slices.Sort(xs)
	return xs[len(xs)/2], xs[len(xs)-1]
}

func TestStep(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		law  string
		loss float64
	}{{"ours", 0}, {"ours", 0.1}, {"ours", 0.3}, {"brief", 0}} {
		t.Run(fmt.Sprintf("%s loss %.0f%%", c.law, 100*c.loss), func(t *testing.T) {
			var caps []time.Duration
			var over []int
			var failed, seconds []float64
			for seed := range *seeds {
				w := newWorld(seed, 20, simPolicy)
				until := 140 * time.Second
				w.loss, w.load = c.loss, step(100, 1000, 40*time.Second, until)
				if c.law == "brief" {
					w.law = (*world).brief
				}
				first(w, 2)
				f := measure(w, 40*time.Second, until, 15)
				if f.capacity < 0 {
					f.capacity = until - 40*time.Second
				}
				caps, over, failed, seconds = append(caps, f.capacity), append(over, f.overshoot), append(failed, f.failed), append(seconds, f.seconds)
			}
			mid, worst := median(caps)
			om, ow := median(over)
			fm, fw := median(failed)
			sm, _ := median(seconds)
			t.Logf("capacity %v, worst %v; overshoot %d, worst %d; failed %.2f%%, worst %.2f%%; %.0f replica-s", mid, worst, om, ow, fm, fw, sm)
			if c.law == "ours" && (mid > 2500*time.Millisecond || worst > 4*time.Second || ow > 3) {
				t.Error("too slow or too many")
			}
		})
	}
}

func TestKillHalf(t *testing.T) {
	t.Parallel()
	for _, hosts := range []bool{false, true} {
		var capacity []time.Duration
		var over []int
		for seed := range *seeds {
			w := newWorld(seed, 20, simPolicy)
			w.loss, w.load = 0.1, step(490, 490, 0, 0)
			first(w, 8)
			w.run(60 * time.Second)
			n := w.population()
			rs, of := w.all(func(r *replica) bool { return r.State == Live })
			for i, r := range rs {
				if i%2 == 0 && hosts {
					of[i].alive = false
				} else if i%2 == 0 {
					w.kill(of[i], r)
				}
			}
			f := measure(w, w.now, 90*time.Second, n)
			capacity, over = append(capacity, f.capacity), append(over, f.overshoot)
			if w.population() < n-1 {
				t.Errorf("hosts %v, seed %d: %d of %d replicas 30 s later", hosts, seed, w.population(), n)
			}
		}
		mid, worst := median(capacity)
		om, ow := median(over)
		if limit := 3 * time.Second; worst > limit && !hosts || worst > 2*limit {
			t.Errorf("hosts killed %v: capacity back after %v", hosts, worst)
		}
		t.Logf("hosts killed %v: capacity %v, worst %v; overshoot %d, worst %d", hosts, mid, worst, om, ow)
	}
}

func TestKillAll(t *testing.T) {
	t.Parallel()
	for seed := range *seeds {
		w := newWorld(seed, 12, simPolicy)
		w.loss, w.load = 0.1, step(200, 200, 0, 0)
		first(w, 3)
		w.run(40 * time.Second)
		rs, of := w.all(func(*replica) bool { return true })
		for i, r := range rs {
			w.kill(of[i], r)
		}
		if f := measure(w, w.now, 60*time.Second, 4); f.capacity < 0 || f.capacity > 3*time.Second || f.overshoot > 2 {
			t.Errorf("seed %d: capacity back after %v, overshoot %d", seed, f.capacity, f.overshoot)
		}
	}
}

// Any loss, kills and load, no partition: never outside the policy for long.
func TestRandomSchedules(t *testing.T) {
	t.Parallel()
	var worst time.Duration
	over := 0
	for seed := range 4 * *seeds {
		p := simPolicy
		p.Min, p.Max = 3, 16
		w := newWorld(seed, 12, p)
		w.loss = 0.4 * w.rng.Float64()
		low, high := 100+300*w.rng.Float64(), 400+1000*w.rng.Float64()
		w.load = step(low, high, 20*time.Second, 60*time.Second)
		first(w, 3)
		for range w.rng.IntN(4) {
			w.after(time.Duration(20+w.rng.IntN(60))*time.Second, func() {
				rs, of := w.all(func(*replica) bool { return true })
				for i, r := range rs {
					if w.rng.Float64() < 0.4 {
						w.kill(of[i], r)
					}
				}
			})
		}
		var outside, longest time.Duration
		w.trace = func() {
			n := w.population()
			over = max(over, n-p.Max)
			if n >= p.Min && n <= p.Max {
				outside = 0
			} else if w.now > 5*time.Second {
				outside += simTick
			}
			longest = max(longest, outside)
		}
		w.run(120 * time.Second)
		worst = max(worst, longest)
		if longest > 3*time.Second {
			t.Errorf("seed %d: outside the policy for %v", seed, longest)
		}
	}
	t.Logf("longest outside [min, max] %v; most above max %d", worst, over)
}

// Each side of a partition follows its own demand; healed, the whole shrinks to
// what is wanted, without falling below it.
func TestPartition(t *testing.T) {
	t.Parallel()
	for seed := range *seeds {
		p := simPolicy
		p.Max, p.Down = 16, 10*time.Second
		w := newWorld(seed, 12, p)
		w.loss, w.load = 0.1, step(700, 700, 0, 0)
		first(w, 10)
		w.run(30 * time.Second)
		w.cut = func(a, b *agent) bool { return a.index%3 == 0 != (b.index%3 == 0) }
		most := 0
		w.trace = func() { most = max(most, w.population()) }
		w.run(60 * time.Second)
		w.cut = func(a, b *agent) bool { return false }
		least := 100
		w.trace = func() { least = min(least, w.population()) }
		w.run(150 * time.Second)
		n := w.population()
		if most > 2*p.Max || n < 10 || n > 14 || least < 9 {
			t.Errorf("seed %d: at most %d when cut, at least %d after, %d at last", seed, most, least, n)
		}
		t.Logf("seed %d: at most %d when cut, at least %d after, %d at last", seed, most, least, n)
	}
}

// A build that dies at once is tried everywhere, ever more rarely.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	p := simPolicy
	w := newWorld(1, 6, p)
	w.bad = func(*agent) bool { return true }
	w.run(60 * time.Second)
	minute := w.spawns
	w.run(10 * time.Minute)
	t.Logf("%d attempts in the first minute, %d in the nine after", minute, w.spawns-minute)
	if minute < 6 || minute > 6*8 || w.spawns-minute > 9*6*2 {
		t.Error("too many attempts, or too few")
	}
}

// A machine on which it always dies does not keep the cell from its minimum.
func TestOneBadHost(t *testing.T) {
	t.Parallel()
	w := newWorld(1, 6, simPolicy)
	w.bad = func(a *agent) bool { return a.index == 2 }
	w.run(20 * time.Second)
	if w.population() != 2 {
		t.Errorf("population %d, want 2", w.population())
	}
}

func TestLiar(t *testing.T) {
	t.Parallel()
	for name, lie := range map[string]func(Replica) Replica{
		"infinite load": func(r Replica) Replica { r.Offered, r.Inflight, r.CPU = math.Inf(1), math.Inf(1), 5; return r },
		"no load":       func(r Replica) Replica { r.Offered, r.Inflight, r.CPU = 0, 0, 0; return r },
		"not a number":  func(r Replica) Replica { r.Offered, r.CPU = math.NaN(), math.NaN(); return r },
		"future birth":  func(r Replica) Replica { r.Generation = math.MaxUint64 - 1; return r },
		"oldest":        func(r Replica) Replica { r.Generation = 1; return r },
	} {
		for seed := range *seeds {
			w := newWorld(seed, 10, simPolicy)
			w.load = step(700, 700, 0, 0)
			first(w, 10)
			w.run(40 * time.Second)
			before := w.population()
			w.agents[3].lies = lie
			low, high := before, before
			w.trace = func() { low, high = min(low, w.population()), max(high, w.population()) }
			w.run(90 * time.Second)
			if low < before-2 || high > before+3 {
				t.Errorf("%s, seed %d: %d became %d to %d", name, seed, before, low, high)
			}
		}
	}
}

// The same seed gives the same history, to the last sentence.
func TestDeterministic(t *testing.T) {
	t.Parallel()
	history := func() string {
		var s strings.Builder
		w := newWorld(5, 8, simPolicy)
		w.loss, w.load = 0.2, step(100, 900, 10*time.Second, 20*time.Second)
		w.law = func(w *world, a *agent) {
			w.decide(a)
			for _, x := range a.last.Actions {
				fmt.Fprintln(&s, w.now, a.index, x.Reason)
			}
		}
		w.run(30 * time.Second)
		return s.String()
	}
	if a, b := history(), history(); a != b {
		t.Error("two histories of one seed")
	}
}

func TestTraces(t *testing.T) {
	t.Parallel()
	onoff := func(t time.Duration) float64 {
		if int(t/(30*time.Second))%2 == 0 {
			return 150
		}
		return 1500
	}
	flash := func(t time.Duration) float64 {
		x := (t - 60*time.Second).Seconds()
		switch {
		case x < 0:
			return 150
		case x < 60:
			return 150 + 1850*(1-math.Exp(-x/5))
		}
		return 150 + 1850*math.Exp(-(x-60)/30)
	}
	steady := func(time.Duration) float64 { return 900 }
	for _, c := range []struct {
		name string
		load func(time.Duration) float64
	}{{"on/off", onoff}, {"flash", flash}, {"steady", steady}} {
		for _, law := range []string{"ours", "brief"} {
			var failed, seconds []float64
			var spawns []int
			for seed := range *seeds {
				w := newWorld(seed, 20, simPolicy)
				w.load = c.load
				if law == "brief" {
					w.law = (*world).brief
				}
				first(w, 4)
				f := measure(w, 0, 180*time.Second, 0)
				failed, seconds, spawns = append(failed, f.failed), append(seconds, f.seconds), append(spawns, f.spawns)
				if law == "ours" && f.outside > 0 {
					t.Errorf("%s, seed %d: outside the policy for %v", c.name, seed, f.outside)
				}
			}
			fm, fw := median(failed)
			sm, _ := median(seconds)
			pm, _ := median(spawns)
			t.Logf("%s, %s: failed %.2f%%, worst %.2f%%; %.0f replica-s; %d spawns", c.name, law, fm, fw, sm, pm)
		}
	}
}
