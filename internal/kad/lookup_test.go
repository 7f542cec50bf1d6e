package kad

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

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
type planet struct {
	ids   []peer.ID
	knows map[peer.ID][]peer.ID
	dead  map[peer.ID]bool
	rng   *rand.Rand
}

func newPlanet(n int, rng *rand.Rand) planet {
	w := planet{make([]peer.ID, n), make(map[peer.ID][]peer.ID), make(map[peer.ID]bool), rng}
	for i := range w.ids {
		w.ids[i] = testPeer(i)
	}
	for _, id := range w.ids {
		bucket := make(map[int]int)
		for _, j := range rng.Perm(n) {
			cpl := kb.CommonPrefixLen(kb.ConvertPeerID(id), kb.ConvertPeerID(w.ids[j]))
			if w.ids[j] != id && bucket[cpl] < 20 {
				bucket[cpl]++
				w.knows[id] = append(w.knows[id], w.ids[j])
			}
		}
	}
	return w
}

func closest(p place, of []peer.ID, n int) []peer.ID {
	of = slices.Clone(of)
	at := make(map[peer.ID]place)
	for _, id := range of {
		at[id] = placeOf(id).to(p)
	}
	slices.SortFunc(of, func(a, b peer.ID) int { return at[a].compare(at[b]) })
	return of[:min(n, len(of))]
}

func (w planet) living() (out []peer.ID) {
	for _, id := range w.ids[1:] {
		if !w.dead[id] {
			out = append(out, id)
		}
	}
	return out
}

const (
	testRTT     = 100 * time.Millisecond
	testPatient = 2*testRTT*5/4 + lateSlack // for a peer that is not known
)

// run plays a lookup out from the first peer: who lives answers after 100 ms to
// 300 ms, who is dead never does. It returns how long it took until enough, or
// until idle, and how many queries.
func (w planet) run(t *testing.T, l *lookup, all bool) (took time.Duration, queries int) {
	t.Helper()
	type reply struct {
		at time.Duration
		q  query
	}
	var due []reply
	start := time.Time{}.Add(time.Hour)
	now := time.Duration(0)
	for !(l.idle() || !all && l.enough()) {
		for _, q := range l.next(start.Add(now)) {
			queries++
			if !w.dead[q.ID] {
				due = append(due, reply{now + testRTT + time.Duration(w.rng.Int64N(int64(2*testRTT))), q})
			}
		}
		slices.SortFunc(due, func(a, b reply) int { return int(a.at - b.at) })
		wake := l.wake()
		if l.idle() {
			break
		}
		if len(due) == 0 && wake.IsZero() {
			t.Fatal("not done, and nothing will happen")
		}
		if len(due) > 0 && (wake.IsZero() || due[0].at <= wake.Sub(start)) {
			r := due[0]
			due, now = due[1:], r.at
			var closer []candidate
			for i, p := range l.places {
				if r.q.places>>i&1 == 1 {
					for _, id := range closest(p, w.knows[r.q.ID], closerPerPlace) {
						closer = append(closer, candidate{AddrInfo: peer.AddrInfo{ID: id}})
					}
				}
			}
			l.answer(r.q.ID, true, closer)
			continue
		}
		now = wake.Sub(start)
	}
	return now, queries
}

func (w planet) lookup(r rules, key identity.NameKey, directory []peer.ID) *lookup {
	places := placesOf(key)
	l := newLookup(r, places[:], w.ids[0], testRTT, w.rng)
	for _, p := range places {
		for _, id := range closest(p, directory, seedsPerPlace) {
			l.add(candidate{AddrInfo: peer.AddrInfo{ID: id}, hops: 1})
		}
	}
	return l
}

// From a directory of all, or from a routing table, with and without dead
// nodes: a search ends at holders, and a lease reaches all of them.
func TestLookupFindsTheClosest(t *testing.T) {
	const seed = 7
	t.Logf("seed %d", seed)
	w := newPlanet(400, rand.New(rand.NewPCG(seed, 1)))
	for _, share := range []float64{0, 0.2} {
		for _, id := range w.ids[1:] {
			w.dead[id] = w.rng.Float64() < share
		}
		for name, from := range map[string][]peer.ID{"directory": w.ids[1:], "table": w.knows[w.ids[0]]} {
			var times []time.Duration
			queries, stored, wrong := 0, 0, 0
			for range 40 {
				var key identity.NameKey
				binary.BigEndian.PutUint64(key[:], w.rng.Uint64())
				l := w.lookup(searching, key, from)
				took, n := w.run(t, l, false)
				times, queries = append(times, took), queries+n
				places := placesOf(key)
				for r, p := range places {
					holders := closest(p, w.living(), Holders+3)
					if !slices.ContainsFunc(l.window(r), func(c *candidate) bool { return c.state == answered && slices.Contains(holders, c.ID) }) {
						wrong++
					}
				}
				l = w.lookup(storing, key, from)
				_, n = w.run(t, l, true)
				stored += n
				for r, p := range places {
					for _, id := range closest(p, w.living(), Holders) {
						if c := l.known[id]; c == nil || c.state != answered {
							t.Errorf("%s, %.0f %% dead: a holder of place %d was not reached", name, 100*share, r)
						}
					}
				}
			}
			slices.Sort(times)
			t.Logf("%s, %.0f %% dead: search p50 %v max %v, %.1f queries; put %.1f queries", name, 100*share, times[20], times[39], float64(queries)/40, float64(stored)/40)
			if mean := float64(queries) / 40; mean > 8 && name == "directory" || mean > 24 {
				t.Errorf("%s, %.0f %% dead: %.1f queries a search", name, 100*share, mean)
			}
			if wrong > 2 {
				t.Errorf("%s, %.0f %% dead: at %d of 120 places no holder was asked", name, 100*share, wrong)
			}
		}
	}
}

