package mesh

import (
	"bytes"
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// maxWatchers is how many may watch at a time.
const maxWatchers = 1024

// watchEvery is the time between two searches for a watched cell while the DHT
// tells of what changes; otherwise it is Config.Fresh.
const watchEvery = time.Minute

// Change is a node that begins or ceases to serve a cell.
type Change struct {
	Endpoint
	Gone bool   // it serves the cell no more; Endpoint is how it was known last
	Why  string // how it is known that it serves, or why it does no more, in one clause
}

// Watch yields the nodes that serve a cell, and goes on with each that comes,
// changes or goes: it withdrew, its lease lapsed or was replaced, or its host
// died. A node that is yielded again without having gone has other addresses,
// or begins to drain. Who reads slowly is told of the newest state of each
// node, not of what came between. That a newer grant has put a lease out of
// force is noticed within a minute, everything else at once. It ends with ctx;
// an error, [ErrBusy] or [ErrStopped], is yielded last.
func (m *Mesh) Watch(ctx context.Context, cell identity.Cell) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		w, err := m.beginWatch(cell)
		if err != nil {
			yield(Change{}, err)
			return
		}
		defer m.endWatch(w)
		again := time.NewTimer(0)
		defer again.Stop()
		for ctx.Err() == nil {
			changes, next := w.look()
			for _, c := range changes {
				if w.note(c); !yield(c, nil) {
					return
				}
				if w.woken() {
					break // the rest may be different by now
				}
			}
			if len(changes) > 0 {
				continue
			}
			again.Reset(time.Until(next))
			select {
			case <-w.wake:
			case <-again.C:
			case <-ctx.Done():
			case <-m.ctx.Done():
				yield(Change{}, ErrStopped)
				return
			}
		}
	}
}

// watch is a cell that somebody watches. Its fields are guarded by the mesh's lock.
type watch struct {
	watchers map[*watcher]struct{}
	open     bool // the DHT tells of changes
	stop     context.CancelFunc
}

// watcher is one Watch under way.
type watcher struct {
	m      *Mesh
	cell   identity.Cell
	start  time.Time
	wake   chan struct{}             // one token: look again
	looked bool                      // at least once
	known  map[identity.Key]bool     // nodes that the cache held at the start
	shown  map[identity.Key]Endpoint // what the caller believes to serve
	parted map[identity.Key]bool     // nodes that withdrew; guarded by the mesh's lock
}

func (m *Mesh) beginWatch(cell identity.Cell) (*watcher, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.stopped:
		return nil, ErrStopped
	case m.watching >= maxWatchers:
		return nil, ErrBusy
	}
	w := &watcher{
		m: m, cell: cell, start: time.Now(), wake: make(chan struct{}, 1),
		known: make(map[identity.Key]bool), shown: make(map[identity.Key]Endpoint), parted: make(map[identity.Key]bool),
	}
	for _, e := range m.endpointsLocked(cell, w.start) {
		w.known[e.Node] = e.Tier != TierSelf
	}
	all := m.watches[cell]
	if all == nil {
		ctx, stop := context.WithCancel(m.ctx)
		all = &watch{watchers: make(map[*watcher]struct{}), stop: stop}
		m.watches[cell] = all
		if far, ok := m.cfg.WAN.(Watcher); ok {
			all.open = true
			m.spawnLocked(func() { m.follow(ctx, far, cell, all) })
		}
	}
	all.watchers[w] = struct{}{}
	m.watching++
	return w, nil
}

func (m *Mesh) endWatch(w *watcher) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.watches[w.cell]
	delete(all.watchers, w)
	m.watching--
	if len(all.watchers) == 0 {
		all.stop()
		delete(m.watches, w.cell)
	}
}

// follow learns what the DHT tells of a cell, and asks anew where it stops.
func (m *Mesh) follow(ctx context.Context, far Watcher, cell identity.Cell, all *watch) {
	set := func(open bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if all.open != open {
			all.open = open
			m.wakeLocked(cell)
		}
	}
	for wait := m.cfg.RetryMin; ; wait = min(2*wait, m.cfg.RetryMax) {
		began := time.Now()
		set(true)
		for l, err := range far.Watch(ctx, cell) {
			switch {
			case err != nil: // the next attempt may fare better
			case l.Cell != cell:
				m.mu.Lock()
				m.counts["foreign"]++
				m.mu.Unlock()
			default:
				m.learn(l, told{tier: TierDHT, pushed: true})
			}
		}
		set(false)
		if time.Since(began) > m.cfg.RetryMax {
			wait = m.cfg.RetryMin
		}
		select {
		case <-time.After(m.jitter(wait)):
		case <-ctx.Done():
			return
		}
	}
}

