package kad

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/identity"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Fifty nodes; every fifth loses its power; a cut; through all of it what is
// announced is found.
func TestFiftyNodesThroughFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		w.seeded(50)
		round := func(what string, base int, firstMax, fullMax time.Duration) {
			t.Helper()
			var firsts, fulls []time.Duration
			for i := range 8 {
				owner := w.alive()
				w.put(owner, cellNo(base+i), 1, 10*time.Minute)
				finder := w.alive()
				got, first, full, err := finder.find(cellNo(base + i))
				if err != nil || len(got) != 1 {
					t.Errorf("%s: cell %d: found %d, %v", what, i, len(got), err)
				}
				firsts, fulls = append(firsts, first), append(fulls, full)
			}
			slices.Sort(firsts)
			slices.Sort(fulls)
			t.Logf("%s: first p50 %v max %v, all p50 %v max %v", what, firsts[4], firsts[7], fulls[4], fulls[7])
			if firsts[4] > firstMax || fulls[4] > fullMax {
				t.Errorf("%s: half of the finds took longer than %v for the first and %v for all", what, firstMax, fullMax)
			}
		}
		round("healthy", 0, 300*time.Millisecond, time.Second)
		for killed := 0; killed < 10; killed++ {
			w.kill(w.alive())
		}
		round("a fifth dead", 100, 600*time.Millisecond, 2*time.Second)
		for i := range 8 { // what was announced before is still found
			if got, _, _, err := w.alive().find(cellNo(i)); err != nil || len(got) != 1 {
				t.Errorf("cell %d after the deaths: found %d, %v", i, len(got), err)
			}
		}

		left, right := w.nodes[:25], w.nodes[25:]
		var cut [2][]netip.Addr
		for i, side := range [][]*member{left, right} {
			for _, n := range side {
				cut[i] = append(cut[i], n.addr)
			}
		}
		w.net.Partition(cut[:]...)
		pick := func(side []*member) *member {
			return side[slices.IndexFunc(side, func(n *member) bool { return !n.dead })]
		}
		w.put(pick(left), cellNo(500), 1, 10*time.Minute)
		if got, _, _, err := left[24].find(cellNo(500)); !left[24].dead && (err != nil || len(got) != 1) {
			t.Errorf("found %d on its own side of the cut, %v", len(got), err)
		}
		if got, _, _, err := pick(right).find(cellNo(500)); err != nil || len(got) != 0 {
			t.Errorf("found %d across the cut, %v", len(got), err)
		}
		w.net.Heal()
		w.put(pick(left), cellNo(500), 2, 10*time.Minute)
		if got, _, _, err := pick(right).find(cellNo(500)); err != nil || len(got) != 1 {
			t.Errorf("found %d after healing, %v", len(got), err)
		}
	})
}

// holding returns who holds a lease of cell, other than its owner.
func (w *world) holding(cell identity.Cell, owner *member) (out []*member) {
	for _, n := range w.nodes {
		if !n.dead && n != owner && len(n.store.get(cell.Key(testNet.ID()), time.Now(), nobody)) > 0 {
			out = append(out, n)
		}
	}
	return out
}

// A lease lies on the holders of every place. When some of them die others take
// it, and so does a node that joins among them, without a renewal.
func TestLeasesStayWithTheClosest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 6)
		w.seeded(60)
		late := w.nodes[59] // joins later
		w.membership(w.nodes[:59]...)
		w.kill(late)
		owner, places := w.nodes[0], placesOf(greeter.Key(testNet.ID()))
		start := time.Now()
		holders := w.put(owner, greeter, 1, 10*time.Minute)
		if least := Keys * (Holders/2 + 1) / 2; holders < least {
			t.Errorf("%d nodes hold the lease", holders)
		}
		t.Logf("put after %v", time.Since(start))
		whole := func(what string) {
			t.Helper()
			held := w.holding(greeter, owner)
			var ids []peer.ID
			for _, n := range w.nodes {
				if !n.dead && n != owner {
					ids = append(ids, n.host.ID())
				}
			}
			for r, p := range places {
				for _, id := range closest(p, ids, Holders) {
					if !slices.ContainsFunc(held, func(n *member) bool { return n.host.ID() == id }) {
						t.Errorf("%s: a holder of place %d does not have the lease", what, r)
					}
				}
			}
		}
		time.Sleep(5 * time.Second)
		whole("at first")
		for range 5 {
			n := w.holding(greeter, owner)[0]
			w.kill(n)
			for _, m := range w.nodes {
				if !m.dead {
					m.Known(n.key.Public(), nil, true, false)
				}
			}
		}
		time.Sleep(5 * time.Second)
		whole("after deaths")
		joined := w.add(1000, Config{still: true})
		w.membership(w.nodes...)
		time.Sleep(5 * time.Second)
		whole("after a node joined")
		_ = joined
	})
}

// Two halves that have forgotten each other meet again without an operator.
func TestHalvesMeetAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("many connections")
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 9)
		for i := range 6 {
			w.add(i, Config{Bootstrap: []string{seedAddr(0)}})
		}
		w.bootstrap(w.nodes...)
		time.Sleep(time.Minute)
		var cut [2][]netip.Addr
		for i, n := range w.nodes {
			cut[i%2] = append(cut[i%2], n.addr)
		}
		w.net.Partition(cut[:]...)
		for _, n := range w.nodes { // forget the others, as a long cut does
			for _, m := range w.nodes {
				if m.addr != n.addr && slices.Contains(cut[0], n.addr) != slices.Contains(cut[0], m.addr) {
					n.dht.RoutingTable().RemovePeer(m.host.ID())
				}
			}
		}
		time.Sleep(10 * time.Minute)
		w.net.Heal()
		time.Sleep(backoffSmall*5/4 + meetTimeout)
		w.put(w.nodes[2], greeter, 1, 10*time.Minute)
		if got, _, _, err := w.nodes[3].find(greeter); err != nil || len(got) != 1 {
			t.Errorf("found %d after healing, %v", len(got), err)
		}
	})
}
