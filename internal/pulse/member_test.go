package pulse

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/sim"
	"cell.network/cell/internal/swim"
)

// strangers starts n nodes that share no cell; each knows the first one as an entry.
func (w *world) strangers(n int) {
	for i := range n {
		w.add(i, nil, func(c *Config) {
			if i > 0 {
				c.Entries = func() []Target { return []Target{targetAt(0)} }
			}
		})
	}
}

// until waits until something holds, and returns after how long; it fails after limit.
func (w *world) until(limit time.Duration, what string, holds func() bool) time.Duration {
	w.t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		took := time.Since(began)
		switch synctest.Wait(); {
		case holds():
			w.t.Logf("%s after %v", what, took)
			return took
		case took > limit:
			w.t.Errorf("not within %v: %s", limit, what)
			return took
		}
	}
}

// all reports whether every node but except takes node to be in a state.
func (w *world) all(node identity.Key, state swim.State, except ...*member) bool {
	for _, n := range w.nodes {
		if n.key() != node && !slices.Contains(except, n) && n.State(node) != state {
			return false
		}
	}
	return true
}

// whole reports whether every node takes every other one to be alive.
func (w *world) whole() bool {
	for _, n := range w.nodes {
		if !w.all(n.key(), swim.Alive) {
			return false
		}
	}
	return true
}

// wantNoDeath fails where a node was ever told that another one died.
func (w *world) wantNoDeath() {
	w.t.Helper()
	for _, n := range w.nodes {
		n.mu.Lock()
		for _, c := range n.changes {
			if c.Is.Gone() {
				w.t.Errorf("node %d took %s to be %v at %v", n.i, c.Node.Short(), c.Is, c.at)
			}
		}
		n.mu.Unlock()
	}
}

var networks = []struct {
	name    string
	latency func(a, b netip.Addr) time.Duration
	death   time.Duration // known by all
}{{"LAN", sim.LAN, 3 * time.Second}, {"planet", sim.World, 8 * time.Second}}

// A dead host's row is gone within seconds, with it its membership.
func TestDeadNodeGoes(t *testing.T) {
	for _, c := range networks {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, sim.Config{Seed: 5, Latency: c.latency})
				w.mesh(6, everybody)
				time.Sleep(20 * time.Second)
				dead := w.nodes[2]
				dead.kill()
				w.nodes = slices.Delete(w.nodes, 2, 3)
				w.until(c.death, "the row is gone", func() bool {
					return !slices.ContainsFunc(w.nodes, func(n *member) bool { return n.knows(dead.key()) >= 0 })
				})
				for _, n := range w.nodes {
					lost := n.Lost()
					if len(lost) != 1 || lost[0].Row.Signer != dead.key() || lost[0].Age <= 0 || n.State(dead.key()) != swim.Dead {
						t.Errorf("node %d: %d rows of dead nodes, state %v", n.i, len(lost), n.State(dead.key()))
					}
				}
				time.Sleep(20 * time.Second)
				w.wantAllKnown(0)
				w.wantMembers(dead.key())
			})
		})
	}
}

// wantMembers fails where a node holds another than these to be gone.
func (w *world) wantMembers(gone ...identity.Key) {
	w.t.Helper()
	for _, n := range w.nodes {
		for _, m := range n.Members() {
			if k := m.Contact.Signer; m.State.Gone() != slices.Contains(gone, k) {
				w.t.Errorf("node %d takes %s to be %v", n.i, k.Short(), m.State)
			}
		}
	}
}

// Nodes that share nothing meet, learn of each other's death and goodbye, and
// tell each other no rows.
func TestMembersOfANetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 50})
		w.strangers(18)
		w.until(10*time.Second, "all know all", w.whole)
		time.Sleep(15 * time.Second)
		for _, n := range w.nodes {
			if got := n.OwnContact(); got.Raw == nil || got.Signer != n.key() {
				t.Errorf("node %d has no contact", n.i)
			}
		}
		dead := w.nodes[7]
		dead.kill()
		w.until(8*time.Second, "all know of a death", func() bool { return w.all(dead.key(), swim.Dead, dead) })
		gone := w.nodes[8]
		go gone.stop()
		w.until(500*time.Millisecond, "all know of a goodbye", func() bool { return w.all(gone.key(), swim.Left, dead, gone) })
		<-gone.done
		w.nodes = slices.Delete(w.nodes, 7, 9)
		time.Sleep(15 * time.Second)
		w.wantMembers(dead.key(), gone.key())
	})
}

