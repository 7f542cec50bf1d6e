package mesh

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// TestLostNodesAreHidden asks everything that hands out endpoints.
func TestLostNodesAreHidden(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := start(t, 10, Config{LAN: (&ether{}).join()})
		m.Heard(lease(t, 20, "greeter", 1))
		time.Sleep(time.Second)
		m.Heard(lease(t, 21, "greeter", 1))
		m.Heard(lease(t, 20, "other", 2))
		wantOthers(t, m, "greeter", 20, 21)

		m.Lost(key(20).Public(), false)
		m.Lost(key(20).Public(), false)
		wantOthers(t, m, "greeter", 21)
		m.Back(key(20).Public())
		wantOthers(t, m, "greeter", 20, 21)
		m.Lost(key(20).Public(), false)
		wantOthers(t, m, "greeter", 21)
		wantOthers(t, m, "other")
		if got, err := collect(m, cellOf("greeter")); err != nil || len(got) != 1 {
			t.Errorf("%d endpoints, %v; want the live one", len(got), err)
		}
		if n := len(m.Known()); n != 1 {
			t.Errorf("%d endpoints are known, want 1", n)
		}
		_, err := collect(m, cellOf("other"))
		if err == nil || !strings.Contains(err.Error(), "cache: last served by "+key(20).Public().Short()+"; its host fell silent just now") {
			t.Errorf("of the dead node's cell: %v", err)
		}
		m.Back(key(20).Public())
		wantOthers(t, m, "greeter", 20, 21)
		wantOthers(t, m, "other", 20)
		m.Lost(m.self, false)
		m.Announce(cellOf("other"), grantAny(t), nil)
		if e := first(t, m, cellOf("other")); e.Tier != TierSelf {
			t.Errorf("this node believes in its own death: %s", e.Tier)
		}
	})
}

// TestProofOfLife sends leases of a dead node: only one that it must have made
// since brings it back, and then with all that it serves.
func TestProofOfLife(t *testing.T) {
	before := func(o *record.Offer) { o.Issued = o.Issued.Add(-time.Second) }
	for _, c := range []struct {
		name     string
		sequence uint64
		tier     Tier
		change   []func(*record.Offer)
		back     bool
	}{
		{"a copy", 1, TierLAN, nil, false},
		{"older than what is known of another cell", 2, TierLAN, nil, false},
		{"newer, on the LAN", 4, TierLAN, []func(*record.Offer){before}, true},
		{"newer, in the DHT, of before", 4, TierDHT, []func(*record.Offer){before}, false},
		{"newer, in the DHT", 4, TierDHT, nil, true},
		{"a tombstone", 4, TierLAN, []func(*record.Offer){tombstone}, false},
		{"draining", 4, TierDHT, []func(*record.Offer){draining}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				m := start(t, 10, Config{})
				m.Heard(lease(t, 20, "greeter", 1))
				m.Heard(lease(t, 20, "other", 3))
				time.Sleep(time.Minute + time.Microsecond)
				m.Lost(key(20).Public(), false)
				what := m.learn(lease(t, 20, "greeter", c.sequence, c.change...), told{tier: c.tier})
				var want []int
				if c.back {
					want = []int{20}
				} else if usable(what) {
					t.Errorf("the lease counts as an answer: %s", what)
				}
				wantOthers(t, m, "greeter", want...)
				wantOthers(t, m, "other", want...)
			})
		})
	}
}

// TestHiddenLeaseIsNoAnswer finds the lease of a dead node in the DHT, again and
// again, until the node itself speaks.
func TestHiddenLeaseIsNoAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &sky{}
		dht.Put(t.Context(), lease(t, 20, "greeter", 5))
		m := start(t, 10, Config{WAN: dht})
		time.Sleep(time.Millisecond)
		m.Lost(key(20).Public(), false)
		for range 2 {
			_, err := collect(m, cellOf("greeter"))
			if err == nil || !strings.Contains(err.Error(), "dht: only leases of nodes that are gone") {
				t.Errorf("got %v", err)
			}
			time.Sleep(4 * time.Second)
		}
		m.Heard(lease(t, 20, "greeter", 6))
		wantOthers(t, m, "greeter", 20)
	})
}

