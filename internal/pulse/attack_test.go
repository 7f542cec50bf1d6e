package pulse

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/sim"
	"cell.network/cell/internal/swim"
)

// Three streams of strangers do not keep a newcomer from the network that its entries lead to.
func TestStrangersAreNoWayIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{})
		honest := w.add(1, nil, nil)
		var known, over atomic.Bool
		victim := w.add(2, nil, func(c *Config) {
			c.Entries = func() []Target {
				if known.Load() {
					return []Target{targetAt(honest.i)}
				}
				return nil
			}
		})
		for i := 20; i < 20+fewLinks; i++ {
			a := w.attack(victim, i)
			a.drain()
			go func() {
				for !over.Load() && a.say(message{nodes: [][]byte{nil}}) == nil {
					time.Sleep(time.Second)
				}
			}()
		}
		time.Sleep(2 * time.Second)
		if n := len(victim.Links()); n != fewLinks {
			t.Fatalf("%d streams of strangers", n)
		}
		known.Store(true)
		time.Sleep(time.Minute)
		if s := victim.State(honest.key()); s != swim.Alive {
			t.Errorf("after a minute the newcomer holds the node that it could enter by %v", s)
		}
		over.Store(true)
		time.Sleep(2 * time.Second)
	})
}

// A clock that was ahead when the node started, and is set right, does not keep
// the node from signing a contact that others take.
func TestClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.Config{})
		n := w.add(1, nil, nil)
		time.Sleep(time.Second)
		n.present(time.Now().Add(9 * time.Hour)) // as if it were that late
		if age := time.Since(n.OwnContact().Issued); age > -8*time.Hour {
			t.Fatalf("contact of %v ago", age)
		}
		time.Sleep(5 * time.Second)
		if age := time.Since(n.OwnContact().Issued); age < -time.Minute {
			t.Errorf("its contact is still from %v ahead", -age)
		}
	})
}
