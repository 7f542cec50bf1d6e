package mesh

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/record"
)

func TestAnnounceGoesThroughItsPhases(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lan, dht := (&ether{}).join(), &sky{delay: 300 * time.Millisecond}
		var kinds []string
		m := start(t, 10, Config{LAN: lan, WAN: dht, Event: func(e Event) { kinds = append(kinds, e.Kind) }})

		l := m.Announce(cellOf("greeter"), grantAny(t), nil)
		if s := l.State(); s.Phase != Announcing || !s.LAN || s.Holders != 0 {
			t.Errorf("at once: %+v, want announcing with the LAN told", s)
		}
		if sent, _ := lan.sent(); len(sent) != 1 {
			t.Errorf("the LAN was told %d times before Announce returned, want once", len(sent))
		}
		changed := l.Updated()
		began := time.Now()
		<-changed
		if s := l.State(); s.Phase != Held || s.Holders != 8 || s.Err != nil {
			t.Errorf("after the put: %+v, want held by 8", s)
		}
		if took := time.Since(began); took != 300*time.Millisecond {
			t.Errorf("held after %v, want 300ms", took)
		}
		if err := l.Withdraw(t.Context()); err != nil {
			t.Errorf("Withdraw: %v", err)
		}
		if s := l.State(); s.Phase != Withdrawn || s.Holders != 8 {
			t.Errorf("at the end: %+v, want withdrawn with the tombstone at 8", s)
		}
		if want := "announce announce withdraw"; join(kinds) != want {
			t.Errorf("events: %s, want %s", join(kinds), want)
		}
	})
}

func join(words []string) (s string) {
	for i, w := range words {
		if i > 0 {
			s += " "
		}
		s += w
	}
	return s
}

func TestBothTiersGetTheirOwnAddressesInOneOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lan, dht := (&ether{}).join(), &sky{}
		m := start(t, 10, Config{LAN: lan, WAN: dht})
		m.Announce(cellOf("greeter"), grantAny(t), nil)
		synctest.Wait()
		sent, _ := lan.sent()
		puts, _ := dht.log()
		if len(sent) != 1 || len(puts) != 1 {
			t.Fatalf("%d announcements and %d puts, want one each", len(sent), len(puts))
		}
		if a, b := string(sent[0].Addrs[0]), string(puts[0].lease.Addrs[0]); a != "near" || b != "far" {
			t.Errorf("addresses %q on the LAN and %q in the DHT, want near and far", a, b)
		}
		if sent[0].Order != puts[0].lease.Order {
			t.Errorf("orders %v and %v differ: one would displace the other", sent[0].Order, puts[0].lease.Order)
		}
	})
}

func TestRenewalAfterAThirdWithJitter(t *testing.T) {
	for _, c := range []struct {
		rand float64
		want time.Duration
	}{{0, 40 * time.Second}, {0.5, 38 * time.Second}, {0.999999999, 36 * time.Second}} {
		bubble(t, func(t *testing.T) {
			dht := &sky{}
			m := start(t, 10, Config{WAN: dht, Rand: func() float64 { return c.rand }})
			m.Announce(cellOf("greeter"), grantAny(t), nil)
			time.Sleep(3*time.Minute + time.Second)
			puts, _ := dht.log()
			if len(puts) < 5 {
				t.Fatalf("%d puts in three minutes, want at least 5", len(puts))
			}
			for i, p := range puts[1:] {
				if got := p.at.Sub(puts[i].at).Round(time.Millisecond); got != c.want {
					t.Errorf("jitter %v: renewal %d after %v, want %v", c.rand, i, got, c.want)
				}
				if p.lease.Order.Compare(puts[i].lease.Order) <= 0 {
					t.Errorf("renewal %d has order %v after %v", i, p.lease.Order, puts[i].lease.Order)
				}
			}
		})
	}
}

