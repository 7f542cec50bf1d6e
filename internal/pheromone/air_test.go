package pheromone

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

func TestBucket(t *testing.T) {
	now := time.Now()
	b := bucket{level: 10, at: now}
	for _, c := range []struct {
		at   time.Duration
		want float64
	}{{0, 10}, {100 * time.Millisecond, 8}, {50 * time.Millisecond, 8}, {100 * time.Millisecond, 8}, {400 * time.Millisecond, 2}, {time.Hour, 0}} {
		if got := b.drain(now.Add(c.at), 20); got < c.want-1e-9 || got > c.want+1e-9 {
			t.Errorf("after %v: %v, want %v", c.at, got, c.want)
		}
	}
}

// Of a thousand nodes that start at one moment, only few speak before they can
// have heard the first of them.
func TestFewAreEarly(t *testing.T) {
	now, rng := time.Now(), rand.New(rand.NewPCG(1, 1))
	for range 20 {
		var at []time.Duration
		for range 1000 {
			d := turn{}.draw(urgent, startWindow, rng.Float64(), now)
			at = append(at, d.at.Sub(now))
		}
		slices.Sort(at)
		if at[0] < 0 || at[len(at)-1] > startWindow {
			t.Fatalf("drawn from %v to %v", at[0], at[len(at)-1])
		}
		const travel = 400 * time.Microsecond
		early, _ := slices.BinarySearch(at, at[minTrust-1]+travel)
		if early > 25 {
			t.Errorf("%d speak before they hear that %d have spoken", early, minTrust)
		}
	}
}

func TestTurn(t *testing.T) {
	now := time.Now()
	first := turn{}.draw(round, startWindow, 0, now)
	if !first.at.Equal(now) || first.room() != minTrust {
		t.Errorf("%+v", first)
	}
	d := first
	for i := range 20 {
		d = d.draw(round, startWindow, 0.999999, now)
		if want := min(startWindow<<(i+1), maxWindow); d.window != want || d.at.After(now.Add(want)) || d.at.Before(now.Add(want*9/10)) {
			t.Errorf("missed %d times: %+v, want a window of %v", i+1, d, want)
		}
	}
	if d.room() != full[round] {
		t.Errorf("room %v", d.room())
	}
	if d = d.draw(urgent, 0, 0.5, now); d.missed != 0 || !d.at.Equal(now) {
		t.Errorf("what is more urgent does not start anew: %+v", d)
	}
	if d = d.draw(round, 0, 0.5, now); d.missed != 1 || d.window != nodeWindow {
		t.Errorf("what is less urgent does not go on: %+v", d)
	}
}

