package pulse

import (
	"context"
	"slices"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// How nodes are dialled.
const (
	dialTimeout = 5 * time.Second
	maxDials    = 8  // of nodes to exchange rows with, at a time
	maxCalls    = 16 // of others, at a time
	maxWaiting  = 64 // calls that wait
	minWait     = time.Second
	maxWait     = 30 * time.Second // between two tries

	fewLinks   = 3               // streams of this node's own below which entries are dialled
	knockEvery = 5 * time.Second // between two times
)

// target is a node that this one dials.
type target struct {
	rows  bool          // of Config.Peers
	addrs [][]byte      // what Peers or Entries said
	said  [][]byte      // what membership says
	wait  time.Duration // after the next failure, where it is of Config.Peers
	next  time.Time     // when to try again

	asked bool // membership wants a stream
	call  bool // and no dial for that has begun

	busy bool // being dialled or used
}

// aimLocked takes in which nodes to exchange rows with; the streams that this
// node opened to former ones are left to membership.
func (p *Pulse) aimLocked(wanted []Target, now time.Time) {
	current := make(map[identity.Key]bool, MaxTargets)
	for _, w := range wanted {
		if len(current) == MaxTargets {
			break
		}
		if w.Node == p.self || w.Node.IsZero() || current[w.Node] {
			continue
		}
		current[w.Node] = true
		t := p.targetLocked(w.Node)
		t.addrs = w.Addrs
		if t.rows {
			continue
		}
		t.rows, t.wait, t.next = true, minWait, now
		if string(w.Node[:]) < string(p.self[:]) {
			t.next = now.Add(p.cfg.Interval) // it dials first, if it knows of this node
		}
		if l := p.links[w.Node]; l != nil {
			p.valueLocked(l)
			if !l.welcome {
				p.welcomeLocked(l)
			}
		}
	}
	for k, t := range p.targets {
		if !t.rows || current[k] {
			continue
		}
		t.rows = false
		if l := p.links[k]; l != nil && l.ours {
			l.welcome, p.told = false, false // until the neighbour introduces itself
			if l.counted {
				t.asked = true
				p.members.Release(k, now)
				p.stirLocked()
			} else {
				_ = l.stream.Reset()
			}
		}
		if l := p.links[k]; l != nil {
			p.valueLocked(l)
		}
	}
}

func (p *Pulse) targetLocked(k identity.Key) *target {
	t := p.targets[k]
	if t == nil {
		t = &target{}
		p.targets[k] = t
	}
	return t
}

// callLocked has a stream opened to a node that membership asks for.
func (p *Pulse) callLocked(c record.Contact, now time.Time) {
	k := c.Signer
	if l := p.links[k]; k == p.self || l != nil && l.linked {
		return
	}
	waiting := 0
	for _, t := range p.targets {
		if t.call {
			waiting++
		}
	}
	select {
	case <-p.live.Done():
		return
	default:
	}
	if len(p.links) >= MaxLinks || waiting >= maxWaiting {
		p.members.Failed(k, now)
		p.stirLocked()
		return
	}
	t := p.targetLocked(k)
	t.asked, t.call, t.said = true, !t.busy, c.Addrs
}

// dropLocked closes a stream that membership needs no more.
func (p *Pulse) dropLocked(k identity.Key) {
	l, t := p.links[k], p.targets[k]
	if t != nil {
		t.asked, t.call = false, false
	}
	if l != nil {
		p.valueLocked(l)
		if l.ours && !l.welcome {
			l.endLocked()
		}
	}
}

// lonely reports whether entries are to be dialled now.
func (p *Pulse) lonely(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ownLinksLocked() < fewLinks && !now.Before(p.knocked)
}

// ownLinksLocked counts the streams that this node opened: those of others may
// all be one stranger's, who wants to be all that it knows.
func (p *Pulse) ownLinksLocked() (n int) {
	for _, l := range p.links {
		if l.ours {
			n++
		}
	}
	return n
}

// knockLocked dials some of the nodes through which the network can be met.
func (p *Pulse) knockLocked(entries []Target, now time.Time) {
	if len(entries) == 0 {
		return
	}
	p.knocked = now.Add(knockEvery)
	entries = slices.Clone(entries)
	p.rng.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
	left := fewLinks - p.ownLinksLocked()
	for _, e := range entries {
		if left <= 0 {
			return
		}
		if t := p.targets[e.Node]; e.Node == p.self || e.Node.IsZero() || p.links[e.Node] != nil || t != nil && (t.busy || t.call) {
			continue
		}
		t := p.targetLocked(e.Node)
		t.addrs, t.call = e.Addrs, true
		left--
	}
}

// dialLocked begins the dials that are due, and forgets nodes that nobody wants.
func (p *Pulse) dialLocked(now time.Time) {
	if p.live == nil || p.live.Err() != nil {
		return
	}
	dials, calls := 0, 0
	for k, t := range p.targets {
		switch {
		case !t.busy || p.links[k] != nil:
		case t.rows:
			dials++
		default:
			calls++
		}
	}
	for k, t := range p.targets {
		switch {
		case t.busy:
			continue
		case p.links[k] != nil:
			t.call = false
		case len(p.links) >= MaxLinks:
		case t.rows && dials < maxDials && !now.Before(t.next):
			dials++
			p.beginLocked(k, t)
			continue
		case t.call && calls < maxCalls:
			calls++
			p.beginLocked(k, t)
			continue
		}
		if !t.rows && !t.call && p.links[k] == nil {
			delete(p.targets, k)
		}
	}
}

func (p *Pulse) beginLocked(k identity.Key, t *target) {
	t.busy, t.call = true, false
	p.work.Add(1)
	go func() {
		defer p.work.Done()
		p.dial(k, t)
	}()
}

// dial opens a stream and uses it until it ends.
func (p *Pulse) dial(k identity.Key, t *target) {
	began := time.Now()
	served := p.connect(k, t)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(began) > maxWait { // it has served for a while
		t.wait = minWait
	}
	t.busy, t.next = false, now.Add(t.wait/2+time.Duration(p.rng.Int64N(max(1, int64(t.wait)))))
	t.wait = min(2*t.wait, maxWait)
	if t.asked && !served && p.links[k] == nil {
		p.members.Failed(k, now)
		t.asked = false
	}
	p.stirLocked() // others may wait for their turn
}

// connect does the work of dial. It returns false where no stream came to be.
func (p *Pulse) connect(k identity.Key, t *target) bool {
	id, err := host.PeerID(k)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(p.live, dialTimeout)
	defer cancel()
	if err := p.host.Dial(ctx, k, p.addrs(k, t)); err != nil {
		return false
	}
	s, err := p.host.Open(ctx, id, p.proto)
	if err != nil {
		return false
	}
	if !p.serve(k, s, true, nil) {
		_ = s.Reset()
		return false
	}
	return true
}

// addrs returns where a node may be: as its contact says, as far as one may dial
// what strangers say, and as was said here.
func (p *Pulse) addrs(k identity.Key, t *target) [][]byte {
	p.mu.Lock()
	said, known := t.said, t.addrs
	if m, ok := p.members.Member(k); ok {
		said = m.Contact.Addrs
	}
	p.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(said), func(a []byte) bool { return !p.host.DialableRaw(a) })
	return append(all, known...)
}