func TestChangeOfAddressIsAnnounced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		at := "kitchen"
		lan, dht := (&ether{}).join(), &sky{}
		m := start(t, 10, Config{LAN: lan, WAN: dht, Addrs: func(bool) [][]byte {
			mu.Lock()
			defer mu.Unlock()
			return [][]byte{[]byte(at)}
		}})
		move := func(to string) {
			mu.Lock()
			defer mu.Unlock()
			at = to
		}
		m.Announce(cellOf("greeter"), grantAny(t), nil)
		move("garden")
		m.Refresh()
		synctest.Wait()
		m.Refresh() // nothing new: no announcement
		synctest.Wait()
		sent, _ := lan.sent()
		if len(sent) != 2 || string(sent[1].Addrs[0]) != "garden" || sent[1].Order.Compare(sent[0].Order) <= 0 {
			t.Fatalf("after Refresh %d announcements, the last %+v; want a second, later one from the garden", len(sent), sent[len(sent)-1].Header)
		}
		move("roof") // nobody says so: found by looking
		time.Sleep(6 * time.Second)
		puts, _ := dht.log()
		if last := puts[len(puts)-1]; string(last.lease.Addrs[0]) != "roof" {
			t.Errorf("in the DHT after six seconds: %q, want roof", last.lease.Addrs[0])
		}
	})
}

func TestFailingPutIsRetriedAndNeverHoldsUpTheLAN(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lan, dht := (&ether{}).join(), &sky{err: errors.New("no peers")}
		m := start(t, 10, Config{LAN: lan, WAN: dht, Rand: func() float64 { return 0 }})
		l := m.Announce(cellOf("greeter"), grantAny(t), nil)
		synctest.Wait()
		if s := l.State(); s.Phase != Failing || !s.LAN || s.Err == nil {
			t.Errorf("state %+v, want failing with the LAN told and the reason", s)
		}
		time.Sleep(20 * time.Second)
		puts, _ := dht.log()
		want := []time.Duration{250, 500, 1000, 2000, 4000, 8000}
		if len(puts) != len(want)+1 {
			t.Fatalf("%d puts in 20 s, want %d", len(puts), len(want)+1)
		}
		for i, d := range want {
			if got := puts[i+1].at.Sub(puts[i].at); got != d*time.Millisecond {
				t.Errorf("retry %d after %v, want %v", i, got, d*time.Millisecond)
			}
		}
		dht.set(nil, true) // worse: it does not even answer
		time.Sleep(2 * time.Minute)
		if sent, _ := lan.sent(); len(sent) < 4 {
			t.Errorf("the LAN was told %d times in 140 s while the DHT hung, want 4", len(sent))
		}
		dht.set(nil, false)
		m.Refresh()
		time.Sleep(16 * time.Second) // the hung put has a time limit
		if s := l.State(); s.Phase != Held || s.Err != nil {
			t.Errorf("once the DHT is back: %+v, want held", s)
		}
	})
}

func TestNewerLeaseReplacesThePutUnderWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &sky{hang: true}
		m := start(t, 10, Config{WAN: dht})
		l := m.Announce(cellOf("greeter"), grantAny(t), nil)
		time.Sleep(time.Second)
		l.Drain()
		synctest.Wait()
		puts, _ := dht.log()
		if len(puts) != 2 || puts[1].at.Sub(puts[0].at) != time.Second || puts[1].lease.State != record.StateDraining {
			t.Fatalf("%d puts; want a second one, of the draining lease, with no time gone by", len(puts))
		}
		if s := l.State(); s.Phase != Announcing || s.Err != nil {
			t.Errorf("state %+v: the put that was given up counts as a failure", s)
		}
	})
}

func TestRefreshRetriesAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &sky{err: errors.New("no peers")}
		m := start(t, 10, Config{WAN: dht})
		l := m.Announce(cellOf("greeter"), grantAny(t), nil)
		time.Sleep(10 * time.Second)
		dht.set(nil, false)
		m.Refresh()
		synctest.Wait()
		if s := l.State(); s.Phase != Held {
			t.Errorf("state %+v, want held with no time gone by", s)
		}
	})
}