// TestDeathDuringADiscover waits for a search while the only node known dies and comes back.
func TestDeathDuringADiscover(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := start(t, 10, Config{WAN: &sky{delay: time.Second}})
		m.Lost(key(20).Public(), false)
		m.Heard(lease(t, 20, "greeter", 1))
		m.Lost(key(20).Public(), false)
		time.AfterFunc(333*time.Millisecond, func() { m.Back(key(20).Public()) })
		if e := first(t, m, cellOf("greeter")); e.Took != 333*time.Millisecond {
			t.Errorf("after %v, want as soon as the node is back", e.Took)
		}
	})
}

func TestDeathsAreBoundedAndForgotten(t *testing.T) {
	tb, now := tableFor(nil), time.Now()
	for i := range maxDead + 10 {
		tb.bury(identity.Key{byte(i), byte(i >> 8), 1}, endSilent, now.Add(time.Duration(i)*time.Millisecond))
	}
	if len(tb.dead) != maxDead || tb.isDead(identity.Key{0, 0, 1}) || !tb.isDead(identity.Key{9, maxDead >> 8, 1}) {
		t.Errorf("%d dead nodes are remembered, want the last %d", len(tb.dead), maxDead)
	}
	tb.sweep(now.Add(deathTime))
	if len(tb.dead) == 0 {
		t.Error("forgotten while their leases may be valid")
	}
	tb.sweep(now.Add(deathTime + time.Minute))
	if len(tb.dead) != 0 {
		t.Errorf("%d dead nodes are remembered for ever", len(tb.dead))
	}
}

// TestDeadMakeRoom fills a cell with nodes that die.
func TestDeadMakeRoom(t *testing.T) {
	tb, now := tableFor(nil), time.Now()
	for i := range maxPerTier {
		tb.admit(lease(t, 100+i, "greeter", 1), told{tier: TierDHT}, now)
	}
	if got := tb.admit(lease(t, 200, "greeter", 1), told{tier: TierDHT}, now); got != full {
		t.Fatalf("one more is %s", got)
	}
	tb.bury(key(100).Public(), endSilent, now)
	if got := tb.admit(lease(t, 200, "greeter", 1), told{tier: TierDHT}, now); got != stored {
		t.Errorf("with a dead one to displace: %s", got)
	}
}

// TestNegativeAnswerEndsWithALease: within the three seconds of a no, whatever
// brings a lease or its node back is seen by the next question.
func TestNegativeAnswerEndsWithALease(t *testing.T) {
	for _, c := range []struct {
		name  string
		bring func(t *testing.T, m *Mesh, dht *sky)
	}{
		{"the LAN", func(t *testing.T, m *Mesh, _ *sky) { m.Heard(lease(t, 20, "greeter", 2)) }},
		{"the DHT, told of by itself", func(t *testing.T, m *Mesh, _ *sky) {
			m.learn(lease(t, 20, "greeter", 2), told{tier: TierDHT, pushed: true})
		}},
		{"a dead node that is back", func(t *testing.T, m *Mesh, _ *sky) { m.Back(key(20).Public()) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				dht := &sky{delay: 100 * time.Millisecond}
				m := start(t, 10, Config{WAN: dht, Unsure: 3 * time.Second})
				m.Heard(lease(t, 20, "greeter", 1))
				time.Sleep(time.Second)
				m.Lost(key(20).Public(), false)
				if _, err := collect(m, cellOf("greeter")); err == nil {
					t.Fatal("found a dead node")
				}
				time.Sleep(time.Second)
				if _, err := collect(m, cellOf("greeter")); err == nil {
					t.Fatal("found a dead node")
				}
				synctest.Wait()
				_, finds := dht.log()
				c.bring(t, m, dht)
				if e := first(t, m, cellOf("greeter")); e.Took != 0 || finds != 1 {
					t.Errorf("found after %v, %d searches before; want at once, and one", e.Took, finds)
				}
			})
		})
	}
}

