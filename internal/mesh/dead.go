package mesh

import (
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// maxDead is how many dead nodes are remembered; the one that died first is
// forgotten.
const maxDead = 4096

// deathTime is how long a death is remembered: no lease from before it is valid
// for longer.
const deathTime = record.MaxLeaseTTL + record.MaxSkew

// Why a dead node's endpoint is gone.
const (
	endSilent = "its host fell silent"
	endLeft   = "its host has left"
)

// death is what is known of a dead node.
type death struct {
	at    time.Time    // when it was told of
	order record.Order // the newest of the node's leases that were known then
	end   string       // how
}

// Lost tells that a node is dead, as the other nodes see it, or has left on
// purpose: its endpoints are handed out no more. [Mesh.Back] ends that, and so
// does a lease that the node can only have made since.
func (m *Mesh) Lost(node identity.Key, left bool) {
	if node == m.self {
		return
	}
	end := endSilent
	if left {
		end = endLeft
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.table.bury(node, end, time.Now())
	m.wakeNodeLocked(node)
}

// Began takes from a verified contact in which life its node is: leases of
// former ones are handed out no more, even if nobody noticed that they ended.
func (m *Mesh) Began(c record.Contact) {
	if c.Node() == m.self {
		return
	}
	over := m.cfg.Floor.Began(c)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.table.wanted.Began(c) || over {
		m.table.version++
		m.wakeNodeLocked(c.Node())
	}
}

// Back tells that a node is alive: what is known of it is handed out again,
// unless it has lapsed meanwhile, or was signed in a former life.
func (m *Mesh) Back(node identity.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.table.isDead(node) {
		m.table.revive(node)
		m.wakeNodeLocked(node)
	}
}

// wakeNodeLocked wakes those who wait for cells that a node serves.
func (m *Mesh) wakeNodeLocked(node identity.Key) {
	serves := func(cell identity.Cell) bool {
		n := m.table.names[cell]
		return n != nil && n.nodes[node] != nil
	}
	for cell := range m.waiters {
		if serves(cell) {
			m.wakeLocked(cell)
		}
	}
	for cell := range m.watches {
		if serves(cell) {
			m.wakeLocked(cell)
		}
	}
}

func (t *table) isDead(node identity.Key) bool {
	_, yes := t.dead[node]
	return yes
}

// bury hides what a node serves.
func (t *table) bury(node identity.Key, end string, now time.Time) {
	if t.isDead(node) {
		return
	}
	d := death{at: now, end: end}
	for _, n := range t.names {
		e := n.nodes[node]
		if e == nil {
			continue
		}
		if d.order.Compare(e.lease.Order) < 0 {
			d.order = e.lease.Order
		}
		if !e.spent {
			n.lose(node, end, now)
		}
	}
	if len(t.dead) >= maxDead {
		var first identity.Key
		for k, other := range t.dead {
			if first.IsZero() || other.at.Before(t.dead[first].at) {
				first = k
			}
		}
		t.revive(first)
	}
	t.dead[node] = d
	t.version++
}

// revive shows again what a dead node serves.
func (t *table) revive(node identity.Key) {
	delete(t.dead, node)
	t.version++
}

// hearOf sees whether a lease proves that a dead node is alive: the order of a
// node's leases rises with every one, so it must be newer than all that were
// known when the node died. One from the DHT may still be of before, and only
// its date tells.
func (t *table) hearOf(l record.Lease, by told) {
	d, isDead := t.dead[l.Node()]
	if !isDead || l.Tombstone() || l.Order.Compare(d.order) <= 0 {
		return
	}
	if by.tier == TierLAN || !l.Issued.Before(d.at.Truncate(time.Millisecond)) {
		t.revive(l.Node())
	}
}
