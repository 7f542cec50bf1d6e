package pheromone

import (
	"net/netip"
	"time"
)

// sameCopy is how long a packet that arrives again is a copy, come by another
// family or interface.
const sameCopy = 60 * time.Millisecond

// spoken counts a packet to everybody.
func (l *LAN) spoken(pkt []byte, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if last := l.packets.last(pkt); last.IsZero() || now.Sub(last) >= sameCopy {
		l.air.drain(now, airRate)
		l.air.level++
		l.packets.note(pkt, now)
	}
}

// sendDue sends the answers whose time has come and, if it is this node's turn,
// one packet to everybody.
func (l *LAN) sendDue(now time.Time) {
	for _, a := range l.takeAnswers(now) {
		for _, p := range a.packets {
			l.transmit(p, a.to)
		}
	}
	if p := l.takeTurn(now); len(p.Records) > 0 {
		l.transmit(p, netip.AddrPort{})
	}
}

// takeTurn returns what to send to everybody now; without records: nothing.
func (l *LAN) takeTurn(now time.Time) Packet {
	l.mu.Lock()
	defer l.mu.Unlock()
	u, since, ok := l.firstOwnLocked(now)
	a := l.firstAskedLocked(now)
	if a != nil && (!ok || a.urgency() < u || a.urgency() == u && a.next.Before(since)) {
		u, since, ok = a.urgency(), a.next, true
	} else {
		a = nil
	}
	if !ok {
		l.turn = turn{}
		return Packet{}
	}
	if l.turn.at.IsZero() || u < l.turn.of {
		l.turn = l.turn.draw(u, l.windowLocked(now), l.rand.Float64(), now)
	}
	if now.Before(l.turn.at) {
		return Packet{}
	}
	if l.air.drain(now, airRate) >= l.turn.room() && now.Sub(since) < l.longestLocked() {
		l.stats["waited"]++
		l.turn = l.turn.draw(u, 0, l.rand.Float64(), now)
		return Packet{}
	}
	l.turn = turn{}
	if a == nil {
		return l.takeOwnLocked(u, now)
	}
	p, err := l.takeAskedLocked(a, now)
	if err != nil {
		l.stats["unsent"]++
		return Packet{}
	}
	return p
}

// windowLocked is from how long a time a first moment to speak is drawn.
func (l *LAN) windowLocked(now time.Time) time.Duration {
	if now.Sub(l.started) < startTime {
		return startWindow
	}
	return min(time.Duration(len(l.crowd.nodes))*nodeWindow, startWindow)
}

// maxLongest bounds longestLocked, whoever is said to be there.
const maxLongest = time.Minute

// longestLocked is for how long full air keeps a packet from being sent: twice
// what all who are known would need. Who fills the air on purpose can delay
// news, and keep questions from being asked, but not silence a node.
func (l *LAN) longestLocked() time.Duration {
	all := 2 * l.crowd.packets() / airRate
	return min(2*time.Second+time.Duration(all*float64(time.Second)), maxLongest)
}

// nextDue says when there is something to do next.
func (l *LAN) nextDue(now time.Time) (next time.Time, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	earliest := func(t time.Time) {
		if !ok || t.Before(next) {
			next, ok = t, true
		}
	}
	if !l.turn.at.IsZero() {
		earliest(l.turn.at)
	}
	for _, s := range l.own {
		if s.next.After(now) || l.turn.at.IsZero() {
			earliest(s.next)
		}
	}
	for _, a := range l.asked {
		if !a.done && (a.next.After(now) || l.turn.at.IsZero()) {
			earliest(a.next)
		}
	}
	for _, a := range l.answers {
		earliest(a.due)
	}
	return next, ok
}
