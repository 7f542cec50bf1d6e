package mesh

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// first returns the first endpoint of a Discover.
func first(t *testing.T, m *Mesh, c identity.Cell) Endpoint {
	t.Helper()
	for e, err := range m.Discover(t.Context(), c) {
		if err != nil {
			t.Fatalf("Discover: %v", err)
		}
		return e
	}
	t.Fatal("Discover yielded nothing")
	return Endpoint{}
}

func TestTiersStartTogetherAndTheFirstAnswerIsHandedOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lan := &ether{delay: 5 * time.Millisecond}
		dht := &sky{delay: 300 * time.Millisecond}
		dht.Put(t.Context(), lease(t, 21, "greeter", 1, addrs("far away")))
		neighbour := lan.join()
		neighbour.own[cellOf("greeter")] = lease(t, 20, "greeter", 1)
		m := start(t, 10, Config{LAN: lan.join(), WAN: dht})

		var got []Endpoint
		for e, err := range m.Discover(t.Context(), cellOf("greeter")) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e)
		}
		if len(got) != 2 {
			t.Fatalf("%d endpoints, want 2", len(got))
		}
		for i, want := range []struct {
			node int
			tier Tier
			took time.Duration
		}{{20, TierLAN, 10 * time.Millisecond}, {21, TierDHT, 300 * time.Millisecond}} {
			if e := got[i]; e.Node != key(want.node).Public() || e.Tier != want.tier || e.Took != want.took {
				t.Errorf("endpoint %d: tier %s after %v, want %+v", i, e.Tier, e.Took, want)
			}
		}
		again := first(t, m, cellOf("greeter"))
		if again.Tier != TierCache || again.Took != 0 || again.Node != key(20).Public() {
			t.Errorf("again: %s after %v, want the neighbour from the cache at once", again.Tier, again.Took)
		}
	})
}

func TestCacheAnswersAloneOnlyWhileFresh(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &sky{delay: 300 * time.Millisecond}
		dht.Put(t.Context(), lease(t, 21, "greeter", 1))
		m := start(t, 10, Config{WAN: dht})
		for i, step := range []struct {
			wait  time.Duration
			finds int
		}{{0, 1}, {9 * time.Second, 1}, {1100 * time.Millisecond, 2}, {time.Second, 2}} {
			time.Sleep(step.wait)
			if got, err := collect(m, cellOf("greeter")); err != nil || len(got) != 1 {
				t.Fatalf("step %d: %d endpoints, %v", i, len(got), err)
			}
			if _, finds := dht.log(); finds != step.finds {
				t.Errorf("step %d: %d searches of the DHT, want %d", i, finds, step.finds)
			}
		}
	})
}

// TestWithdrawalInTheDHT finds a tombstone alone where a lease was before.
func TestWithdrawalInTheDHT(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &sky{}
		dht.Put(t.Context(), lease(t, 21, "greeter", 1))
		m := start(t, 10, Config{WAN: dht})
		if got, err := collect(m, cellOf("greeter")); err != nil || len(got) != 1 {
			t.Fatalf("%d endpoints, %v", len(got), err)
		}
		dht.Put(t.Context(), lease(t, 21, "greeter", 2, tombstone))
		time.Sleep(11 * time.Second) // the cache no longer answers alone
		collect(m, cellOf("greeter"))
		_, err := collect(m, cellOf("greeter"))
		if err == nil || !strings.Contains(err.Error(), "it withdrew just now") || !strings.Contains(err.Error(), "dht: withdrawn") {
			t.Errorf("after the withdrawal: %v", err)
		}
	})
}

func TestConcurrentDiscoversShareOneSearch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lan, dht := (&ether{}).join(), &sky{delay: 300 * time.Millisecond}
		dht.Put(t.Context(), lease(t, 21, "greeter", 1))
		m := start(t, 10, Config{LAN: lan, WAN: dht})
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				if got, err := collect(m, cellOf("greeter")); err != nil || len(got) != 1 {
					t.Errorf("caller %d: %d endpoints, %v", i, len(got), err)
				}
			})
		}
		all.Wait()
		if _, finds := dht.log(); finds != 1 || lan.queries != 1 {
			t.Errorf("%d searches of the DHT and %d of the LAN, want one each", finds, lan.queries)
		}
	})
}