func TestCrowd(t *testing.T) {
	now, c := time.Now(), newCrowd()
	node := func(i int) identity.Key { return identity.Key{byte(i), byte(i >> 8), 1} }
	cell := func(i int) identity.NameKey { return identity.NameKey{byte(i), 1} }
	for i := range 100 {
		for j := range 10 {
			c.heard(voice{node(i), cell(j)}, 650, now)
			c.heard(voice{node(i), cell(j)}, 650, now) // again
		}
	}
	if n := c.packets(); n != 50+500 {
		t.Errorf("100 nodes with 10 cells each, two of which fill a packet: %v packets", n)
	}
	if c.answers(cell(3)) != 100 || c.answers(cell(11)) != 0 || c.answers(anything) != 100 {
		t.Error(c.answers(cell(3)), c.answers(cell(11)), c.answers(anything))
	}
	for j := range 10 {
		c.gone(voice{node(7), cell(j)})
		c.gone(voice{node(7), cell(j)})
	}
	if c.packets() != 49.5+495 || c.answers(cell(3)) != 99 || c.answers(anything) != 99 {
		t.Error(c.packets(), c.answers(cell(3)), c.answers(anything))
	}
	c.heard(voice{node(1), cell(1)}, 650, now.Add(memory))
	c.heard(voice{node(1), cell(1)}, 650, now.Add(memory+memory/5))
	if len(c.voices) != 1 || len(c.nodes) != 1 || len(c.cells) != 1 || c.packets() != 1 {
		t.Errorf("those of whom nothing is heard are not forgotten: %d, %v", len(c.voices), c.packets())
	}
	for i := range uint16(3) {
		c.heard(stranger(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.7"), 1000+i)), 500, now.Add(memory))
	}
	if c.answers(anything) != 1 || len(c.nodes) != 4 {
		t.Errorf("%d may answer of %d who are there, 3 of other networks", c.answers(anything), len(c.nodes))
	}
	for i := range 2 * maxCrowd {
		c.heard(voice{node(i), anything}, 0, now.Add(2*memory))
	}
	if len(c.voices) != maxCrowd || len(c.nodes) > maxCrowd {
		t.Errorf("%d voices, %d nodes", len(c.voices), len(c.nodes))
	}
}

// casts notes when packets were sent to everybody.
func (s *segment) casts(since time.Time) (at []time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, _ := slices.BinarySearchFunc(s.cast, since, time.Time.Compare)
	return slices.Clone(s.cast[i:])
}

// most returns how many of times are within one second at most.
func most(times []time.Time) (n int) {
	for i, j := 0, 0; i < len(times); i++ {
		for times[i].Sub(times[j]) >= time.Second {
			j++
		}
		n = max(n, i-j+1)
	}
	return n
}

// When the power returns, everybody starts at once; when a switch does,
// everybody meets everybody anew. bench/lan has the same with 1,000.
func TestManyStartAtOnce(t *testing.T) {
	const limit = 60 // packets in any second: what leaks, what is let through after a silence, and those who did not hear it
	for _, loss := range []float64{0, 0.1} {
		t.Run(fmt.Sprint("loss ", loss), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSegment(200*time.Microsecond, loss)
				const nodes, ours = 60, 10 // the others have a network each, which takes no time to check
				var ears []*ear
				var ends []*end
				start := time.Now()
				for seed := range byte(nodes) {
					if seed < ours {
						l, e, bus := member(t, s, seed+1)
						l.Announce(lease(t, seed+1, fmt.Sprint("cell-", seed), start))
						ears, ends = append(ears, e), append(ends, bus)
						continue
					}
					other, bus := identity.Network(fmt.Sprint("other-", seed)), s.join()
					l := New(Config{Network: other, Key: key(seed + 1), Bus: bus, OnLease: func(record.Lease) {}, Rand: rand.New(rand.NewPCG(uint64(seed), 7))})
					own, err := record.SignLease(key(seed+1), other.ID(), foreign(t, seed+1, other, start))
					if err != nil {
						t.Fatal(err)
					}
					run(t, l)
					l.Announce(own)
					ends = append(ends, bus)
				}
				pause(10 * time.Second)
				if n := most(s.casts(start)); n > limit || n < 20 {
					t.Errorf("%d packets in a second", n)
				}
				for i, e := range ears {
					names := map[identity.Name]bool{}
					for _, l := range first(e.all()) {
						names[l.Cell.Name] = true
					}
					if loss == 0 && len(names) != ours-1 {
						t.Errorf("node %d has heard of %d others", i, len(names))
					}
				}
				pause(10 * time.Second)
				again := time.Now()
				for _, e := range ends {
					e.changed <- struct{}{}
				}
				pause(10 * time.Second)
				if n := most(s.casts(again)); n > limit || n < 20 {
					t.Errorf("%d packets in a second when everybody's interface returned", n)
				}
			})
		})
	}
}

