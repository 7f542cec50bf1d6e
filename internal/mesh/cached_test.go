package mesh

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// others returns what Cached says, as numbers of nodes, and checks how it says it.
func others(t *testing.T, m *Mesh, cell string) []int {
	t.Helper()
	of := make(map[identity.Key]int)
	for i := range 40 {
		of[key(i).Public()] = i
	}
	var all []int
	for _, e := range m.Cached(cellOf(cell)) {
		if e.Tier != TierCache || e.Took != 0 || len(e.Addrs) == 0 {
			t.Errorf("%s: tier %s, took %v, %d addresses", cell, e.Tier, e.Took, len(e.Addrs))
		}
		all = append(all, of[e.Node])
	}
	return all
}

func wantOthers(t *testing.T, m *Mesh, cell string, want ...int) {
	t.Helper()
	if got := others(t, m, cell); !slices.Equal(got, want) {
		t.Errorf("%s: nodes %v, want %v", cell, got, want)
	}
}

// TestCachedSaysWhatDiscoverWould changes what is known in every way that there
// is; what Cached says must change with it, at once.
func TestCachedSaysWhatDiscoverWould(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := start(t, 10, Config{LAN: (&ether{}).join()})
		wantOthers(t, m, "greeter")
		m.learn(lease(t, 21, "greeter", 1), told{tier: TierDHT})
		wantOthers(t, m, "greeter", 21)
		time.Sleep(time.Second)
		m.Heard(lease(t, 20, "greeter", 1))
		wantOthers(t, m, "greeter", 20, 21) // neighbours first
		m.Heard(lease(t, 22, "other", 1))
		wantOthers(t, m, "greeter", 20, 21)
		wantOthers(t, m, "other", 22)

		m.Announce(cellOf("greeter"), grantAny(t), nil)
		wantOthers(t, m, "greeter", 20, 21) // never this node itself
		m.Heard(lease(t, 20, "greeter", 2, draining))
		wantOthers(t, m, "greeter", 21, 20) // those who drain last
		m.Forget(cellOf("greeter"), key(21).Public())
		wantOthers(t, m, "greeter", 20)
		m.Heard(lease(t, 21, "greeter", 2))
		wantOthers(t, m, "greeter", 21, 20)
		m.Heard(lease(t, 20, "greeter", 3, tombstone))
		wantOthers(t, m, "greeter", 21)
		time.Sleep(2*time.Minute - time.Nanosecond)
		wantOthers(t, m, "greeter", 21)
		time.Sleep(time.Nanosecond)
		wantOthers(t, m, "greeter")
	})
}

// TestCachedObeysANewerGrant: a lease under a grant that its author has
// replaced is gone, though all that came was a lease of another cell.
func TestCachedObeysANewerGrant(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := start(t, 10, Config{})
		m.Heard(lease(t, 20, "greeter", 1))
		wantOthers(t, m, "greeter", 20)
		time.Sleep(time.Second)
		m.Heard(lease(t, 21, "other", 1, func(o *record.Offer) {
			g, err := record.SignGrant(author, network, "", []record.Subject{{Kind: record.SubjectNode, Key: key(21).Public()}}, time.Now(), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			o.Grant = g.Raw
		}))
		wantOthers(t, m, "greeter")
		wantOthers(t, m, "other", 21)
	})
}

// TestCachedDropsAddressesThatLapse: the lease is renewed by way of the DHT
// alone, so the neighbour's address goes before the lease does.
func TestCachedDropsAddressesThatLapse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := start(t, 10, Config{})
		m.Heard(lease(t, 20, "greeter", 1, addrs("near")))
		time.Sleep(time.Minute)
		m.learn(lease(t, 20, "greeter", 2, addrs("far")), told{tier: TierDHT})
		for _, step := range []struct {
			wait time.Duration
			want int
		}{{0, 2}, {time.Minute - time.Nanosecond, 2}, {time.Nanosecond, 1}, {time.Second, 1}} {
			time.Sleep(step.wait)
			if all := m.Cached(cellOf("greeter")); len(all) != 1 || len(all[0].Addrs) != step.want {
				t.Errorf("after %v: %+v, want %d addresses", step.wait, all, step.want)
			}
		}
	})
}

