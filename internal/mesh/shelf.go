package mesh

import (
	"container/list"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// Limits of the cache. A strange node can fill it with its own well-signed
// leases, so what was asked for and what was merely heard have a shelf each.
const (
	maxNames   = 4096 // cells on one shelf
	maxEntries = 4096 // leases on one shelf, about 3 KiB each
	maxPerName = 64   // nodes of one cell
	maxPerTier = 48   // of these, nodes known from one tier only
	maxPerNode = 1024 // leases of one node that nobody asked for
)

// shelf bounds a class of names; the one longest unused falls off.
type shelf struct {
	names   list.List // of *name, most recently used first
	entries int
}

// ask moves a cell to the shelf of those that somebody wants.
func (t *table) ask(cell identity.Cell) *name {
	n := t.names[cell]
	if n == nil {
		n = t.put(&name{cell: cell, nodes: make(map[identity.Key]*entry)}, &t.asked)
	} else if n.shelf == &t.asked {
		t.asked.names.MoveToFront(n.place)
	} else {
		t.remove(n)
		t.put(n, &t.asked)
		for _, e := range n.nodes {
			_, _ = t.wanted.Admit(e.lease) // from now on; it has been admitted before
		}
	}
	t.trim(&t.asked, n)
	return n
}

// makeRoom reports whether n may take one more node from tier, if need be in
// place of one that is of least use.
func (t *table) makeRoom(n *name, tier Tier) bool {
	same := 0
	var worst *entry
	for _, e := range n.nodes {
		if e.tier == tier {
			same++
		}
		useless := func(e *entry) bool { return e.spent || t.isDead(e.lease.Node()) }
		if (useless(e) || e.lease.State == record.StateDraining) && (worst == nil || useless(e) && !useless(worst)) {
			worst = e
		}
	}
	if len(n.nodes) < maxPerName && same < maxPerTier {
		return true
	}
	if worst == nil || same >= maxPerTier && worst.tier != tier {
		return false
	}
	t.drop(n, worst)
	return true
}

// trim makes a shelf obey its limits; keep is the name in use.
func (t *table) trim(s *shelf, keep *name) {
	for s.names.Len() > maxNames || s.entries > maxEntries {
		oldest := s.names.Back()
		if oldest.Value.(*name) == keep {
			oldest = oldest.Prev()
		}
		if oldest == nil {
			return
		}
		t.remove(oldest.Value.(*name))
	}
}

// tidy removes a name that nobody asked for and nobody serves.
func (t *table) tidy(n *name) {
	if n.shelf == &t.heard && len(n.nodes) == 0 {
		t.remove(n)
	}
}

func (t *table) put(n *name, s *shelf) *name {
	n.shelf, n.place = s, s.names.PushFront(n)
	t.names[n.cell] = n
	for node := range n.nodes {
		t.count(n, node, +1)
	}
	return n
}

func (t *table) remove(n *name) {
	for node := range n.nodes {
		t.count(n, node, -1)
	}
	n.shelf.names.Remove(n.place)
	delete(t.names, n.cell)
}

func (t *table) drop(n *name, e *entry) {
	delete(n.nodes, e.lease.Node())
	t.count(n, e.lease.Node(), -1)
}

func (t *table) count(n *name, node identity.Key, by int) {
	n.shelf.entries += by
	if n.shelf != &t.heard {
		return
	}
	if t.unasked[node] += by; t.unasked[node] == 0 {
		delete(t.unasked, node)
	}
}