// foreign is an offer in another network.
func foreign(t *testing.T, node byte, n identity.Network, issued time.Time) record.Offer {
	t.Helper()
	o := offer(t, node, "greeter", issued)
	g, err := record.SignGrant(author, n.ID(), "", []record.Subject{{Kind: record.SubjectNode, Key: key(node).Public()}}, issued, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	o.Grant = g.Raw
	return o
}

// speak lets a node know that others share its air.
func speak(l *LAN, nodes, cells int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range nodes {
		for j := range cells {
			l.crowd.heard(voice{identity.Key{byte(i), byte(i >> 8)}, identity.NameKey{byte(j), byte(j >> 8)}}, 650, time.Now())
		}
	}
}

func TestRoundsStretch(t *testing.T) {
	for _, c := range []struct {
		nodes, cells int
		from, to     time.Duration // the period
	}{
		{0, 0, 22 * time.Second, 38 * time.Second}, // a quarter of two minutes, give or take a quarter
		{20, 1, 22 * time.Second, 38 * time.Second},
		{100, 10, 22 * time.Second, 38 * time.Second}, // 550 packets take less
		{1000, 1, 36 * time.Second, 64 * time.Second}, // 1,000 packets at 20 a second
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSegment(0, 0)
			a, _, _ := member(t, s, 1)
			pause(10 * time.Second)
			for range 3 {
				speak(a, c.nodes, c.cells)
				a.Announce(lease(t, 1, "greeter", time.Now()))
				pause(5 * time.Second)
				begin := time.Now()
				pause(70 * time.Second)
				at := s.casts(begin)
				if len(at) == 0 {
					t.Fatalf("%d × %d: nothing in 70 s", c.nodes, c.cells)
				}
				if d := at[0].Sub(begin) + 4*time.Second; d < c.from || d > c.to {
					t.Errorf("%d × %d: a round after %v, want %v to %v", c.nodes, c.cells, d, c.from, c.to)
				}
				a.Withdraw(tombstone(t, 1, "greeter", time.Now()))
				pause(5 * time.Second)
			}
		})
	}
}

// Cells that are renewed every 40 s, each at its own time, take as many packets
// as their leases fill, not one each.
func TestRenewalsShareAPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSegment(0, 0)
		a, _, _ := member(t, s, 1)
		_, b, _ := member(t, s, 2)
		const cells = 20
		o := offer(t, 1, "", time.Now())
		for i := range cells {
			time.AfterFunc(time.Duration(i)*2*time.Second, func() {
				for range 8 {
					o := o
					o.Cell.Name, o.Issued, o.Order.Sequence = identity.Name(fmt.Sprint("cell-", i)), time.Now(), uint64(time.Now().UnixMilli())
					a.Announce(sign(t, 1, o))
					time.Sleep(40 * time.Second)
				}
			})
		}
		pause(200 * time.Second)
		begin, heard := time.Now(), b.heard()
		pause(120 * time.Second)
		packets, leases := len(s.casts(begin)), b.heard()-heard
		t.Logf("%d packets, %d leases in 2 minutes", packets, leases)
		if leases < 3*cells || packets > leases*2/3 {
			t.Errorf("%d packets for %d leases", packets, leases)
		}
		last := map[identity.Name]time.Duration{}
		all, at := b.all()
		for i, l := range all {
			if gap := at[i] - last[l.Cell.Name]; last[l.Cell.Name] > 0 && gap > 60*time.Second {
				t.Errorf("%s was not heard for %v", l.Cell.Name, gap)
			}
			last[l.Cell.Name] = at[i]
		}
		pause(time.Minute)
	})
}

// Somebody who fills the air on purpose delays news; he does not silence a node.
func TestFullAirDelaysNews(t *testing.T) {
	for _, flood := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newSegment(0, 0)
			a, _, _ := member(t, s, 1)
			_, b, _ := member(t, s, 2)
			attacker := s.join()
			pause(10 * time.Second)
			if flood {
				go func() {
					for i := range byte(170) { // packets of another network, 50 a second
						p := Packet{Kind: KindAnnounce, Network: Tag{9}, Records: [][]byte{{i}}}
						if err := attacker.Send(p.Append(nil), netip.AddrPort{}); err != nil {
							t.Error(err)
						}
						time.Sleep(20 * time.Millisecond)
					}
				}()
				pause(time.Second)
			}
			a.Announce(lease(t, 1, "greeter", time.Now()))
			pause(time.Second)
			if heard := b.heard() > 0; heard == flood {
				t.Errorf("flood %t: heard within a second: %t", flood, heard)
			}
			pause(1500 * time.Millisecond)
			if b.heard() != 1 || flood && a.Stats()["waited"] == 0 {
				t.Errorf("flood %t: heard %d, %v", flood, b.heard(), a.Stats())
			}
		})
	}
}