func TestWithdrawTellsTheLANAtOnceAndTheDHTForABoundedTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lan, dht := (&ether{}).join(), &sky{}
		m := start(t, 10, Config{LAN: lan, WAN: dht})
		l := m.Announce(cellOf("greeter"), grantAny(t), nil)
		synctest.Wait()
		order := l.State().Order
		dht.set(nil, true)

		now, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.Withdraw(now); !errors.Is(err, context.Canceled) {
			t.Errorf("Withdraw without time: %v, want context.Canceled", err)
		}
		_, withdrawn := lan.sent()
		if len(withdrawn) != 1 || !withdrawn[0].Tombstone() || withdrawn[0].Order.Compare(order) <= 0 {
			t.Fatalf("on the LAN: %d tombstones; want one, later than %v", len(withdrawn), order)
		}
		began := time.Now()
		err := l.Withdraw(t.Context())
		if took := time.Since(began); took > 10*time.Second || took < 9*time.Second {
			t.Errorf("the farewell to a hung DHT took %v, want about 10s", took)
		}
		if s := l.State(); err == nil || s.Phase != Withdrawn || !errors.Is(s.Err, context.DeadlineExceeded) {
			t.Errorf("Withdraw: %v, state %+v; want the failure in both", err, s)
		}
		if _, err := collect(m, cellOf("greeter")); err == nil {
			t.Error("a withdrawn cell is still found on its own node")
		}
	})
}

func TestWithdrawWhereNobodyHoldsTheLeaseIsQuick(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &sky{err: errors.New("no peers")}
		m := start(t, 10, Config{LAN: (&ether{}).join(), WAN: dht})
		l := m.Announce(cellOf("greeter"), grantAny(t), nil)
		time.Sleep(time.Minute)
		began := time.Now()
		if err := l.Withdraw(t.Context()); err != nil || time.Since(began) != 0 {
			t.Errorf("Withdraw: %v after %v, want nil at once", err, time.Since(began))
		}
	})
}

func TestAnnounceAfterWithdrawComesLater(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lan, dht := (&ether{}).join(), &sky{delay: time.Second}
		m := start(t, 10, Config{LAN: lan, WAN: dht})
		cell := cellOf("greeter")
		first := m.Announce(cell, grantAny(t), nil)
		time.Sleep(2 * time.Second)
		go first.Withdraw(context.Background())
		synctest.Wait()
		second := m.Announce(cell, grantAny(t), nil) // while the tombstone is still on its way
		if second == first {
			t.Fatal("Announce returned the withdrawn lease")
		}
		_, withdrawn := lan.sent()
		if second.State().Order.Compare(withdrawn[0].Order) <= 0 {
			t.Errorf("order %v is not above the tombstone's %v", second.State().Order, withdrawn[0].Order)
		}
		time.Sleep(5 * time.Second)
		dht.mu.Lock()
		kept := dht.held[cell][m.self]
		dht.mu.Unlock()
		if kept.Tombstone() {
			t.Error("the tombstone won over the later lease")
		}
		if s := second.State(); s.Phase != Held {
			t.Errorf("state %+v, want held", s)
		}
		if again := m.Announce(cell, grantAny(t), nil); again != second {
			t.Error("announcing what is announced made a second lease")
		}
	})
}

func TestAnnounceAndWithdrawRace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lan := (&ether{}).join()
		m := start(t, 10, Config{LAN: lan, WAN: &sky{delay: time.Millisecond}})
		var all sync.WaitGroup
		grant := grantAny(t)
		for range 8 {
			all.Go(func() {
				for range 20 {
					l := m.Announce(cellOf("greeter"), grant, nil)
					l.Withdraw(context.Background())
				}
			})
		}
		all.Wait()
		lan.mu.Lock()
		defer lan.mu.Unlock()
		if len(lan.own) != 0 {
			t.Error("an announcement outlived its withdrawal on the LAN")
		}
	})
}

func TestDrainIsAnnounced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lan := (&ether{}).join()
		m := start(t, 10, Config{LAN: lan})
		l := m.Announce(cellOf("greeter"), grantAny(t), nil)
		l.Drain()
		sent, _ := lan.sent()
		if last := sent[len(sent)-1]; len(sent) != 2 || last.State != record.StateDraining {
			t.Errorf("%d announcements, the last in state %d; want a second one, draining", len(sent), last.State)
		}
		if found, err := collect(m, cellOf("greeter")); err != nil || !found[0].Draining() {
			t.Errorf("own cell: %+v, %v; want it found, draining", found, err)
		}
	})
}