func TestNotFoundSaysWhyByTier(t *testing.T) {
	bubble(t, func(t *testing.T) {
		noPeers := errors.New("no peers")
		dht := &sky{delay: 100 * time.Millisecond, err: noPeers}
		m := start(t, 10, Config{LAN: (&ether{}).join(), WAN: dht})
		began := time.Now()
		_, err := collect(m, cellOf("greeter"))
		var nf *NotFound
		if !errors.As(err, &nf) || nf.Cell != cellOf("greeter") {
			t.Fatalf("error %v, want NotFound", err)
		}
		if took := time.Since(began); took != 400*time.Millisecond {
			t.Errorf("known after %v, want the LAN's 400ms", took)
		}
		want := "cache: nothing known; lan: nobody answered within 400ms; dht: no peers"
		if !strings.Contains(err.Error(), want) || !errors.Is(err, noPeers) {
			t.Errorf("error %q, want %q and the DHT's own error within", err, want)
		}
		none := start(t, 11, Config{})
		if _, err := collect(none, cellOf("greeter")); err == nil || !strings.Contains(err.Error(), "lan: not in use; dht: not in use") {
			t.Errorf("without tiers: %v", err)
		}
	})
}

func TestNegativeAnswerLastsThreeSecondsUnlessALeaseIsHeard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lan, dht := (&ether{}).join(), &sky{}
		m := start(t, 10, Config{LAN: lan, WAN: dht})
		cell := cellOf("greeter")
		ask := func() time.Duration {
			began := time.Now()
			if _, err := collect(m, cell); err == nil {
				t.Fatal("found what nobody serves")
			}
			return time.Since(began)
		}
		if took := ask(); took != 400*time.Millisecond {
			t.Errorf("first no after %v", took)
		}
		time.Sleep(2900 * time.Millisecond)
		if took := ask(); took != 0 {
			t.Errorf("second no after %v, want at once", took)
		}
		time.Sleep(200 * time.Millisecond)
		if took := ask(); took != 400*time.Millisecond {
			t.Errorf("no after 3.1 s: took %v, want a new search", took)
		}
		time.Sleep(time.Second)
		m.Heard(lease(t, 20, "greeter", 1))
		if e := first(t, m, cell); e.Tier != TierCache || e.Took != 0 {
			t.Errorf("heard in between: %s after %v, want it from the cache at once", e.Tier, e.Took)
		}
		time.Sleep(time.Second) // the search that this began has ended
		m.Heard(lease(t, 20, "greeter", 2, tombstone))
		if took := ask(); took != 400*time.Millisecond {
			t.Errorf("heard and withdrawn since the last no: took %v, want a new search", took)
		}
		time.Sleep(10*time.Second - 400*time.Millisecond)
		_, err := collect(m, cell)
		if err == nil || !strings.Contains(err.Error(), key(20).Public().Short()+"; it withdrew 10") {
			t.Errorf("after the tombstone: %v, want who withdrew it and when", err)
		}
	})
}

func TestHeardWhileSearchingIsHandedOnAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := start(t, 10, Config{LAN: (&ether{}).join(), WAN: &sky{delay: 5 * time.Second}})
		time.AfterFunc(33*time.Millisecond, func() { m.Heard(lease(t, 20, "greeter", 1)) })
		if e := first(t, m, cellOf("greeter")); e.Took != 33*time.Millisecond || e.Tier != TierLAN {
			t.Errorf("%s after %v, want lan after 33ms", e.Tier, e.Took)
		}
	})
}

func TestDrainingComesLast(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &sky{delay: time.Second}
		dht.Put(t.Context(), lease(t, 21, "greeter", 1))
		m := start(t, 10, Config{WAN: dht})
		m.Heard(lease(t, 20, "greeter", 1, draining))
		got, err := collect(m, cellOf("greeter"))
		if err != nil || len(got) != 2 || got[0].Draining() || !got[1].Draining() {
			t.Errorf("got %d endpoints (%v), want the far one, then the draining neighbour", len(got), err)
		}
	})
}

func TestOwnCellIsTierSelf(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &sky{delay: time.Second}
		m := start(t, 10, Config{WAN: dht})
		m.Announce(cellOf("greeter"), grantAny(t), nil)
		time.Sleep(5 * time.Second)
		got, err := collect(m, cellOf("greeter")) // the DHT returns our own lease, too
		if err != nil || len(got) != 1 || got[0].Tier != TierSelf || got[0].Node != m.self || got[0].Took != 0 {
			t.Errorf("got %+v, %v; want this node once, at once", got, err)
		}
		if _, finds := dht.log(); finds != 1 {
			t.Fatalf("%d searches, want 1", finds)
		}
		collect(m, cellOf("greeter"))
		if _, finds := dht.log(); finds != 1 {
			t.Error("a cell served here alone is searched for every time")
		}
	})
}