// Who knows of nobody else that could answer does so at once, others at a random time.
func TestAnswersWaitForOthers(t *testing.T) {
	cell := identity.Cell{Author: author.Public(), Name: "greeter"}.Key(network.ID())
	for _, c := range []struct {
		key       identity.NameKey
		others    int
		low, high time.Duration // of the longest of many delays
	}{
		{cell, 0, 0, 0},
		{cell, 20, 8 * time.Millisecond, 10 * time.Millisecond},
		{anything, 0, 0, 0},
		{anything, 100, 40 * time.Millisecond, 50 * time.Millisecond},
		{anything, 4000, 400 * time.Millisecond, maxDelay},
	} {
		var longest time.Duration
		synctest.Test(t, func(t *testing.T) {
			own := lease(t, 1, "greeter", time.Now())
			for i := range uint64(100) {
				l := New(Config{Network: network, Key: key(1), OnLease: func(record.Lease) {}, Rand: rand.New(rand.NewPCG(i, 1))})
				l.Announce(own)
				l.own[cell].sent = 1
				for j := range c.others {
					l.crowd.heard(voice{identity.Key{byte(j), byte(j >> 8)}, cell}, 650, time.Now())
				}
				l.plan(question{asker: key9.Public(), key: c.key}, netip.MustParseAddrPort("10.0.0.7:9"), time.Now())
				longest = max(longest, time.Until(l.answers[0].due))
			}
		})
		if longest < c.low || longest > c.high {
			t.Errorf("%d others: an answer waits for up to %v, want %v to %v", c.others, longest, c.low, c.high)
		}
	}
}

// What everybody is about to be told is no answer to a greeting, and so many
// greetings are answered as the LAN can bear.
func TestGreetings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Network: network, Key: key(1), OnLease: func(record.Lease) {}})
		l.Announce(lease(t, 1, "greeter", time.Now()))
		greet := func(i int) int {
			from := netip.AddrPortFrom(netip.MustParseAddr("10.0.0.7"), uint16(1+i))
			l.plan(question{asker: key9.Public()}, from, time.Now())
			return len(l.answers)
		}
		if greet(0) != 0 {
			t.Error("a greeting is answered with what is announced at this moment")
		}
		for _, s := range l.own {
			s.sent = 1
		}
		speak(l, 999, 1)
		n := 0
		for i := range 100 {
			n = greet(i)
		}
		if n != greetedBurst {
			t.Errorf("%d of 100 greetings are answered", n)
		}
		pause(5 * time.Second)
		for i := range 100 {
			n = greet(100 + i)
		}
		if n -= greetedBurst; n < 9 || n > 10 {
			t.Errorf("5 s later %d of 100 greetings are answered; a node of 1,000 has 2 a second", n)
		}
	})
}

// A greeting is heard by all; an announcement that comes before it has been sent does not replace it.
func TestGreetingIsSentThoughSomebodySpeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSegment(0, 0)
		start := time.Now() // of the leases: each has a grant of the same author, and a newer one replaces it
		old, _, _ := member(t, s, 1)
		old.Announce(lease(t, 1, "ledger", start))
		pause(5 * time.Second)
		other, _, _ := member(t, s, 2)
		pause(2 * time.Second)
		_, e, _ := member(t, s, 3)
		other.Announce(lease(t, 2, "greeter", start))
		pause(startWindow + 3*answerGap)
		names := map[identity.Name]bool{}
		for _, l := range first(e.all()) {
			names[l.Cell.Name] = true
		}
		if len(names) != 2 {
			t.Errorf("heard %v", names)
		}
	})
}