// TestSharedFloor: what another part of the node has seen is old news here.
func TestSharedFloor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		floor := new(record.Floor)
		m := start(t, 10, Config{Floor: floor})
		if _, err := floor.Admit(lease(t, 20, "greeter", 5)); err != nil {
			t.Fatal(err)
		}
		m.Heard(lease(t, 20, "greeter", 4))
		wantOthers(t, m, "greeter")
		m.Heard(lease(t, 20, "greeter", 5))
		wantOthers(t, m, "greeter", 20)
		m.Heard(lease(t, 21, "greeter", 9))
		if _, err := floor.Admit(lease(t, 21, "greeter", 8)); err == nil {
			t.Error("the floor that is shared does not rise with what the mesh hears")
		}
	})
}

func TestWhyInPlainWords(t *testing.T) {
	now := time.Now()
	h := key(30).Public()
	for _, c := range []struct {
		told
		want string
	}{
		{told{tier: TierSelf}, "this node announces it"},
		{told{tier: TierLAN, at: now.Add(-3 * time.Second)}, "announced on the LAN 3s ago"},
		{told{tier: TierLAN, at: now}, "announced on the LAN just now"},
		{told{tier: TierDHT, at: now, hops: 1, holder: h}, fmt.Sprintf("lease from holder %s after 1 hop, just now", h.Short())},
		{told{tier: TierDHT, at: now.Add(-time.Minute), hops: 2, holder: h}, fmt.Sprintf("lease from holder %s after 2 hops, 1m0s ago", h.Short())},
		{told{tier: TierDHT, at: now, holder: h}, "lease held by this node for the DHT"},
		{told{tier: TierDHT, at: now, pushed: true}, "told by the DHT's watch just now"},
	} {
		if got := c.why(now); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// TestDiscoverSaysHow looks at a lease from a holder, and at the same lease once
// the LAN has told of it too.
func TestDiscoverSaysHow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := key(30).Public()
		dht := &sky{found: Finding{Hops: 1, Holder: h}}
		dht.Put(t.Context(), lease(t, 20, "greeter", 1))
		m := start(t, 10, Config{WAN: dht, RTT: func(k identity.Key) (time.Duration, bool) {
			return 42 * time.Millisecond, k == key(20).Public()
		}})
		e := first(t, m, cellOf("greeter"))
		if e.Hops != 1 || e.Holder != h || e.RTT != 42*time.Millisecond || !strings.Contains(e.Why, "after 1 hop") {
			t.Errorf("found: %d hops, holder %s, rtt %v, %s", e.Hops, e.Holder.Short(), e.RTT, e.Why)
		}
		time.Sleep(time.Second)
		m.Heard(lease(t, 20, "greeter", 1))
		if e := first(t, m, cellOf("greeter")); e.Hops != 1 || e.Tier != TierCache {
			t.Errorf("a copy changed how the lease came: %+v", e)
		}
		m.Heard(lease(t, 20, "greeter", 2))
		if e := first(t, m, cellOf("greeter")); e.Hops != 0 || !e.Holder.IsZero() || e.Why != "announced on the LAN just now" {
			t.Errorf("a newer one from the LAN: %d hops, holder %s, %s", e.Hops, e.Holder.Short(), e.Why)
		}
	})
}

// life makes a lease of another life of its node.
func life(n uint64) func(*record.Offer) {
	return func(o *record.Offer) { o.Order.Incarnation = n }
}