func TestForgetHoldsUntilANewLease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &sky{}
		old := lease(t, 20, "greeter", 1)
		dht.Put(t.Context(), old)
		m := start(t, 10, Config{WAN: dht})
		first(t, m, cellOf("greeter"))
		synctest.Wait()
		m.Forget(cellOf("greeter"), key(20).Public())
		m.Heard(old)
		_, err := collect(m, cellOf("greeter"))
		if err == nil || !strings.Contains(err.Error(), "did not answer") || !strings.Contains(err.Error(), "none of them current") {
			t.Errorf("after Forget: %v, want NotFound with the reasons", err)
		}
		m.Heard(lease(t, 20, "greeter", 2))
		if e := first(t, m, cellOf("greeter")); e.Lease.Order.Sequence != 2 {
			t.Errorf("got order %v, want the new lease", e.Lease.Order)
		}
	})
}

func TestDiscoverEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &sky{hang: true}
		m := start(t, 10, Config{WAN: dht})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var got error
		for _, err := range m.Discover(ctx, cellOf("greeter")) {
			got = err
		}
		if !errors.Is(got, context.DeadlineExceeded) {
			t.Errorf("error %v, want the deadline's", got)
		}
		// The search itself is bounded, too.
		began := time.Now()
		if _, err := collect(m, cellOf("greeter")); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 9*time.Second {
			t.Errorf("joined the search: %v after %v, want it to end 10 s after its start", err, time.Since(began))
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.waiters) != 0 || len(m.searches) != 0 {
			t.Errorf("%d watchers and %d searches are left", len(m.waiters), len(m.searches))
		}
	})
}

func TestForeignLeasesAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &sky{}
		m := start(t, 10, Config{WAN: dht})
		dht.extra = []record.Lease{lease(t, 20, "other", 1)}
		if _, err := collect(m, cellOf("greeter")); err == nil {
			t.Error("a lease of another cell was taken for an answer")
		}
		stranger := lease(t, 21, "greeter", 1)
		stranger.Network = identity.Network("elsewhere").ID()
		m.Heard(stranger)
		if n := m.Stats()["foreign"]; n != 2 {
			t.Errorf("%d foreign leases counted, want 2", n)
		}
	})
}

func TestTooManySearches(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := start(t, 10, Config{WAN: &sky{hang: true}})
		for i := range maxSearches {
			go collect(m, cellOf("c"+string(rune('a'+i%26))+string(rune('a'+i/26))))
		}
		synctest.Wait()
		if _, err := collect(m, cellOf("one-more")); !errors.Is(err, ErrBusy) {
			t.Errorf("error %v, want ErrBusy", err)
		}
		m.Heard(lease(t, 20, "known", 1))
		if got, err := collect(m, cellOf("known")); err != nil || len(got) != 1 {
			t.Errorf("known cell while busy: %d endpoints, %v; want it from the cache", len(got), err)
		}
	})
}

// TestTwoMeshes joins real meshes over the fakes: announced here, found there.
func TestTwoMeshes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lan, dht := &ether{delay: time.Millisecond}, &sky{delay: 50 * time.Millisecond}
		a := start(t, 10, Config{LAN: lan.join(), WAN: dht})
		b := start(t, 11, Config{LAN: lan.join(), WAN: dht})
		c := start(t, 12, Config{WAN: dht}) // far away
		l := a.Announce(cellOf("greeter"), grantAny(t), nil)
		time.Sleep(time.Second)
		near, far := first(t, b, cellOf("greeter")), first(t, c, cellOf("greeter"))
		if near.Node != a.self || near.Tier != TierCache || string(near.Addrs[0]) != "near" {
			t.Errorf("neighbour got %s %q", near.Tier, near.Addrs)
		}
		if far.Node != a.self || far.Tier != TierDHT || string(far.Addrs[0]) != "far" {
			t.Errorf("stranger got %s %q", far.Tier, far.Addrs)
		}
		time.Sleep(time.Second)
		if e := first(t, b, cellOf("greeter")); len(e.Addrs) != 2 || string(e.Addrs[1]) != "far" {
			t.Errorf("neighbour after the search has %q, want both addresses", e.Addrs)
		}
		if err := l.Withdraw(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
		if _, err := collect(b, cellOf("greeter")); err == nil {
			t.Error("the neighbour still finds the withdrawn cell")
		}
		time.Sleep(15 * time.Second)
		collect(c, cellOf("greeter")) // the cache may answer, but asks again
		if _, err := collect(c, cellOf("greeter")); err == nil {
			t.Error("the stranger still finds the withdrawn cell")
		}
	})
}