// TestCachedSearchesInTheBackground does not wait, and searches as often as
// Discover would, whatever the number of questions.
func TestCachedSearchesInTheBackground(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &sky{delay: 300 * time.Millisecond}
		dht.Put(t.Context(), lease(t, 21, "greeter", 1))
		var events []Event
		m := start(t, 10, Config{WAN: dht, Event: func(e Event) { events = append(events, e) }})
		began := time.Now()
		ask := func(wait time.Duration, want ...int) {
			t.Helper()
			time.Sleep(wait)
			for range 3 {
				wantOthers(t, m, "greeter", want...)
			}
		}
		ask(0)
		if took := time.Since(began); took != 0 {
			t.Errorf("the first question took %v", took)
		}
		ask(299 * time.Millisecond)
		ask(2*time.Millisecond, 21)
		ask(9900*time.Millisecond, 21)
		if _, finds := dht.log(); finds != 1 {
			t.Errorf("%d searches of the DHT while the knowledge was fresh, want 1", finds)
		}
		ask(200*time.Millisecond, 21)
		synctest.Wait()
		if _, finds := dht.log(); finds != 2 {
			t.Errorf("%d searches of the DHT, want a second one", finds)
		}
		ask(time.Second, 21)
		dht.Put(t.Context(), lease(t, 22, "greeter", 1))
		ask(time.Second, 21)
		ask(10*time.Second, 21)
		ask(400*time.Millisecond, 21, 22)
		synctest.Wait()
		// The second search found what was known: nothing to tell anybody.
		if len(events) != 2 || events[0].Data["found"] != 1 || events[1].Data["found"] != 2 {
			t.Errorf("events %+v, want one of the first search and one of the third", events)
		}
	})
}

// TestCachedAfterAVainSearch does not search again at once, and tells of the
// vain search where somebody waits for it.
func TestCachedAfterAVainSearch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &sky{delay: 300 * time.Millisecond}
		told := 0
		m := start(t, 10, Config{WAN: dht, Event: func(Event) { told++ }})
		for i, step := range []struct {
			wait  time.Duration
			finds int
		}{{0, 1}, {time.Second, 1}, {2200 * time.Millisecond, 1}, {200 * time.Millisecond, 2}, {0, 2}} {
			time.Sleep(step.wait)
			wantOthers(t, m, "greeter")
			synctest.Wait()
			if _, finds := dht.log(); finds != step.finds {
				t.Errorf("step %d: %d searches, want %d", i, finds, step.finds)
			}
		}
		if told != 0 {
			t.Errorf("%d events of a search for which nobody waits and that finds nothing", told)
		}
		collect(m, cellOf("greeter")) // joins the search that is under way
		synctest.Wait()
		if _, finds := dht.log(); finds != 2 || told != 1 {
			t.Errorf("%d searches, %d events; want 2 and 1", finds, told)
		}
	})
}

// TestCachedOutlivesTheMesh neither searches nor fails once Run has ended.
func TestCachedOutlivesTheMesh(t *testing.T) {
	m := New(Config{Network: network, Key: key(10), WAN: &sky{}})
	m.Heard(lease(t, 20, "greeter", 1))
	m.mu.Lock()
	m.stopped = true
	m.mu.Unlock()
	wantOthers(t, m, "greeter", 20)
	wantOthers(t, m, "other")
}

func TestCachedAllocatesNothing(t *testing.T) {
	m := New(Config{Network: network, Key: key(10)})
	m.Heard(lease(t, 20, "greeter", 1))
	c := cellOf("greeter")
	m.Cached(c)
	if n := testing.AllocsPerRun(1000, func() { m.Cached(c) }); n != 0 {
		t.Errorf("%v allocations for a question", n)
	}
}

// BenchmarkCached asks for a cell with a few nodes, as every request does.
func BenchmarkCached(b *testing.B) {
	m := New(Config{Network: network, Key: key(10)})
	for i := range 8 {
		m.Heard(lease(b, 20+i, "greeter", 1))
	}
	c := cellOf("greeter")
	b.ReportAllocs()
	for b.Loop() {
		if len(m.Cached(c)) != 8 {
			b.Fatal("nodes are missing")
		}
	}
}

// BenchmarkDiscoverFirst is what a request cost before: the first endpoint of a
// Discover that the cache answers.
func BenchmarkDiscoverFirst(b *testing.B) {
	m := New(Config{Network: network, Key: key(10)})
	for i := range 8 {
		m.Heard(lease(b, 20+i, "greeter", 1))
	}
	c := cellOf("greeter")
	b.ReportAllocs()
	for b.Loop() {
		for e := range m.Discover(b.Context(), c) {
			_ = e
			break
		}
	}
}