// contact is what node n says of itself now, in one of its lives.
func contact(t testing.TB, n int, incarnation uint64, left bool) record.Contact {
	t.Helper()
	c, err := record.SignContact(key(n), network, record.ContactOffer{Left: left, Order: record.Order{Incarnation: incarnation, Sequence: 9}, Issued: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestFormerLives has a node fall silent or leave and come back: only what it
// has announced in its present life is handed out.
func TestFormerLives(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(t *testing.T, m *Mesh)
		back bool
		why  string // of its being gone
	}{
		{"cut off and back", func(t *testing.T, m *Mesh) {
			m.Lost(key(20).Public(), false)
			m.Began(contact(t, 20, 1, false))
			m.Back(key(20).Public())
		}, true, ""},
		{"crashed and back", func(t *testing.T, m *Mesh) {
			m.Lost(key(20).Public(), false)
			synctest.Wait()
			m.Began(contact(t, 20, 2, false))
			m.Back(key(20).Public())
		}, false, "its host fell silent"},
		{"back before anybody noticed", func(t *testing.T, m *Mesh) { m.Began(contact(t, 20, 2, false)) }, false, "its host has restarted or left"},
		{"left and back", func(t *testing.T, m *Mesh) {
			m.Lost(key(20).Public(), true)
			synctest.Wait()
			m.Began(contact(t, 20, 1, true))
			m.Back(key(20).Public())
		}, false, "its host has left"},
		{"a lease of another cell tells", func(t *testing.T, m *Mesh) {
			m.learn(lease(t, 20, "other", 1, life(2)), told{tier: TierDHT})
		}, false, "its host has restarted or left"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				m := start(t, 10, Config{})
				old := lease(t, 20, "greeter", 7)
				m.Heard(old)
				o := observe(t, m, "greeter")
				o.expect(t, "+20 after 0s: cache, announced on the LAN just now")
				time.Sleep(time.Second)
				c.do(t, m)
				for _, again := range []string{"", ", and a replay"} {
					if c.back {
						wantOthers(t, m, "greeter", 20)
					} else {
						wantOthers(t, m, "greeter")
						if _, err := collect(m, cellOf("greeter")); err == nil {
							t.Errorf("found%s", again)
						}
					}
					m.Heard(old)
					m.learn(old, told{tier: TierDHT})
				}
				if !c.back {
					o.expect(t, "-20 after 1s: lan, "+c.why)
				}
				m.Heard(lease(t, 20, "greeter", 1, life(2)))
				wantOthers(t, m, "greeter", 20)
			})
		})
	}
}

// TestNewLifeAtAnotherAddress restarts a node at another port: the addresses of
// before are not handed out beside the new ones, whichever tier tells first.
func TestNewLifeAtAnotherAddress(t *testing.T) {
	for _, tier := range []Tier{TierLAN, TierDHT} {
		bubble(t, func(t *testing.T) {
			m := start(t, 10, Config{})
			m.Heard(lease(t, 20, "greeter", 7, addrs("old-lan")))
			m.learn(lease(t, 20, "greeter", 7, addrs("old-dht")), told{tier: TierDHT})
			time.Sleep(time.Second)
			m.learn(lease(t, 20, "greeter", 1, life(2), addrs("new")), told{tier: tier})
			e := first(t, m, cellOf("greeter"))
			if len(e.Addrs) != 1 || string(e.Addrs[0]) != "new" {
				t.Errorf("told by %s: it is said to be at %s", tier, e.Addrs)
			}
		})
	}
}

// TestClocksApart: lives are told apart by the clock of their node, which may be
// five minutes off either way.
func TestClocksApart(t *testing.T) {
	for _, off := range []time.Duration{-record.MaxSkew, record.MaxSkew} {
		bubble(t, func(t *testing.T) {
			by := func(o *record.Offer) { o.Issued = o.Issued.Add(off) }
			m := start(t, 10, Config{})
			m.Heard(lease(t, 20, "greeter", 1, by))
			wantOthers(t, m, "greeter", 20)
			time.Sleep(time.Second)
			m.Lost(key(20).Public(), false)
			c, err := record.SignContact(key(20), network, record.ContactOffer{Order: record.Order{Incarnation: 2}, Issued: time.Now().Add(off)})
			if err != nil {
				t.Fatal(err)
			}
			m.Began(c)
			m.Back(key(20).Public())
			wantOthers(t, m, "greeter")
			time.Sleep(time.Second)
			m.learn(lease(t, 20, "greeter", 1, life(2), by), told{tier: TierDHT})
			wantOthers(t, m, "greeter", 20)
			time.Sleep(2*time.Minute + time.Second) // counted from receipt
			wantOthers(t, m, "greeter")
		})
	}
}

