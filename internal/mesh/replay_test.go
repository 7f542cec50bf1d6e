package mesh

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

var (
	replays    = flag.Int("replays", 1_000, "records that an attacker sends again")
	replaySeed = flag.Uint64("replayseed", 1, "of their order")
)

// TestReplays sends what nodes signed once again and again, over both tiers,
// while they die and come back: nobody is handed out but by the newest lease of
// his present life. A table that remembers no orders is rolled back.
func TestReplays(t *testing.T) {
	t.Logf("seed %d, %d replays", *replaySeed, *replays)
	const nodes = 9
	attack := func(forgetful bool, count int) (wrong int) {
		rng, now := rand.New(rand.NewPCG(*replaySeed, 1)), time.Now()
		tb := tableFor(nil)
		cell := cellOf("greeter")
		tb.ask(cell)
		var past []record.Lease
		truth := make(map[identity.Key]record.Order)
		for i := range nodes {
			node := key(20 + i).Public()
			var last record.Lease
			for n := range 30 {
				l := made(node, cell, 0, 1, now.Add(time.Duration(n-30)*time.Second))
				l.Order = record.Order{Incarnation: uint64(1 + n/10), Sequence: uint64(n % 10)}
				if n%7 == 3 || n == 29 && i%3 == 0 {
					l.TTL = 0
				}
				past, last = append(past, l), l
			}
			tb.admit(last, told{tier: TierLAN}, now)
			if !last.Tombstone() {
				truth[node] = last.Order
			}
		}
		for range count {
			l := past[rng.IntN(len(past))]
			if forgetful {
				tb.floor = new(record.Floor)
				tb.wanted = record.Floor{}
			}
			tier := TierLAN
			if rng.IntN(2) == 0 {
				tier = TierDHT
			}
			tb.admit(l, told{tier: tier}, now)
			if node := key(20 + rng.IntN(nodes)).Public(); rng.IntN(4) == 0 {
				tb.bury(node, endSilent, now)
			} else {
				tb.revive(node)
			}
			alive := 0
			for _, e := range tb.list(cell, now) {
				if alive++; truth[e.Node] != e.Lease.Order {
					wrong++
				}
			}
			for node := range truth {
				if tb.isDead(node) {
					alive++
				}
			}
			if alive < len(truth) {
				wrong++ // one is missing
			}
		}
		return wrong
	}
	if n := attack(false, *replays); n != 0 {
		t.Errorf("of %d nodes it was wrong whether they serve", n)
	}
	if n := attack(true, 200); n == 0 {
		t.Error("a table that remembers nothing is not fooled either, so the test shows nothing")
	} else {
		t.Logf("a table that remembers nothing is wrong of %d nodes after 200 replays", n)
	}
}
