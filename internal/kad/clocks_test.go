package kad

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/record"
)

// A node whose clock is five minutes off announces, renews, withdraws and starts
// anew like any other: how long a lease lasts is counted by who receives it, and
// what comes first is the node's own matter. With a clock that is further off it
// is not believed, and the reason names the clock.
func TestClocksApart(t *testing.T) {
	for _, off := range []time.Duration{-record.MaxSkew, record.MaxSkew} {
		t.Run(fmt.Sprint(off), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 43)
				w.seeded(12)
				w.membership(w.nodes...)
				owner, finder := w.nodes[2], w.nodes[7]
				put := func(incarnation, seq uint64, ttl time.Duration) {
					t.Helper()
					l := relive(t, owner, lease(owner.key, greeter, seq, time.Now().Add(off), ttl), incarnation)
					if _, err := owner.Put(t.Context(), l); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Second)
				}
				finds := func(what string, want int) {
					t.Helper()
					if got, _, _, err := finder.find(greeter); len(got) != want || err != nil {
						t.Errorf("%s: found %d, want %d, %v", what, len(got), want, err)
					}
				}
				put(1, 1, time.Minute)
				finds("announced", 1)
				time.Sleep(57 * time.Second)
				finds("a second before it lapses", 1)
				time.Sleep(2 * time.Second)
				finds("lapsed", 0)
				put(1, 2, time.Minute)
				finds("renewed", 1)
				put(1, 3, 0)
				finds("withdrawn", 0)
				put(1, 4, time.Hour)
				finds("announced again", 1)
				c, err := record.SignContact(owner.key, testNet.ID(), record.ContactOffer{Order: record.Order{Incarnation: 2}, Issued: time.Now().Add(off)})
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range w.nodes {
					n.conf.Floor.Began(c)
				}
				finds("begun anew", 0)
				put(2, 1, time.Minute)
				finds("announced in the new life", 1)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 44)
		n := w.add(0, Config{still: true})
		time.Sleep(time.Hour) // the author's grant is older than any of these
		for off, want := range map[time.Duration]string{
			record.MaxSkew: "", record.MaxSkew + time.Millisecond: "clock",
			-record.MaxSkew - time.Minute: "", -record.MaxSkew - time.Minute - time.Millisecond: "stale",
		} {
			cell := cellNo(int(off.Abs() / time.Millisecond))
			l := lease(testKey(50), cell, 1, time.Now().Add(off), time.Minute)
			if got := n.hold(cell.Key(testNet.ID()), l.Raw, origin{source: "x", group: "x"}, time.Now()); got != want {
				t.Errorf("a lease of a minute, signed %v from now: %q, want %q", off, got, want)
			}
		}
	})
}
