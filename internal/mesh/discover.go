package mesh

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// maxSearches is how many cells are searched for at a time.
const maxSearches = 256

// ErrBusy says that too many searches are under way.
var ErrBusy = errors.New("too many searches at once")

// Discover yields the nodes that serve a cell, each once, as soon as it is
// known: what is known already first, ordered as [Mesh] would try it, then what
// the LAN and the DHT find. Draining nodes come last, when the search has
// ended. An error is yielded only where no endpoint was, and is the last thing:
// a [*NotFound], ctx's, [ErrBusy] or [ErrStopped].
//
// A caller may stop when he has enough; the search goes on and fills the
// cache. Callers who ask for the same cell at the same time share one search.
func (m *Mesh) Discover(ctx context.Context, cell identity.Cell) iter.Seq2[Endpoint, error] {
	return func(yield func(Endpoint, error) bool) {
		w, err := m.join(cell)
		if err != nil {
			yield(Endpoint{}, err)
			return
		}
		defer m.leave(w)
		for {
			found, done := w.next()
			for _, e := range found {
				if !yield(e, nil) {
					return
				}
			}
			if !done {
				select {
				case <-w.wake:
					continue
				case <-ctx.Done():
					err = fmt.Errorf("discover %s: %w", cell.Short(), context.Cause(ctx))
				case <-m.ctx.Done():
					err = ErrStopped
				}
			} else {
				err = w.notFound()
			}
			if len(w.seen) == 0 {
				yield(Endpoint{}, err)
			}
			return
		}
	}
}

// Heard takes in a verified lease that came over the LAN. It does not block.
func (m *Mesh) Heard(l record.Lease) { m.learn(l, told{tier: TierLAN}) }

// Stored takes in a verified lease or tombstone that this node has come to hold
// for the DHT. Of cells that nobody asked for or told of it keeps nothing: a
// search finds what the node holds. It does not block.
func (m *Mesh) Stored(l record.Lease) {
	m.mu.Lock()
	known := m.table.names[l.Cell] != nil
	m.mu.Unlock()
	if known {
		m.learn(l, told{tier: TierDHT, holder: m.self})
	}
}

// Forget tells that a node does not answer for a cell, whatever its lease says.
// It is handed out again when it announces itself anew.
func (m *Mesh) Forget(cell identity.Cell, node identity.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.table.forget(cell, node, time.Now()) {
		m.wakeLocked(cell)
	}
}

// learn merges a lease into the table and wakes those who wait for its cell. It
// returns what the table made of it; "" is a lease of no concern.
func (m *Mesh) learn(l record.Lease, by told) (what string) {
	if l.Node() == m.self {
		return ""
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.Network != m.cfg.Network {
		m.counts["foreign"]++
		return ""
	}
	if by.tier == TierDHT && m.cfg.Dialable != nil {
		l.Addrs = slices.DeleteFunc(slices.Clone(l.Addrs), func(a []byte) bool { return !m.cfg.Dialable(a) })
	}
	wasDead := m.table.isDead(l.Node())
	what = m.table.admit(l, by, time.Now())
	m.counts[what]++
	switch {
	case wasDead && !m.table.isDead(l.Node()):
		m.wakeNodeLocked(l.Node())
	case what == gone:
		m.partLocked(l)
		m.wakeLocked(l.Cell)
	case usable(what):
		m.wakeLocked(l.Cell)
	}
	if s := m.searches[l.Cell]; s != nil && by.tier == TierLAN && usable(what) {
		s.heard++
	}
	return what
}

// usable reports whether a lease is an answer to who asks for its cell.
func usable(what string) bool { return what == stored || what == merged }

func (m *Mesh) wake(cell identity.Cell) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wakeLocked(cell)
}

func (m *Mesh) wakeLocked(cell identity.Cell) {
	for w := range m.waiters[cell] {
		poke(w.wake)
	}
	if w := m.watches[cell]; w != nil {
		for each := range w.watchers {
			poke(each.wake)
		}
	}
}

// waiter is one Discover under way.
type waiter struct {
	m      *Mesh
	cell   identity.Cell
	start  time.Time
	search *search               // nil: the cache answers alone
	known  map[identity.Key]bool // nodes that the cache held at the start
	seen   map[identity.Key]bool // nodes handed out
	wake   chan struct{}         // one token: look again
}

// join joins the search for a cell, or starts one where the cache will not do.
func (m *Mesh) join(cell identity.Cell) (*waiter, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	w := &waiter{
		m: m, cell: cell, start: now, wake: make(chan struct{}, 1),
		known: make(map[identity.Key]bool), seen: make(map[identity.Key]bool),
	}
	n, known := m.table.ask(cell), m.endpointsLocked(cell, now)
	for _, e := range known {
		w.known[e.Node] = true
	}
	w.search = m.searches[cell]
	due := n.due(known, m.cfg)
	if len(known) == 1 && known[0].Tier == TierSelf { // who asks though it serves the cell looks for others
		due = n.searched.Add(m.cfg.Negative)
	}
	if w.search == nil && !now.Before(due) {
		s, err := m.beginLocked(cell, known)
		if err != nil && len(known) == 0 {
			return nil, err
		}
		w.search = s
	}
	if w.search != nil {
		w.search.awaited = true
	}
	if m.waiters[cell] == nil {
		m.waiters[cell] = make(map[*waiter]struct{})
	}
	m.waiters[cell][w] = struct{}{}
	return w, nil
}

// due returns until when the last search stands for a new one.
func (n *name) due(known []Endpoint, c Config) time.Time {
	if len(known) > 0 {
		return n.searched.Add(c.Fresh)
	}
	return n.missing
}

func (m *Mesh) leave(w *waiter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.waiters[w.cell], w)
	if len(m.waiters[w.cell]) == 0 {
		delete(m.waiters, w.cell)
	}
}

// endpointsLocked returns all that is known of a cell, this node first.
func (m *Mesh) endpointsLocked(cell identity.Cell, now time.Time) []Endpoint {
	var all []Endpoint
	if own := m.leases[cell]; own != nil {
		if l := own.shown.Load(); l != nil {
			all = append(all, Endpoint{Node: m.self, Addrs: l.Addrs, Tier: TierSelf, Lease: *l, told: told{tier: TierSelf}})
		}
	}
	return append(all, m.table.list(cell, now)...)
}

// next returns what has not been handed out yet, and whether that was all.
func (w *waiter) next() (found []Endpoint, done bool) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	now := time.Now()
	done = w.search == nil || w.search.done
	var draining []Endpoint
	for _, e := range w.m.endpointsLocked(w.cell, now) {
		if w.seen[e.Node] || e.Draining() && !done {
			continue
		}
		w.seen[e.Node] = true
		if e.Took, e.Why = now.Sub(w.start), e.told.why(now); e.Tier != TierSelf && w.known[e.Node] {
			e.Tier = TierCache
		}
		if e.Draining() {
			draining = append(draining, e)
		} else {
			found = append(found, e)
		}
	}
	return append(found, draining...), done
}

func (w *waiter) notFound() error {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	why := "nothing known"
	var reasons []TierReason
	if n := w.m.table.names[w.cell]; n != nil {
		reasons = n.reasons
		if n.loss != "" {
			why = fmt.Sprintf("last served by %s; %s %s", n.lost.Short(), n.loss, ago(time.Since(n.lossAt)))
		}
	}
	if w.search != nil {
		reasons = w.search.reasons
	}
	return &NotFound{Cell: w.cell, Reasons: append([]TierReason{{Tier: TierCache, Why: why}}, reasons...)}
}