func TestNoGrantNoAddressNoTierAreSaidPlainly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &sky{}
		m := start(t, 10, Config{WAN: dht, Addrs: func(lan bool) [][]byte { return nil }})
		if s := m.Announce(cellOf("greeter"), grantAny(t), nil).State(); s.Phase != Failing || !errors.Is(s.Err, ErrNoAddrs) {
			t.Errorf("without an address: %+v", s)
		}
		if s := m.Announce(cellOf("stolen"), nil, nil).State(); s.Phase != Failing || !errors.Is(s.Err, record.ErrGrant) {
			t.Errorf("without a grant: %+v", s)
		}
		synctest.Wait()
		if puts, _ := dht.log(); len(puts) != 0 {
			t.Errorf("%d puts, want none", len(puts))
		}
		alone := start(t, 11, Config{})
		if s := alone.Announce(cellOf("greeter"), grantAny(t), nil).State(); s.Phase != Held || s.LAN || s.Holders != 0 {
			t.Errorf("without any tier: %+v", s)
		}
	})
}

func TestLeaseTooLongLosesItsLastAddresses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lan := (&ether{}).join()
		m := start(t, 10, Config{LAN: lan, Addrs: func(bool) (all [][]byte) {
			for i := range 20 {
				a := make([]byte, record.MaxAddrSize)
				a[0] = byte(i)
				all = append(all, a)
			}
			return append(all, make([]byte, record.MaxAddrSize+1))
		}})
		var subjects []record.Subject
		for i := range record.MaxSubjects {
			subjects = append(subjects, record.Subject{Kind: record.SubjectNode, Key: key(10 + i).Public()})
		}
		g, err := record.SignGrant(author, network, "", subjects, time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		s := m.Announce(cellOf("greeter"), g.Raw, nil).State()
		sent, _ := lan.sent()
		if s.Err != nil || len(sent) != 1 || len(sent[0].Addrs) == 0 || len(sent[0].Addrs) >= record.MaxAddrs || sent[0].Addrs[0][0] != 0 {
			t.Errorf("state %+v with %d announcements; want one with the first few addresses", s, len(sent))
		}
	})
}

func TestStoppedMeshAnnouncesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lan := (&ether{}).join()
		m := New(Config{Network: network, Key: key(10), LAN: lan})
		ctx, cancel := context.WithCancel(t.Context())
		l := m.Announce(cellOf("greeter"), grantAny(t), nil)
		cancel()
		m.Run(ctx)
		if s := l.State(); !errors.Is(s.Err, ErrStopped) {
			t.Errorf("state %+v, want stopped", s)
		}
		if l := m.Announce(cellOf("other"), grantAny(t), nil); !errors.Is(l.State().Err, ErrStopped) || !errors.Is(l.Withdraw(t.Context()), ErrStopped) {
			t.Errorf("announced after the end: %+v", l.State())
		}
		if _, err := collect(m, cellOf("third")); !errors.Is(err, ErrStopped) {
			t.Errorf("Discover after the end: %v, want ErrStopped", err)
		}
		if sent, _ := lan.sent(); len(sent) != 1 {
			t.Errorf("%d announcements, want the first only", len(sent))
		}
	})
}

// Those who hand out a cell's source are found under a topic of their own, and
// are never taken for those who serve it.
func TestAnnounceSeed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := &ether{}
		port := e.join()
		near := e.join()
		a := start(t, 10, Config{LAN: port})
		b := start(t, 11, Config{LAN: near})
		near.hear = b.Heard
		s, err := record.SignSpore(author, record.Spore{
			Cell: cellOf("greeter"), Seq: 1, Version: "1.0.0", Commit: "0123456789012345678901234567890123456789", Size: 1, Files: 1,
			Tree: [32]byte{1}, Serve: record.Serve{Open: true}, Issued: time.Now(), Expires: time.Now().Add(24 * time.Hour),
		})
		if err != nil {
			t.Fatal(err)
		}
		a.AnnounceSeed(s)
		found := 0
		for ep, err := range b.Discover(t.Context(), cellOf("greeter").Seeds()) {
			if err != nil {
				t.Fatal(err)
			}
			if ep.Lease.Seed == nil || ep.Lease.Seed.Spore != s.Hash() || ep.Node != key(10).Public() {
				t.Errorf("found %+v", ep)
			}
			found++
		}
		if found != 1 {
			t.Errorf("%d seeds found, want 1", found)
		}
		for ep, err := range b.Discover(t.Context(), cellOf("greeter")) {
			if err == nil {
				t.Errorf("a seed was found as one who serves: %+v", ep)
			}
		}
	})
}