// partLocked notes that a node withdrew what it announced.
func (m *Mesh) partLocked(l record.Lease) {
	if all := m.watches[l.Cell]; all != nil {
		for w := range all.watchers {
			if len(w.parted) < 2*maxPerName {
				w.parted[l.Node()] = true
			}
		}
	}
}

// look returns what the caller does not know yet, those who serve first, and
// when to look again though nothing was heard; it sees to it that the cell is
// searched for.
func (w *watcher) look() (changes []Change, next time.Time) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	now := time.Now()
	n := w.m.table.ask(w.cell)
	serving := w.m.endpointsLocked(w.cell, now)
	next = w.searchLocked(n, serving, now)
	there := make(map[identity.Key]bool, len(serving))
	for _, e := range serving {
		there[e.Node] = true
		if e.Took, e.Why = now.Sub(w.start), e.told.why(now); w.known[e.Node] {
			e.Tier = TierCache
		}
		was, shown := w.shown[e.Node]
		if shown && was.Lease.State == e.Lease.State && slices.EqualFunc(was.Addrs, e.Addrs, bytes.Equal) {
			w.shown[e.Node] = e
			continue
		}
		changes = append(changes, Change{Endpoint: e, Why: e.Why})
	}
	var left []Change
	for node, e := range w.shown {
		if !there[node] {
			e.Took = now.Sub(w.start)
			left = append(left, Change{Endpoint: e, Gone: true, Why: w.whyGone(n, node)})
		}
	}
	maps.DeleteFunc(w.parted, func(node identity.Key, _ bool) bool {
		_, shown := w.shown[node]
		return !shown || there[node]
	})
	slices.SortFunc(left, func(a, b Change) int { return rank(a.Endpoint, b.Endpoint) })
	return append(changes, left...), n.firstLapse(now, next)
}

// note takes down what the caller is about to be told.
func (w *watcher) note(c Change) {
	if delete(w.known, c.Node); c.Gone {
		delete(w.shown, c.Node)
		return
	}
	w.shown[c.Node] = c.Endpoint
}

func (w *watcher) woken() bool {
	select {
	case <-w.wake:
		return true
	default:
		return false
	}
}

func (w *watcher) whyGone(n *name, node identity.Key) string {
	d, isDead := w.m.table.dead[node]
	switch e := n.nodes[node]; {
	case node == w.m.self:
		return "this node announces it no more"
	case e == nil && w.parted[node]:
		return endWithdrawn
	case e != nil && e.spent:
		return e.end
	case isDead:
		return d.end
	}
	return "there was no room to remember it"
}

// searchLocked begins a search where it is time for one, and returns when the
// next one is due.
func (w *watcher) searchLocked(n *name, known []Endpoint, now time.Time) time.Time {
	m, every := w.m, watchEvery
	if _, far := m.cfg.WAN.(Finder); far && !m.watches[w.cell].open {
		every = m.cfg.Fresh
	}
	due := n.stale(every)
	if soonest := n.begun.Add(m.cfg.Negative); due.Before(soonest) {
		due = soonest
	}
	s := m.searches[w.cell]
	if s == nil && !now.Before(due) {
		due = now.Add(m.cfg.Negative) // should it fail; else its end wakes us
		s, _ = m.beginLocked(w.cell, known)
	}
	if s != nil {
		s.awaited = s.awaited || !w.looked
		due = now.Add(every)
	}
	w.looked = true
	return due
}

// stale returns when a cell is to be searched for again: some time after the
// last search, and when a half, a quarter and an eighth are left of a lease
// that ought to have been renewed.
func (n *name) stale(every time.Duration) time.Time {
	due := n.searched.Add(every)
	for _, e := range n.nodes {
		for part := time.Duration(2); part <= 8 && !e.spent; part *= 2 {
			if at := e.until.Add(-e.lease.TTL / part); n.begun.Before(at) {
				if at.Before(due) {
					due = at
				}
				break
			}
		}
	}
	return due
}
