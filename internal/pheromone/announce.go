package pheromone

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// maxOwn is how many cells one node announces; more are not announced.
const maxOwn = 4096

// again are the delays after which news is repeated, each counted from the one before.
var again = [...]time.Duration{100 * time.Millisecond, 150 * time.Millisecond, time.Second}

const (
	minPeriod = 2 * time.Second
	maxPeriod = time.Minute
	gather    = 20 * time.Millisecond // what is due so soon goes into the same packet
)

// A node with very many cells sends at most batch records at once, and then
// rests for pace, so that nobody's buffers run over.
const (
	batch = 64
	pace  = 50 * time.Millisecond
)

// sending is one of this node's leases, or a tombstone on its last way.
type sending struct {
	lease record.Lease
	sent  int // how often, as far as it matters
	next  time.Time
	until time.Time // a lease that nobody renews is sent no more
}

// Announce sends a lease of this node now, again soon, and from time to time
// until it expires. It replaces what was announced or withdrawn of the same
// cell; a renewal that says the same is not repeated soon. A lease of another
// node is ignored.
func (l *LAN) Announce(lease record.Lease) { l.put(lease) }

// Withdraw stops announcing a cell and sends the tombstone now and again soon.
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
	if old == nil && len(l.own) >= maxOwn {
		l.stats["unsent"]++
		return
	}
	if old != nil && sameNews(old.lease, lease) {
		s.sent = old.sent
	}
	l.own[key] = s
	l.wakeUp()
}

func sameNews(a, b record.Lease) bool {
	return a.State == b.State && a.Tombstone() == b.Tombstone() && slices.EqualFunc(a.Addrs, b.Addrs, bytes.Equal)
}

// renewAll makes news of everything.
func (l *LAN) renewAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.own {
		s.sent, s.next = 0, time.Now()
	}
}

// sendDue sends announcements, goodbyes and answers whose time has come.
func (l *LAN) sendDue(now time.Time) {
	leases, goodbyes := l.takeDue(now)
	for _, p := range pack(KindGoodbye, goodbyes) {
		l.transmit(p, netip.AddrPort{})
	}
	for _, p := range pack(KindAnnounce, leases) {
		l.transmit(p, netip.AddrPort{})
	}
	for _, a := range l.takeAnswers(now) {
		for _, p := range a.packets {
			l.transmit(p, a.to)
		}
	}
}

// takeDue returns the records to send now and plans when they are due again.
func (l *LAN) takeDue(now time.Time) (leases, goodbyes [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Before(l.rest) {
		return nil, nil
	}
	for _, key := range sortedKeys(l.own) {
		s := l.own[key]
		if s.next.After(now.Add(gather)) {
			continue
		}
		if len(leases)+len(goodbyes) == batch {
			l.rest = now.Add(pace)
			break
		}
		if !now.Before(s.until) {
			delete(l.own, key)
			continue
		}
		if s.lease.Tombstone() {
			goodbyes = append(goodbyes, s.lease.Raw)
		} else {
			leases = append(leases, s.lease.Raw)
		}
		l.planLocked(key, s, now)
	}
	return leases, goodbyes
}

func (l *LAN) planLocked(key identity.NameKey, s *sending, now time.Time) {
	switch {
	case s.sent < len(again):
		s.next = now.Add(l.jitterLocked(again[s.sent]))
		s.sent++
	case s.lease.Tombstone():
		delete(l.own, key)
	default:
		s.next = now.Add(l.jitterLocked(min(max(s.lease.TTL/4, minPeriod), maxPeriod)))
	}
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

// nextDue says when there is something to send next.
func (l *LAN) nextDue() (next time.Time, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	earliest := func(t time.Time) {
		if !ok || t.Before(next) {
			next, ok = t, true
		}
	}
	for _, s := range l.own {
		earliest(s.next)
	}
	if ok && next.Before(l.rest) {
		next = l.rest
	}
	for _, a := range l.answers {
		earliest(a.due)
	}
	return next, ok
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