// Loss and nothing else is no reason to take anybody for dead.
func TestLossKillsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 51, Loss: 0.05})
		w.mesh(8, everybody)
		time.Sleep(2 * time.Minute)
		w.wantNoDeath()
		w.wantAllKnown(0)
	})
}

// A partition heals though both sides have given each other up.
func TestPartitionHeals(t *testing.T) {
	for name, c := range map[string]struct {
		start func(*world)
		cut   time.Duration
	}{
		"of rows":      {func(w *world) { w.mesh(4, everybody) }, 4 * time.Minute},
		"of strangers": {func(w *world) { w.strangers(5) }, 2 * time.Minute},
		"of two":       {func(w *world) { w.mesh(2, everybody) }, 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, sim.Config{Seed: 8})
				c.start(w)
				time.Sleep(20 * time.Second)
				var sides [2][]netip.Addr
				half := len(w.nodes) / 2
				for i, n := range w.nodes {
					side := min(i/half, 1)
					sides[side] = append(sides[side], sim.Addr(n.at))
				}
				w.net.Partition(sides[:]...)
				time.Sleep(c.cut)
				a, b := w.nodes[0], w.nodes[len(w.nodes)-1]
				if a.State(b.key()) != swim.Dead || a.knows(b.key()) >= 0 {
					t.Errorf("across the partition: %v", a.State(b.key()))
				}
				w.net.Heal()
				w.until(10*time.Second, "whole again", w.whole)
				if name != "of strangers" {
					w.until(3*time.Second, "all rows are back", func() bool {
						for _, n := range w.nodes {
							if len(n.Rows()) != len(w.nodes)-1 {
								return false
							}
						}
						return true
					})
				}
			})
		})
	}
}

// A node that is killed comes back at another address, to nodes that do not look for it there.
func TestComesBackElsewhere(t *testing.T) {
	for name, away := range map[string]time.Duration{"at once": 200 * time.Millisecond, "taken for dead": 12 * time.Second, "late": 4 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, sim.Config{Seed: 52})
				w.mesh(6, everybody)
				time.Sleep(20 * time.Second)
				w.nodes[2].kill()
				w.nodes = slices.Delete(w.nodes, 2, 3)
				time.Sleep(away)
				back := w.addAt(2, 40, []Target{targetAt(0)}, nil)
				w.until(10*time.Second, "whole again", w.whole)
				w.until(10*time.Second, "all have its new row", func() bool {
					for _, n := range w.nodes {
						if n == back {
							continue
						}
						if n.order(back.key()).Incarnation != back.cfg.Incarnation {
							return false
						}
					}
					return len(back.Rows()) == len(w.nodes)-1
				})
				time.Sleep(30 * time.Second)
				for _, n := range w.nodes {
					if !slices.Contains(n.Links(), back.key()) && n != back {
						t.Errorf("node %d has no link to it", n.i)
					}
				}
			})
		})
	}
}

// order is that of the row which a node holds of another one.
func (n *member) order(k identity.Key) record.Order {
	for _, s := range n.Rows() {
		if s.Row.Signer == k {
			return s.Row.Order
		}
	}
	return record.Order{}
}

// A node that moves without ending says so.
func TestMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 53})
		w.mesh(4, everybody)
		time.Sleep(10 * time.Second)
		moved := w.nodes[1]
		moved.mu.Lock()
		moved.at = 41
		moved.mu.Unlock()
		w.until(2*time.Second, "its address is known", func() bool {
			for _, n := range w.nodes {
				for _, m := range n.Members() {
					if m.Contact.Signer == moved.key() && !slices.EqualFunc(m.Contact.Addrs, targetAt(41).Addrs, slices.Equal) {
						return false
					}
				}
			}
			return true
		})
	})
}

// A stream to a node that no rows are exchanged with any more is left to
// membership: it is not torn.
func TestFormerPartner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{Seed: 54})
		w.mesh(3, everybody)
		time.Sleep(10 * time.Second)
		n, former := w.nodes[0], w.nodes[1]
		for _, m := range []*member{n, former} { // one of the two has opened the stream
			other := map[*member]*member{n: former, former: n}[m]
			m.mu.Lock()
			m.peers = slices.DeleteFunc(slices.Clone(m.peers), func(t Target) bool { return t.Node == other.key() })
			m.mu.Unlock()
		}
		stream := func() *link {
			n.Pulse.mu.Lock()
			defer n.Pulse.mu.Unlock()
			return n.links[former.key()]
		}
		was := stream()
		time.Sleep(20 * time.Second)
		if is := stream(); was == nil || is != was {
			t.Errorf("the stream was torn: %p, then %p", was, is)
		}
		w.wantNoDeath()
	})
}
