package kad

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"
)

func testKey(i int) identity.Private {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], uint64(i))
	copy(seed[8:], "kad")
	return identity.PrivateFromSeed(seed)
}

func testPeer(i int) peer.ID {
	id, err := host.PeerID(testKey(i).Public())
	if err != nil {
		panic(err)
	}
	return id
}

// planet is a network of peers that each know some others.
type planet map[peer.ID][]peer.AddrInfo

func newPlanet(n int, rng *rand.Rand) (planet, []peer.ID) {
	ids := make([]peer.ID, n)
	for i := range ids {
		ids[i] = testPeer(i)
	}
	w := make(planet)
	for _, id := range ids {
		bucket := make(map[int]int)
		for _, j := range rng.Perm(n) {
			cpl := kb.CommonPrefixLen(kb.ConvertPeerID(id), kb.ConvertPeerID(ids[j]))
			if ids[j] != id && bucket[cpl] < 20 {
				bucket[cpl]++
				w[id] = append(w[id], peer.AddrInfo{ID: ids[j]})
			}
		}
	}
	return w, ids
}

func (w planet) closest(key identity.NameKey, of []peer.AddrInfo, n int) []peer.AddrInfo {
	of = slices.Clone(of)
	slices.SortFunc(of, func(a, b peer.AddrInfo) int { return placeOf(a.ID).to(key).compare(placeOf(b.ID).to(key)) })
	return of[:min(n, len(of))]
}

func TestLookupFindsTheClosest(t *testing.T) {
	const seed = 7
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	w, ids := newPlanet(400, rng)
	for _, share := range []float64{0, 0.2} {
		dead := make(map[peer.ID]bool)
		for _, id := range ids[1:] {
			dead[id] = rng.Float64() < share
		}
		queries := 0
		for i := range 40 {
			var key identity.NameKey
			binary.BigEndian.PutUint64(key[:], rng.Uint64())
			self := ids[0]
			var seeds []peer.ID
			for _, p := range w.closest(key, w[self], MaxCloser) {
				seeds = append(seeds, p.ID)
			}
			l := newLookup(key, self, Quorum, seeds)
			for !l.done() {
				ask := l.next()
				if len(ask) == 0 {
					t.Fatal("not done and nobody to ask")
				}
				for _, p := range ask {
					queries++
					if dead[p.ID] {
						l.fail(p.ID)
					} else {
						l.answer(p.ID, w.closest(key, w[p.ID], MaxCloser))
					}
				}
			}
			var want []peer.ID
			var all []peer.AddrInfo
			for _, id := range ids[1:] {
				if !dead[id] {
					all = append(all, peer.AddrInfo{ID: id})
				}
			}
			for _, p := range w.closest(key, all, Quorum) {
				want = append(want, p.ID)
			}
			if got := l.closest(); !slices.Equal(got, want) {
				t.Errorf("lookup %d with %.0f %% dead ended at\n%v, want\n%v", i, 100*share, got, want)
			}
		}
		if mean := float64(queries) / 40; mean > 24 {
			t.Errorf("%.1f queries a lookup with %.0f %% dead", mean, 100*share)
		}
	}
}

// However many closer peers a hostile one makes up, the lookup ends.
func TestLookupEndsAmongLiars(t *testing.T) {
	l := newLookup(identity.NameKey{}, testPeer(0), Quorum, []peer.ID{testPeer(1)})
	made, queries := 2, 0
	for !l.done() {
		ask := l.next()
		if len(ask) == 0 {
			break
		}
		for _, p := range ask {
			queries++
			if queries%2 == 0 {
				l.fail(p.ID) // made up
				continue
			}
			var more []peer.AddrInfo
			for range MaxCloser {
				made++
				more = append(more, peer.AddrInfo{ID: testPeer(made)})
			}
			l.answer(p.ID, more)
		}
	}
	if queries > maxQueries || len(l.near) > maxKnown || len(l.known) != len(l.near) {
		t.Errorf("%d queries, %d candidates, %d known", queries, len(l.near), len(l.known))
	}
	if !slices.IsSortedFunc(l.near, func(a, b *candidate) int { return a.dist.compare(b.dist) }) {
		t.Error("candidates are out of order")
	}
}

// TestLookupTranscript tells the rules about slow and dead peers as a story.
func TestLookupTranscript(t *testing.T) {
	ids := []peer.ID{testPeer(1), testPeer(2), testPeer(3)}
	slices.SortFunc(ids, func(a, b peer.ID) int { return placeOf(a).compare(placeOf(b)) })
	near, mid, far := ids[0], ids[1], ids[2]
	l := newLookup(identity.NameKey{}, testPeer(0), 2, ids)
	check := func(what string, done bool, asks ...peer.ID) {
		t.Helper()
		var got []peer.ID
		for _, p := range l.next() {
			got = append(got, p.ID)
		}
		if fmt.Sprint(got) != fmt.Sprint(asks) || l.done() != done {
			t.Errorf("%s: asks %v, want %v; done %v, want %v", what, got, asks, l.done(), done)
		}
	}
	check("asks as many as it wants", false, near, mid)
	l.answer(mid, nil)
	check("waits for the closer one", false)
	l.delay(near)
	check("asks another in place of the slow one", false, far)
	l.answer(far, nil)
	check("two have answered", true)
	l.answer(near, nil)
	if got := l.closest(); !slices.Equal(got, []peer.ID{near, mid}) {
		t.Errorf("the late answer does not count: %v", got)
	}

	l = newLookup(identity.NameKey{}, testPeer(0), 2, []peer.ID{near, mid})
	check("asks both", false, near, mid)
	l.answer(near, nil)
	l.delay(mid)
	check("nobody else: waits for the slow one", false)
	l.fail(mid)
	check("nobody left", true)
	l.answer(testPeer(9), []peer.AddrInfo{{ID: testPeer(0)}})
	check("neither strangers nor itself", true)
}
