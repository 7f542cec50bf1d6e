package pulse

import (
	"context"
	"time"
)

// Streams that began on a relayed connection move to a direct one.
const (
	maxMoves  = 8                // at a time
	moveEvery = 10 * time.Second // between two tries, where the first came to nothing
	parting   = 5 * time.Second  // for what is under way on the former stream
)

// relayed reports whether a stream goes over a relay.
func (l *link) relayed() bool { return l.stream.Conn().Stat().Limited }

// moveLocked begins to move the streams that this node opened over a relay to
// nodes that it reaches directly by now.
func (p *Pulse) moveLocked(now time.Time) {
	moves := 0
	for _, l := range p.links {
		if l.moving != nil {
			moves++
		}
	}
	for _, l := range p.links {
		if !l.ours || l.moving != nil || moves == maxMoves || now.Before(l.again) || !p.host.Superseded(l.stream.Conn()) {
			continue
		}
		moves++
		l.moving = make(chan struct{})
		p.work.Add(1)
		go func() {
			defer p.work.Done()
			p.move(l)
		}()
	}
}

// move opens a stream that follows l, and uses it until it ends.
func (p *Pulse) move(l *link) {
	ctx, cancel := context.WithTimeout(p.live, dialTimeout)
	s, err := p.host.Open(ctx, l.id, p.proto)
	cancel()
	if err == nil && (s.Conn().Stat().Limited || !p.serve(l.key, s, true, l)) {
		_ = s.Reset()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	close(l.moving)
	l.moving, l.again = nil, time.Now().Add(moveEvery)
}

// followLocked makes a stream the link to its node now that the neighbour has
// said something on it. It returns false where others came in between.
func (p *Pulse) followLocked(l *link) bool {
	old := l.old
	l.old = nil
	if now := p.links[l.key]; now != nil && now != old {
		return false
	}
	return p.seatLocked(l)
}

// succeedLocked has a stream take another one's place, of which membership is
// not told: to it they are the same. What was said on the former one is heard,
// and rows that were to be sent go out on it; news of nodes go with the link.
func (p *Pulse) succeedLocked(old, l *link) {
	old.moved = true
	l.counted = old.counted
	l.unsent, l.bytes = append(l.unsent, old.unsent...), l.bytes+old.bytes
	old.unsent, old.bytes = nil, 0
	if old.welcome {
		p.told = false
	}
	old.endLocked()
	time.AfterFunc(parting, func() { _ = old.stream.Reset() })
}

// followed reports whether another stream has taken this one's place.
func (p *Pulse) followed(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return l.moved
}
