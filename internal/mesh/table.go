package mesh

import (
	"bytes"
	"container/list"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// What admit says of a lease; all but stored, merged and gone refuse it.
const (
	stored  = "stored"
	merged  = "merged" // known already, perhaps with new addresses
	gone    = "withdrawn"
	spent   = "spent" // this very lease has lapsed or was forgotten
	ordered = "order"
	dead    = "dead" // noted, but its node is
	full    = "full"
	quota   = "quota"
)

// Why a node is not handed out any more.
const (
	endWithdrawn = "it withdrew"
	endLapsed    = "its lease lapsed"
	endMute      = "it did not answer"
	endGrant     = "its grant was replaced"
	endAnew      = "its host has restarted or left"
)

// table is the merging of leases: who serves what, as far as is known. It is
// pure: no goroutine, no lock, and the time is an argument.
type table struct {
	version      uint64 // rises with whatever may change the endpoints of a cell, other than time
	floor        *record.Floor
	rtt          func(identity.Key) (time.Duration, bool)
	wanted       record.Floor // of cells that somebody asked for: strangers' leases push nothing out of it
	names        map[identity.Cell]*name
	asked, heard shelf
	unasked      map[identity.Key]int   // entries on the heard shelf by node
	dead         map[identity.Key]death // nodes that membership says are dead; at most maxDead
}

// name is what is known of one cell.
type name struct {
	cell     identity.Cell
	nodes    map[identity.Key]*entry
	shelf    *shelf
	place    *list.Element
	lost     identity.Key // the node that was lost last,
	loss     string       // why, "" if none was,
	lossAt   time.Time    // and when
	begun    time.Time    // when a search last began
	searched time.Time    // when a search last ended well
	missing  time.Time    // until when a search that ended in vain stands, unless a lease came since
	reasons  []TierReason
	glimpse  glimpse
}

// entry is what is known of one node that serves a cell.
type entry struct {
	lease    record.Lease  // the newest
	told     told          // how it came first
	lan, dht path          // its addresses by tier
	tier     Tier          // that told of the node first
	since    time.Time     // when
	until    time.Time     // it lapses
	spent    bool          // lapsed or forgotten: kept so that a replay does not revive it
	end      string        // spent: why, in one clause
	distance time.Duration // by which the node is ranked; 0: not measured yet
}

// path is the addresses that one tier gave. They outlive the lease that they
// came with where the other tier brings the next one first.
type path struct {
	addrs [][]byte
	until time.Time
}

func (p path) live(now time.Time) bool { return len(p.addrs) > 0 && now.Before(p.until) }

func newTable(floor *record.Floor, rtt func(identity.Key) (time.Duration, bool)) table {
	return table{
		floor: floor, rtt: rtt, names: make(map[identity.Cell]*name),
		unasked: make(map[identity.Key]int), dead: make(map[identity.Key]death),
	}
}

// admit takes in a verified lease.
func (t *table) admit(l record.Lease, by told, now time.Time) string {
	by.at = now
	if _, err := t.floor.Admit(l); err != nil {
		return ordered
	}
	t.version++ // the grant alone may end the leases of others
	n := t.names[l.Cell]
	var e *entry
	if n != nil {
		e = n.nodes[l.Node()]
	}
	if n != nil && n.shelf == &t.asked {
		if _, err := t.wanted.Admit(l); err != nil {
			return ordered
		}
	}
	if e != nil && !e.spent && !now.Before(e.until) {
		e.spent, e.end = true, endLapsed
	}
	t.hearOf(l, by)
	switch {
	case l.Tombstone():
		if e == nil {
			return gone // nothing to withdraw; the floor remembers
		}
		t.drop(n, e)
		n.lose(l.Node(), endWithdrawn, now)
		return gone
	case e != nil && e.lease.Order == l.Order && e.spent:
		return spent
	case e != nil && e.lease.Order == l.Order:
		e.merge(l, by.tier)
		return t.verdict(n, l, merged)
	case e != nil:
		*e = newEntry(l, by, now, e)
		return t.verdict(n, l, stored)
	}
	if n == nil {
		n = t.put(&name{cell: l.Cell, nodes: make(map[identity.Key]*entry)}, &t.heard)
	}
	if n.shelf == &t.heard && t.unasked[l.Node()] >= maxPerNode {
		t.tidy(n)
		return quota
	}
	if !t.makeRoom(n, by.tier) {
		return full
	}
	fresh := newEntry(l, by, now, nil)
	n.nodes[l.Node()] = &fresh
	t.count(n, l.Node(), +1)
	t.trim(n.shelf, n)
	return t.verdict(n, l, stored)
}

// verdict is what, unless l's node is dead; an answer ends the cell's negative one.
func (t *table) verdict(n *name, l record.Lease, what string) string {
	if t.isDead(l.Node()) {
		return dead
	}
	n.missing = time.Time{}
	return what
}

func newEntry(l record.Lease, by told, now time.Time, old *entry) entry {
	e := entry{lease: l, told: by, tier: by.tier, since: now, until: l.Expires(now)}
	for _, h := range certificates(l) { // a lease does not outlive what allows it
		if end := h.Issued.Add(h.TTL + record.MaxSkew); end.Before(e.until) {
			e.until = end
		}
	}
	if old != nil && !old.spent && old.lease.Order.Incarnation == l.Order.Incarnation {
		e.since, e.tier, e.lan, e.dht, e.distance = old.since, old.tier, old.lan, old.dht, old.distance
	}
	e.merge(l, by.tier)
	return e
}

func certificates(l record.Lease) []record.Header {
	switch {
	case l.Seed != nil:
		return nil
	case l.Member != nil:
		return []record.Header{l.Grant.Header, l.Member.Header}
	}
	return []record.Header{l.Grant.Header}
}

// merge joins the addresses of two leases of one order, one for each tier. It
// never prolongs: a copy of a lease is no sign of life.
func (e *entry) merge(l record.Lease, tier Tier) {
	if p := (path{l.Addrs, e.until}); tier == TierLAN {
		e.lan = p
	} else {
		e.dht = p
	}
}

// endpoint is what callers see of e.
func (e *entry) endpoint(now time.Time) Endpoint {
	var all [][]byte
	for _, p := range []path{e.lan, e.dht} {
		for _, a := range p.addrs {
			if p.live(now) && !slices.ContainsFunc(all, func(b []byte) bool { return bytes.Equal(a, b) }) {
				all = append(all, a)
			}
		}
	}
	return Endpoint{
		Node: e.lease.Node(), Addrs: all, Tier: e.tier, Lease: e.lease, Hops: e.told.hops, Holder: e.told.holder, since: e.since, told: e.told,
	}
}

// list returns the endpoints of a cell in the order in which to try them.
func (t *table) list(cell identity.Cell, now time.Time) []Endpoint {
	n := t.names[cell]
	if n == nil {
		return nil
	}
	t.lapse(n, now)
	var live []Endpoint
	for node, e := range n.nodes {
		if e.spent || t.isDead(node) {
			continue
		}
		ep := e.endpoint(now)
		if rtt, ok := t.rtt(node); ok {
			ep.RTT, e.distance = rtt, settle(e.distance, rtt)
		}
		ep.distance = e.guess(now)
		live = append(live, ep)
	}
	slices.SortFunc(live, rank)
	return live
}

// forget marks a node's present lease as not to be believed.
func (t *table) forget(cell identity.Cell, node identity.Key, now time.Time) bool {
	n := t.names[cell]
	if n == nil || n.nodes[node] == nil || n.nodes[node].spent {
		return false
	}
	t.version++
	n.nodes[node].spent, n.nodes[node].end = true, endMute
	n.lose(node, endMute, now)
	return true
}

// sweep clears away what is no longer of use.
func (t *table) sweep(now time.Time) {
	for _, n := range t.names {
		t.lapse(n, now)
		t.tidy(n)
	}
	for node, d := range t.dead {
		if now.After(d.at.Add(deathTime)) {
			delete(t.dead, node)
		}
	}
}

// lapse marks what has expired, and drops the marks that no replay can outlive.
func (t *table) lapse(n *name, now time.Time) {
	for _, e := range n.nodes {
		if e.spent {
		} else if at, end := t.end(e, now); end != "" {
			e.spent, e.end = true, end
			n.lose(e.lease.Node(), end, at)
		}
		if e.spent && now.After(e.lease.Issued.Add(e.lease.TTL+record.MaxSkew)) {
			t.drop(n, e)
		}
	}
}

// end returns when and why an entry ceased to hold, or "".
func (t *table) end(e *entry, now time.Time) (at time.Time, why string) {
	switch d, isDead := t.dead[e.lease.Node()]; {
	case !now.Before(e.until):
		return e.until, endLapsed
	case !t.floor.Stands(e.lease) || !t.wanted.Stands(e.lease):
		return now, endGrant
	case !t.floor.Over(e.lease) && !t.wanted.Over(e.lease):
		return now, ""
	case isDead:
		return d.at, d.end
	}
	return now, endAnew
}

// lose notes that a node serves the cell no more.
func (n *name) lose(node identity.Key, why string, at time.Time) {
	if at.After(n.lossAt) {
		n.lost, n.loss, n.lossAt = node, why, at
	}
	n.searched = time.Time{}
}
