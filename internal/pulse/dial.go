package pulse

import (
	"context"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
)

// How nodes are dialled.
const (
	dialTimeout = 5 * time.Second
	maxDials    = 8 // at a time
	minWait     = time.Second
	maxWait     = 30 * time.Second // between two tries
)

// target is a node of Config.Peers.
type target struct {
	addrs [][]byte
	wait  time.Duration // after the next failure
	next  time.Time     // when to try again
	busy  bool          // being dialled or used
}

// dialLocked opens streams to targets that have none, and closes those that it
// opened to nodes that are no targets any more.
func (p *Pulse) dialLocked(wanted []Target, now time.Time) {
	current := make(map[identity.Key]bool, MaxTargets)
	dials := 0
	for _, w := range wanted {
		if len(current) == MaxTargets {
			break
		}
		if w.Node == p.self || w.Node.IsZero() || current[w.Node] {
			continue
		}
		current[w.Node] = true
		t := p.targets[w.Node]
		if t == nil {
			t = &target{wait: minWait, next: now}
			if string(w.Node[:]) < string(p.self[:]) {
				t.next = now.Add(p.cfg.Interval) // it dials first, if it knows of this node
			}
			p.targets[w.Node] = t
			if l := p.links[w.Node]; l != nil && !l.welcome {
				p.welcomeLocked(l)
			}
		}
		t.addrs = w.Addrs
		if t.busy && p.links[w.Node] == nil {
			dials++
		}
	}
	for k, t := range p.targets {
		l := p.links[k]
		switch {
		case !current[k]:
			delete(p.targets, k)
			if l != nil && l.ours {
				_ = l.stream.Reset()
			}
		case l == nil && !t.busy && dials < maxDials && len(p.links) < MaxLinks && !now.Before(t.next):
			dials++
			t.busy = true
			p.work.Add(1)
			go func() {
				defer p.work.Done()
				p.dial(k, t)
			}()
		}
	}
}

// dial opens a stream and uses it until it ends.
func (p *Pulse) dial(k identity.Key, t *target) {
	began := time.Now()
	p.connect(k, t)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(began) > maxWait { // it has served for a while
		t.wait = minWait
	}
	t.busy, t.next = false, now.Add(t.wait/2+time.Duration(p.rng.Int64N(int64(t.wait))))
	t.wait = min(2*t.wait, maxWait)
}

// connect does the work of dial.
func (p *Pulse) connect(k identity.Key, t *target) {
	id, err := host.PeerID(k)
	if err != nil {
		return
	}
	p.mu.Lock()
	addrs := t.addrs
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(p.live, dialTimeout)
	defer cancel()
	if err := p.host.Dial(ctx, k, addrs); err != nil {
		return
	}
	s, err := p.host.Open(ctx, id, p.proto)
	if err != nil {
		return
	}
	if !p.serve(k, s, true) {
		_ = s.Reset()
	}
}
