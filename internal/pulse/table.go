package pulse

import (
	"bytes"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// What is remembered, of all nodes.
const (
	MaxNodes   = 512  // whose rows are held
	maxRelayed = 256  // of these, that no link leads to
	maxBrought = 128  // of these, that one and the same neighbour told of first
	maxPassed  = 64   // of these, that are passed on: he must not fill this node's share elsewhere
	history    = 4    // rows of one node that others may splice to
	maxFloor   = 4096 // nodes of late whose order is remembered; at most twice as many
)

// floorLife is for how long a row could be replayed after it was forgotten.
const floorLife = record.MaxRowTTL + 2*record.MaxSkew

// entry is what is known of one node.
type entry struct {
	row     record.Row
	past    []past       // earlier rows, newest first
	seen    time.Time    // when the row first came
	signed  time.Time    // when the node signed it, by this clock and the best of the ages told
	brought identity.Key // who told of the node first
}

type past struct {
	order record.Order
	raw   []byte
}

// expires is when the entry must be forgotten.
func (e *entry) expires() time.Time { return e.signed.Add(life(e.row)) }

// life is for how long a row is kept after it was signed: a goodbye for as long
// as any row that it ends.
func life(r record.Row) time.Duration {
	if r.Goodbye() {
		return record.MaxRowTTL
	}
	return r.TTL
}

// find returns the row that starts with these bytes, or nil.
func (e *entry) find(start []byte) []byte {
	if bytes.HasPrefix(e.row.Raw, start) {
		return e.row.Raw
	}
	for _, p := range e.past {
		if bytes.HasPrefix(p.raw, start) {
			return p.raw
		}
	}
	return nil
}

// at returns the earlier row of this order, or nil.
func (e *entry) at(o record.Order) []byte {
	for _, p := range e.past {
		if p.order == o {
			return p.raw
		}
	}
	return nil
}

// push makes r the newest row.
func (e *entry) push(r record.Row, seen, signed time.Time) {
	if e.row.Raw != nil {
		e.past = append([]past{{e.row.Order, e.row.Raw}}, e.past[:min(len(e.past), history-2)]...)
	}
	e.row, e.seen, e.signed = r, seen, signed
}

// freshen takes another word on the age of the row that is held. Nobody can
// make it younger than when it first came.
func (e *entry) freshen(signed time.Time) {
	if signed.After(e.seen) {
		signed = e.seen
	}
	if signed.After(e.signed) {
		e.signed = signed
	}
}

// table holds the newest row of every node. It is not safe for concurrent use.
type table struct {
	nodes   map[identity.Key]*entry
	tags    map[tag]identity.Key
	brought map[identity.Key]int
	relayed int

	floor    map[identity.Key]record.Order // of nodes that were forgotten
	oldFloor map[identity.Key]record.Order
	turned   time.Time // when floor was begun
}

func newTable() *table {
	return &table{nodes: make(map[identity.Key]*entry), tags: make(map[tag]identity.Key), brought: make(map[identity.Key]int),
		floor: make(map[identity.Key]record.Order), turned: time.Now()}
}

// order returns the order below which rows of a node are refused.
func (t *table) order(k identity.Key) (record.Order, bool) {
	if e := t.nodes[k]; e != nil {
		return e.row.Order, true
	}
	if o, ok := t.floor[k]; ok {
		return o, true
	}
	o, ok := t.oldFloor[k]
	return o, ok
}

// byTag returns the node that a tag stands for, and what is known of it.
func (t *table) byTag(b []byte) (identity.Key, *entry) {
	k := t.tags[tag(b)]
	return k, t.nodes[k]
}

// put takes a verified row that is age old. It returns whether the row is news,
// or why it is refused.
func (t *table) put(r record.Row, age time.Duration, from identity.Key, linked bool, now time.Time) (news bool, reason string) {
	signed := now.Add(-age)
	e := t.nodes[r.Signer]
	if o, ok := t.order(r.Signer); ok && r.Order.Compare(o) <= 0 {
		switch {
		case e != nil && bytes.Equal(e.row.Raw, r.Raw):
			e.freshen(signed)
		case e == nil && r.Order != o:
			return false, ReasonOrder
		}
		return false, ""
	}
	if age >= life(r) {
		return false, "" // over already: it would be forgotten at once
	}
	if e == nil {
		if linked {
			from = r.Signer
		}
		if len(t.nodes) >= MaxNodes || !linked && (t.relayed >= maxRelayed || t.brought[from] >= maxBrought) {
			return false, ReasonFull
		}
		e = &entry{brought: from}
		t.add(r.Signer, e)
	}
	e.push(r, now, signed)
	return true, ""
}

func (t *table) add(k identity.Key, e *entry) {
	t.nodes[k] = e
	if e.brought != k {
		t.relayed++
	}
	t.brought[e.brought]++
	if _, taken := t.tags[tagOf(k)]; !taken {
		t.tags[tagOf(k)] = k
	}
}

func (t *table) remove(k identity.Key, e *entry) {
	delete(t.nodes, k)
	if e.brought != k {
		t.relayed--
	}
	if t.brought[e.brought]--; t.brought[e.brought] == 0 {
		delete(t.brought, e.brought)
	}
	if t.tags[tagOf(k)] == k {
		delete(t.tags, tagOf(k))
	}
}

// expire forgets what is over, except its order, and returns the nodes forgotten.
func (t *table) expire(now time.Time) []identity.Key {
	var gone []identity.Key
	for k, e := range t.nodes {
		if now.Before(e.expires()) {
			continue
		}
		t.remove(k, e)
		if len(t.floor) >= maxFloor || now.Sub(t.turned) > floorLife {
			t.oldFloor, t.floor, t.turned = t.floor, make(map[identity.Key]record.Order), now
		}
		t.floor[k] = e.row.Order
		gone = append(gone, k)
	}
	return gone
}