// TestShortNo: where somebody served a cell a moment ago, or the DHT holds
// leases of it, the next question is asked half a second later; a plain
// no stands for three.
func TestShortNo(t *testing.T) {
	for _, c := range []struct {
		name  string
		given func(t *testing.T, m *Mesh, dht *sky)
		stand time.Duration
	}{
		{"nobody", func(*testing.T, *Mesh, *sky) {}, 3 * time.Second},
		{"the LAN's fell silent", func(t *testing.T, m *Mesh, _ *sky) {
			m.Heard(lease(t, 20, "greeter", 1))
			m.Lost(key(20).Public(), false)
		}, 500 * time.Millisecond},
		{"the LAN's withdrew", func(t *testing.T, m *Mesh, _ *sky) {
			m.Heard(lease(t, 20, "greeter", 1))
			m.Heard(lease(t, 20, "greeter", 2, tombstone))
		}, 500 * time.Millisecond},
		{"withdrawn in the DHT", func(t *testing.T, _ *Mesh, dht *sky) {
			dht.Put(t.Context(), lease(t, 20, "greeter", 1, tombstone))
		}, 500 * time.Millisecond},
		{"the DHT did not answer", func(_ *testing.T, _ *Mesh, dht *sky) { dht.set(errors.New("nobody home"), false) }, 500 * time.Millisecond},
		{"withdrawn long ago", func(t *testing.T, m *Mesh, _ *sky) {
			m.Heard(lease(t, 20, "greeter", 1))
			m.Heard(lease(t, 20, "greeter", 2, tombstone))
			time.Sleep(lately)
		}, 3 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				dht := &sky{}
				m := start(t, 10, Config{WAN: dht})
				time.Sleep(time.Second)
				c.given(t, m, dht)
				ask := func(finds int) {
					t.Helper()
					if got, err := collect(m, cellOf("greeter")); err == nil {
						t.Fatalf("found %v", got)
					}
					if _, n := dht.log(); n != finds {
						t.Errorf("%d searches, want %d", n, finds)
					}
				}
				ask(1)
				time.Sleep(c.stand - time.Millisecond)
				ask(1)
				time.Sleep(time.Millisecond)
				ask(2)
			})
		})
	}
}

// TestStoredHereIsKnownHere: what this node comes to hold for the DHT ends its
// own no, and a tombstone its own yes, without another search.
func TestStoredHereIsKnownHere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &sky{}
		m := start(t, 10, Config{WAN: dht})
		if _, err := collect(m, cellOf("greeter")); err == nil {
			t.Fatal("found before it was announced")
		}
		m.Stored(lease(t, 20, "greeter", 1))
		e := first(t, m, cellOf("greeter"))
		if e.Holder != m.self || e.Hops != 0 || e.Why != "lease held by this node for the DHT" {
			t.Errorf("found: holder %s, %d hops, %s", e.Holder.Short(), e.Hops, e.Why)
		}
		o := observe(t, m, "greeter")
		o.expect(t, "+20 after 0s: cache, lease held by this node for the DHT")
		m.Stored(lease(t, 20, "greeter", 2, tombstone))
		o.expect(t, "-20 after 0s: dht, it withdrew")
		wantOthers(t, m, "greeter")
		m.Stored(lease(t, 20, "unheard-of", 1))
		if m.table.names[cellOf("unheard-of")] != nil {
			t.Error("strangers fill the table with what nobody asks for")
		}
		if _, finds := dht.log(); finds > 2 { // the first, and that of the watch
			t.Errorf("%d searches", finds)
		}
	})
}