// However many closer peers a hostile one makes up, the lookup ends.
func TestLookupEndsAmongLiars(t *testing.T) {
	for name, r := range map[string]rules{"searching": searching, "storing": storing} {
		places := placesOf(identity.NameKey{})
		l := newLookup(r, places[:], testPeer(0), testRTT, rand.New(rand.NewPCG(1, 1)))
		l.add(candidate{AddrInfo: peer.AddrInfo{ID: testPeer(1)}, hops: 1})
		made, queries, now := 2, 0, time.Now()
		for !l.idle() {
			ask := l.next(now)
			if len(ask) == 0 && l.wake().IsZero() {
				break
			}
			now = now.Add(time.Second)
			for _, q := range ask {
				queries++
				if queries%2 == 0 {
					l.fail(q.ID) // made up
					continue
				}
				var more []candidate
				for range MaxCloser {
					made++
					more = append(more, candidate{AddrInfo: peer.AddrInfo{ID: testPeer(made)}})
				}
				l.answer(q.ID, true, more)
			}
		}
		if queries > maxQueries || len(l.known) > Keys*maxNear {
			t.Errorf("%s: %d queries, %d known", name, queries, len(l.known))
		}
		for r, p := range l.places {
			if len(l.near[r]) > maxNear || !slices.IsSortedFunc(l.near[r], func(a, b *candidate) int { return a.at.to(p).compare(b.at.to(p)) }) {
				t.Errorf("%s: %d candidates at place %d, or out of order", name, len(l.near[r]), r)
			}
		}
	}
}

// The rules about slow, dead and suspect peers, told as a story of one place.
func TestLookupTranscript(t *testing.T) {
	var ids []peer.ID
	for i := range 9 {
		ids = append(ids, testPeer(i+1))
	}
	ids = closest(place{}, ids, 9)
	now := time.Now()
	l := newLookup(rules{atOnce: 2, enough: 1, total: 2}, []place{{}}, testPeer(0), testRTT, rand.New(rand.NewPCG(1, 1)))
	for i, id := range ids {
		l.add(candidate{AddrInfo: peer.AddrInfo{ID: id}, warm: i == 4, rtt: testRTT, suspect: i == 2, hops: 1})
	}
	next := func(what string, want int) (asked []int) {
		t.Helper()
		for _, q := range l.next(now) {
			asked = append(asked, slices.Index(ids, q.ID))
		}
		if len(asked) != want {
			t.Errorf("%s: asks %v, want %d", what, asked, want)
		}
		return asked
	}
	first := next("begins", 2)
	if first[0] != 4 {
		t.Errorf("asks %v first, not the one with a connection", first)
	}
	next("waits", 0)
	now = now.Add(testRTT*5/4 + lateSlack)
	second := next("the one with a connection is late", 1)
	now = now.Add(testRTT * 5 / 4)
	next("another one is late", 1)
	asked := append(first, second...)
	for _, i := range asked {
		if i == 2 || i > 7 {
			t.Errorf("asked %v: a suspect, or one that is far", asked)
		}
	}
	l.answer(ids[4], true, nil)
	if l.enough() {
		t.Error("one answer is enough")
	}
	l.answer(ids[second[0]], true, nil)
	if !l.enough() {
		t.Error("the answer of a slow one does not count")
	}

	l = newLookup(searching, []place{{}}, testPeer(0), testRTT, rand.New(rand.NewPCG(1, 1)))
	for _, id := range ids[:3] {
		l.add(candidate{AddrInfo: peer.AddrInfo{ID: id}, suspect: id == ids[0], hops: 1})
	}
	next("a small network", 2)
	l.answer(ids[1], true, []candidate{{AddrInfo: peer.AddrInfo{ID: testPeer(0)}}, {AddrInfo: peer.AddrInfo{ID: ids[1]}}})
	if l.enough() {
		t.Error("the second one is not waited for")
	}
	l.fail(ids[2])
	next("has one answer", 0)
	if !l.enough() {
		t.Error("a suspect is waited for")
	}
	l.answer(testPeer(9), true, []candidate{{AddrInfo: peer.AddrInfo{ID: testPeer(8)}}})
	if len(l.known) != 3 {
		t.Error("a stranger's answer counts")
	}
}

// Who owns the surroundings of one place and says nothing delays a search, but
// does not decide it.
func TestLookupAroundAStall(t *testing.T) {
	w := newPlanet(300, rand.New(rand.NewPCG(3, 1)))
	key := identity.NameKey{7}
	for _, id := range closest(placesOf(key)[0], w.ids[1:], 20) {
		w.dead[id] = true
	}
	l := w.lookup(searching, key, w.ids[1:])
	took, queries := w.run(t, l, false)
	if took > 3*time.Second || l.answers < searching.total {
		t.Errorf("ended after %v with %d answers", took, l.answers)
	}
	t.Log(fmt.Sprint(took, " and ", queries, " queries"))
}
