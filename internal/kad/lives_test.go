package kad

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/record"
)

// began tells some nodes that another one has begun a new life.
func (w *world) began(whose *member, incarnation uint64, nodes ...*member) {
	c, err := record.SignContact(whose.key, testNet.ID(), record.ContactOffer{Order: record.Order{Incarnation: incarnation}, Issued: time.Now()})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, n := range nodes {
		n.conf.Floor.Began(c)
	}
}

// A node that crashes and comes back without its cells: what it had announced
// before is neither handed out nor found, at whichever end that is known.
func TestFormerLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 41)
		w.seeded(20)
		w.membership(w.nodes...)
		owner, finder := w.nodes[3], w.nodes[9]
		finds := func(what string, want int) {
			t.Helper()
			finder.store.drop(greeter.Key(testNet.ID()))
			if got, _, _, err := finder.find(greeter); len(got) != want || err != nil {
				t.Errorf("%s: found %d, want %d, %v", what, len(got), want, err)
			}
		}
		life := func(n *member, alive bool) { n.Known(owner.key.Public(), owner.host.LeaseAddrs(false), true, alive) }
		w.put(owner, greeter, 1, time.Hour)
		time.Sleep(time.Second)
		finds("at first", 1)
		life(finder, false)
		w.began(owner, 1, finder)
		life(finder, true)
		finds("cut off and back", 1)
		life(finder, false)
		w.began(owner, 2, finder)
		life(finder, true)
		finds("crashed and back", 0)

		finder.conf.Floor = new(record.Floor)
		finds("another finder, whom nobody told", 1)
		w.began(owner, 2, w.nodes...)
		finder.conf.Floor = new(record.Floor)
		finds("the holders know", 0)

		next := lease(owner.key, greeter, 1, time.Now(), time.Hour)
		next = relive(t, owner, next, 2)
		if _, err := owner.Put(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		finds("announced in its new life", 1)
	})
}

// relive signs a lease anew for another life of its node.
func relive(t *testing.T, owner *member, l record.Lease, incarnation uint64) record.Lease {
	t.Helper()
	l, err := record.SignLease(owner.key, testNet.ID(), record.Offer{Cell: l.Cell, State: l.State, Addrs: l.Addrs, Grant: l.Grant.Raw,
		Order: record.Order{Incarnation: incarnation, Sequence: l.Order.Sequence}, Issued: l.Issued, TTL: l.TTL})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A holder tells its own node of what it comes to hold, each once.
func TestStoredIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 42)
		var mu sync.Mutex
		var told []uint64
		n := w.add(0, Config{still: true, OnStored: func(l record.Lease) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, l.Order.Sequence)
		}})
		key := greeter.Key(testNet.ID())
		for _, l := range []record.Lease{
			lease(testKey(50), greeter, 2, time.Now(), time.Hour),
			lease(testKey(50), greeter, 2, time.Now(), time.Hour),   // known
			lease(testKey(50), greeter, 1, time.Now(), time.Hour),   // old
			lease(testKey(50), cellNo(1), 4, time.Now(), time.Hour), // of another name
			lease(testKey(50), greeter, 3, time.Now(), 0),
		} {
			n.hold(key, l.Raw, origin{source: "x", group: "x"}, time.Now())
		}
		if want := []uint64{2, 3}; !slices.Equal(told, want) {
			t.Errorf("told of %d, want %d", told, want)
		}
	})
}
