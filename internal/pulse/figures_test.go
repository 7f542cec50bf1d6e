package pulse

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/record"
	"cell.network/cell/internal/sim"
	"cell.network/cell/internal/swim"
)

var figures = flag.Bool("figures", false, "measure 20 and 30 nodes, too")

// percentile of sorted durations.
func percentile(d []time.Duration, p float64) time.Duration {
	return d[min(len(d)-1, int(p*float64(len(d))))]
}

// bytesPerSecond is what a node sends, on the average: its own bytes, and UDP
// payload with all of QUIC's overhead.
func (w *world) bytesPerSecond(d time.Duration) (own, udp int64) {
	count := func() (own, udp int64) {
		for _, n := range w.nodes {
			own, udp = own+int64(n.Sent()), udp+n.sent.Load()
		}
		return own, udp
	}
	own0, udp0 := count()
	time.Sleep(d)
	own1, udp1 := count()
	per := int64(len(w.nodes)) * int64(d/time.Second)
	return (own1 - own0) / per, (udp1 - udp0) / per
}

// load lets every node's load vary by 3 % every half second, and by half or
// twice as much about every ten seconds.
func (w *world) load(rng *rand.Rand, stop <-chan struct{}) {
	level := make([]float64, len(w.nodes))
	for i := range level {
		level[i] = 100_000
	}
	for {
		select {
		case <-stop:
			return
		case <-time.After(500 * time.Millisecond):
		}
		for i, n := range w.nodes {
			if rng.Float64() < 0.05 {
				level[i] *= []float64{0.5, 2}[rng.IntN(2)]
				level[i] = min(max(level[i], 20_000), 500_000)
			}
			n.mu.Lock()
			o := n.offer
			o.Cells = slices.Clone(o.Cells)
			o.Cells[0].Replicas = slices.Clone(o.Cells[0].Replicas)
			for j := range o.Cells[0].Replicas {
				r := &o.Cells[0].Replicas[j]
				noise := 1 + 0.03*rng.NormFloat64()
				r.Offered = uint32(level[i] * noise)
				r.Inflight = uint32(level[i] * noise / 25)
				r.CPU = uint32(min(level[i]*noise/250, 1000))
			}
			n.offer = o
			n.mu.Unlock()
		}
	}
}

// TestFigures measures what pulse costs and how fast it is, and holds it.
func TestFigures(t *testing.T) {
	for _, c := range []struct {
		nodes      int
		idle, load int64         // own bytes per second and node at most
		all        time.Duration // until all know of a change, 99 of 100
	}{
		{5, 150, 250, 500 * time.Millisecond},
		{20, 150, 1000, 500 * time.Millisecond},
	} {
		t.Run(fmt.Sprint(c.nodes), func(t *testing.T) {
			if c.nodes > 5 && !*figures {
				t.Skip("only with -figures")
			}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, sim.Config{Seed: 20})
				rng := rand.New(rand.NewPCG(w.seed, 1))
				w.mesh(c.nodes, everybody)
				time.Sleep(30 * time.Second)
				idle, idleUDP := w.bytesPerSecond(100 * time.Second)
				stop := make(chan struct{})
				go w.load(rng, stop)
				time.Sleep(5 * time.Second)
				load, loadUDP := w.bytesPerSecond(20 * time.Second)
				close(stop)
				time.Sleep(time.Second)
				t.Logf("%d nodes: idle %d B/s (%d of UDP), steady load %d B/s (%d of UDP) per node", c.nodes, idle, idleUDP, load, loadUDP)
				if idle > c.idle || load > c.load {
					t.Errorf("more than %d and %d", c.idle, c.load)
				}
				for _, loss := range []float64{0, 0.1} {
					w.net.SetLoss(loss)
					each, all := w.changes(rng, 12*c.nodes/5+18)
					t.Logf("%d nodes, %.0f %% loss: one knows of a change after %v (p50) %v (p99), all after %v %v", c.nodes, 100*loss,
						percentile(each, 0.5), percentile(each, 0.99), percentile(all, 0.5), percentile(all, 0.99))
					if got := percentile(all, 0.99); got > c.all && loss == 0 || got > 4*c.all {
						t.Errorf("later than %v", c.all)
					}
				}
			})
		})
	}
}

// changes makes changes on random nodes and returns how long it took each other
// node, and the last one, to know: sorted.
func (w *world) changes(rng *rand.Rand, n int) (each, all []time.Duration) {
	for range n {
		a := w.nodes[rng.IntN(len(w.nodes))]
		time.Sleep(time.Duration(rng.Int64N(int64(time.Second))))
		began := time.Now()
		a.say(func(o *record.RowOffer) { o.Capacity.Room ^= 1 })
		time.Sleep(minGap)
		synctest.Wait()
		order := a.Own().Order
		time.Sleep(2*time.Second - 2*minGap)
		last := time.Duration(0)
		for _, b := range w.nodes {
			if a == b {
				continue
			}
			took := 2 * time.Second
			b.mu.Lock()
			for o, at := range b.came[a.key()] {
				if o.Compare(order) >= 0 {
					took = min(took, at.Sub(began))
				}
			}
			b.mu.Unlock()
			each, last = append(each, took), max(last, took)
		}
		all = append(all, last)
	}
	slices.Sort(each)
	slices.Sort(all)
	return each, all
}

// A swarm of more nodes than one has links: each knows eight others.
func TestFiguresSparse(t *testing.T) {
	if !*figures {
		t.Skip("only with -figures")
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 21})
		rng := rand.New(rand.NewPCG(w.seed, 1))
		known := make(map[[2]int]bool)
		const nodes = 30
		for i := range nodes {
			for range 4 {
				known[[2]int{i, rng.IntN(nodes)}] = true
			}
		}
		w.mesh(nodes, func(i, j int) bool { return known[[2]int{i, j}] })
		time.Sleep(30 * time.Second)
		idle, udp := w.bytesPerSecond(60 * time.Second)
		each, all := w.changes(rng, 20)
		t.Logf("%d nodes of about 8 links: idle %d B/s (%d of UDP), one knows of a change after %v (p50) %v (p99), all after %v %v", nodes, idle, udp,
			percentile(each, 0.5), percentile(each, 0.99), percentile(all, 0.5), percentile(all, 0.99))
		w.wantAllKnown(0)
	})
}

// Nodes that share nothing with each other.
func TestFiguresOfMembers(t *testing.T) {
	nodes := 12
	if *figures {
		nodes = 60
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 22})
		w.strangers(nodes)
		w.until(20*time.Second, "all know all", w.whole)
		time.Sleep(time.Minute)
		own, udp := w.bytesPerSecond(time.Minute)
		links, most := 0, 0
		for _, n := range w.nodes {
			links, most = links+len(n.Links()), max(most, len(n.Links()))
		}
		t.Logf("%d nodes that share no cell: idle %d B/s (%d of UDP), %.1f links each, %d at most", nodes, own, udp, float64(links)/float64(nodes), most)
		if own > 150 {
			t.Error("more than 150")
		}
		w.wantNoDeath()
		dead := w.nodes[nodes/2]
		dead.kill()
		w.until(8*time.Second, "all know of a death", func() bool { return w.all(dead.key(), swim.Dead, dead) })
	})
}
