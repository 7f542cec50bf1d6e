package pheromone

import (
	"bytes"
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// maxOwn is how many cells one node announces; more are not announced.
const maxOwn = 4096

// repeats are the delays after which news is repeated, each counted from the
// one before. One that comes later than tooLate is left to the next round.
var repeats = [...]time.Duration{80 * time.Millisecond, 120 * time.Millisecond, time.Second}

const (
	tooLate   = time.Second
	minPeriod = 2 * time.Second
	maxPeriod = time.Minute
	gather    = 20 * time.Millisecond // what is due so soon goes into the same packet
)

// sending is one of this node's leases, or a tombstone on its last way.
type sending struct {
	lease record.Lease
	sent  int // how often as news; len(repeats)+1: it is none any more
	last  time.Time
	next  time.Time
	until time.Time // a lease that nobody renews is sent no more
}

func (s *sending) urgency() urgency {
	switch {
	case s.sent == 0:
		return urgent
	case s.sent <= len(repeats):
		return repeated
	}
	return round
}

// company is how long a lease may wait, or be sent ahead of its time, to share a packet.
func (s *sending) company() time.Duration {
	if s.urgency() != round {
		return gather
	}
	return s.lease.TTL / 16
}

// Announce sends a lease of this node at once, again soon, and from time to time
// until it expires. It replaces what was announced or withdrawn of the same
// cell; a renewal that says the same is no news, and may wait for others to
// share their packet. A lease of another node is ignored.
func (l *LAN) Announce(lease record.Lease) { l.put(lease) }

// Withdraw stops announcing a cell and sends the tombstone at once and again soon.
func (l *LAN) Withdraw(tombstone record.Lease) { l.put(tombstone) }

func (l *LAN) put(lease record.Lease) {
	if lease.Signer != l.config.Key.Public() {
		return
	}
	now, key := time.Now(), lease.Cell.Key(l.network)
	s := &sending{lease: lease, next: now, until: lease.Expires(now)}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.own[key]
	switch {
	case old == nil && len(l.own) >= maxOwn:
		l.stats["unsent"]++
		return
	case old == nil || !sameNews(old.lease, lease):
	case old.urgency() != round:
		s.sent, s.last, s.next = old.sent, old.last, old.next
	default:
		s.sent, s.last = old.sent, old.last
		if len(l.own) > 1 {
			s.next = now.Add(time.Duration(l.rand.Float64() * float64(s.company())))
		}
		if soonest := s.last.Add(l.stretchLocked()); s.next.Before(soonest) {
			s.next = soonest
		}
		if old.next.Before(s.next) {
			s.next = old.next
		}
	}
	l.own[key] = s
	l.wakeUp()
}

func sameNews(a, b record.Lease) bool {
	return a.State == b.State && a.Tombstone() == b.Tombstone() && slices.EqualFunc(a.Addrs, b.Addrs, bytes.Equal)
}

// renewAll makes news of everything, for those who are reached from now on.
func (l *LAN) renewAll(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.started = now
	for _, s := range l.own {
		s.sent, s.next = 0, now
	}
}

// stretchLocked is how long a round takes in which everybody says once what he
// serves, at roundRate.
func (l *LAN) stretchLocked() time.Duration {
	packets := l.crowd.packets() + float64(len(l.own)+1)/2
	return time.Duration(packets / roundRate * float64(time.Second))
}

// takeOwnLocked returns the packet to send now: with the lease or tombstone
// that is due first of urgency u, and what else fits. It plans when they are
// due again.
func (l *LAN) takeOwnLocked(u urgency, now time.Time) Packet {
	type item struct {
		key identity.NameKey
		*sending
	}
	var due []item
	for _, key := range sortedKeys(l.own) {
		if s := l.own[key]; !s.next.After(now.Add(s.company())) {
			due = append(due, item{key, s})
		}
	}
	rank := func(i item) int {
		if i.urgency() == u {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(due, func(a, b item) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), a.next.Compare(b.next)) })
	p := Packet{Kind: KindAnnounce}
	if due[0].lease.Tombstone() {
		p.Kind = KindGoodbye
	}
	for _, i := range due {
		if i.lease.Tombstone() == (p.Kind == KindGoodbye) && p.Fits(len(i.lease.Raw)) {
			p.Records = append(p.Records, i.lease.Raw)
			l.planLocked(i.key, i.sending, now)
		}
	}
	return p
}

// planLocked plans after something was sent.
func (l *LAN) planLocked(key identity.NameKey, s *sending, now time.Time) {
	s.last = now
	switch {
	case s.sent < len(repeats):
		s.next = now.Add(l.jitterLocked(repeats[s.sent]))
		s.sent++
	case s.lease.Tombstone():
		delete(l.own, key)
	default:
		s.sent = len(repeats) + 1
		s.next = now.Add(l.jitterLocked(l.periodLocked(s)))
	}
}

// periodLocked is the time between two rounds for a lease.
func (l *LAN) periodLocked(s *sending) time.Duration {
	return max(min(max(s.lease.TTL/4, minPeriod), maxPeriod), l.stretchLocked())
}

// firstOwnLocked returns the most urgent of what is due of this node's leases,
// and since when it has been; ok is false where there is none. It gives up what
// nobody needs any more.
func (l *LAN) firstOwnLocked(now time.Time) (u urgency, since time.Time, ok bool) {
	for key, s := range l.own {
		switch late := now.Sub(s.next); {
		case late < 0:
			continue
		case !now.Before(s.until):
			delete(l.own, key)
			continue
		case late > tooLate && s.urgency() == repeated && !s.lease.Tombstone():
			s.sent = len(repeats) + 1
			s.next = s.last.Add(l.periodLocked(s))
			continue
		}
		if v := s.urgency(); !ok || v < u || v == u && s.next.Before(since) {
			u, since, ok = v, s.next, true
		}
	}
	return u, since, ok
}

// flushGoodbyes sends the tombstones that have never been sent.
func (l *LAN) flushGoodbyes() {
	var unsent [][]byte
	l.mu.Lock()
	for _, key := range sortedKeys(l.own) {
		if s := l.own[key]; s.lease.Tombstone() && s.sent == 0 {
			unsent = append(unsent, s.lease.Raw)
		}
	}
	l.mu.Unlock()
	for _, p := range pack(KindGoodbye, unsent) {
		l.transmit(p, netip.AddrPort{})
	}
}

// jitterLocked returns d, give or take a quarter.
func (l *LAN) jitterLocked(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + 0.5*l.rand.Float64()))
}

// pack puts records into as few packets as their order allows.
func pack(kind Kind, records [][]byte) []Packet {
	var out []Packet
	for _, r := range records {
		if n := len(out) - 1; n >= 0 && out[n].Fits(len(r)) {
			out[n].Records = append(out[n].Records, r)
		} else {
			out = append(out, Packet{Kind: kind, Records: [][]byte{r}})
		}
	}
	return out
}

// sortedKeys keeps Go's random order of maps out of what is sent, and when.
func sortedKeys(m map[identity.NameKey]*sending) []identity.NameKey {
	return slices.SortedFunc(maps.Keys(m), func(a, b identity.NameKey) int { return bytes.Compare(a[:], b[:]) })
}
