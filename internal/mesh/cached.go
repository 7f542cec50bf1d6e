package mesh

import (
	"slices"
	"time"

	"cell.network/cell/internal/identity"
)

// glimpse is what Cached hands out for a cell until something changes.
type glimpse struct {
	others  []Endpoint // shared with callers: never written again
	version uint64     // of the table that they were taken from
	until   time.Time  // something lapses, or it is time to search again
}

// Cached returns the other nodes that are known to serve a cell, in the order
// in which Discover would yield them, without waiting. The slice is shared: do
// not write to it. Where what is known is older than Config.Fresh, a search
// begins in the background, and a later call sees what it found.
//
// It is meant to be asked for every request: between two changes it costs a
// look into a map.
func (m *Mesh) Cached(cell identity.Cell) []Endpoint {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.table.names[cell]
	if n == nil || n.glimpse.version != m.table.version || !now.Before(n.glimpse.until) {
		n = m.glimpseLocked(cell, now)
	}
	return n.glimpse.others
}

// glimpseLocked looks anew, and sees to it that the knowledge stays fresh.
func (m *Mesh) glimpseLocked(cell identity.Cell, now time.Time) *name {
	n := m.table.ask(cell)
	known := m.endpointsLocked(cell, now)
	until := now.Add(m.cfg.Fresh)
	if m.searches[cell] == nil { // else its end makes us look again
		if due := n.due(known, m.cfg); now.Before(due) {
			until = due
		} else {
			_, _ = m.beginLocked(cell, known) // where too many are under way, a later call has its turn
		}
	}
	others := slices.DeleteFunc(known, func(e Endpoint) bool { return e.Node == m.self })
	for i := range others {
		others[i].Tier = TierCache
	}
	n.glimpse = glimpse{others, m.table.version, n.firstLapse(now, until)}
	return n
}

// firstLapse returns when the first of the leases and addresses that are in
// force lapses, limit at the latest.
func (n *name) firstLapse(now, limit time.Time) time.Time {
	for _, e := range n.nodes {
		if e.spent {
			continue
		}
		for _, end := range []time.Time{e.until, e.lan.until, e.dht.until} {
			if end.After(now) && end.Before(limit) {
				limit = end
			}
		}
	}
	return limit
}
