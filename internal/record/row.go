package record

import (
	"errors"
	"fmt"
	"time"

	"cell.network/cell/internal/identity"
)

// DomainRow is the domain of rows.
const DomainRow = "row"

// Limits on rows. A row of at most MaxLeaseSize bytes fits one packet on any link.
const (
	MinRowTTL      = 3 * time.Second
	MaxRowTTL      = 3 * time.Minute
	MaxRowSize     = MaxSize // bytes: about 60 replicas of 4 cells, 25 where each has a population
	MaxRowCells    = 32
	MaxRowReplicas = 32 // of one cell
)

// Row is what a node says of itself for the next seconds: what it has room for,
// and how the cells fare that it has code or replicas of. A row with TTL 0 is
// the node's goodbye.
//
// Payload: [cpu, free cpu, memory, free memory, room, [cell, …], member], where
//
//	cell    = [author, name, code bool, epoch, seq, waiting, [replica, …], population]
//	replica = [id, generation, state, offered, shed, in flight, p99, cpu, memory]
//
// and member and population are records or empty. They stand last, so that what
// changes from row to row lies close together. A population is passed on unread:
// whoever obeys it opens it with [OpenPopulation] first. Anybody may sign a row:
// see [Row.Counts].
type Row struct {
	Header
	Capacity Capacity
	Cells    []RowCell
	Member   *Member // nil where the node belongs to no colony
	Raw      []byte  // as received; do not modify
}

// Capacity is what a machine has and what is left of it.
type Capacity struct {
	CPU        uint32 // thousandths of a core
	CPUFree    uint32 // thousandths of a core
	Memory     uint32 // MiB
	MemoryFree uint32 // MiB
	Room       uint32 // replicas of any cell that the node would still take
}

// RowCell is one cell in a row.
type RowCell struct {
	Cell     identity.Cell
	Code     bool   // the node could start the cell now, without fetch or build
	Epoch    uint64 // with Seq: the newest release that the node holds; 0, 0 for none
	Seq      uint64
	Waiting  uint32 // requests held by callers here that know no replica
	Replicas []RowReplica

	// Population is the newest [Population] that the node has seen of the cell, in
	// its bytes, or empty. Its form, its signature and whose cell it is about are
	// unchecked.
	Population []byte
}

// ReplicaState is where a replica is in its life. Values cross the wire: add at the end.
type ReplicaState uint8

// The states of a replica in a row.
const (
	ReplicaStarting ReplicaState = 1 // claimed or not ready yet
	ReplicaLive     ReplicaState = 2
	ReplicaDraining ReplicaState = 3 // finishes what is in flight
	ReplicaDead     ReplicaState = 4 // exited without being asked
	ReplicaFailed   ReplicaState = 5 // the same, before it was of any use
)

// RowReplica is one replica in a row. Load is that of the last second.
type RowReplica struct {
	_          struct{} `cbor:",toarray"`
	ID         uint64   // unique on its node
	Generation uint64   // order of birth within the cell; lower is older
	State      ReplicaState
	Offered    uint32 // requests that arrived, refused ones included: thousandths per second
	Shed       uint32 // of these, refused because of load: thousandths per second
	Inflight   uint32 // requests at once, waiting ones included: thousandths
	P99        uint32 // of the time to answer: microseconds
	CPU        uint32 // thousandths of the replica's limit
	Memory     uint32 // MiB
}

type rowPayload struct {
	_          struct{} `cbor:",toarray"`
	CPU        uint32
	CPUFree    uint32
	Memory     uint32
	MemoryFree uint32
	Room       uint32
	Cells      []rowCellPayload
	Member     []byte
}

type rowCellPayload struct {
	_          struct{} `cbor:",toarray"`
	Author     identity.Key
	Name       string
	Code       bool
	Epoch      uint64
	Seq        uint64
	Waiting    uint32
	Replicas   []RowReplica
	Population []byte
}

// RowOffer is what a node puts into a row.
type RowOffer struct {
	Capacity Capacity
	Cells    []RowCell // at most MaxRowCells, each cell once
	Member   []byte    // raw membership, or empty
	Order    Order
	Issued   time.Time
	TTL      time.Duration // 0, or MinRowTTL to MaxRowTTL
}

// SignRow makes a row and checks it as a stranger would. Where the row would be
// too long it leaves out, the last first, cells without replicas and callers,
// of these the ones with a population after the others, and then populations:
// a node whose cells take turns at the front still tells all. The error wraps
// [ErrSize] where that is not enough.
func SignRow(node identity.Private, network identity.NetworkID, o RowOffer) (Row, error) {
	h := Header{Domain: DomainRow, Network: network, Order: o.Order, Issued: o.Issued, TTL: o.TTL}
	c := o.Capacity
	p := rowPayload{CPU: c.CPU, CPUFree: c.CPUFree, Memory: c.Memory, MemoryFree: c.MemoryFree, Room: c.Room,
		Cells: make([]rowCellPayload, 0, len(o.Cells)), Member: o.Member}
	for _, c := range o.Cells {
		p.Cells = append(p.Cells, rowCellPayload{Author: c.Cell.Author, Name: string(c.Cell.Name), Code: c.Code,
			Epoch: c.Epoch, Seq: c.Seq, Waiting: c.Waiting, Replicas: c.Replicas, Population: c.Population})
	}
	for {
		raw, err := Sign(node, h, p)
		if err == nil && len(p.Cells) <= MaxRowCells {
			return OpenRow(raw, network, o.Issued)
		}
		if err != nil && !errors.Is(err, ErrSize) {
			return Row{}, err
		}
		n, ok := len(p.Cells), false
		if p.Cells, ok = shorten(p.Cells); !ok {
			return Row{}, fmt.Errorf("%w: row of %d cells", ErrSize, n)
		}
	}
}

// shorten leaves out what others miss least, and reports whether there was any.
func shorten(cells []rowCellPayload) ([]rowCellPayload, bool) {
	idle := func(c rowCellPayload) bool { return len(c.Replicas) == 0 && c.Waiting == 0 }
	told := func(c rowCellPayload) bool { return len(c.Population) > 0 }
	last := func(is func(rowCellPayload) bool) int {
		i := len(cells) - 1
		for i >= 0 && !is(cells[i]) {
			i--
		}
		return i
	}
	i := last(func(c rowCellPayload) bool { return idle(c) && !told(c) })
	if i < 0 {
		i = last(idle)
	}
	if i >= 0 {
		return append(cells[:i], cells[i+1:]...), true
	}
	if i = last(told); i >= 0 {
		cells[i].Population = nil
	}
	return cells, i >= 0
}

// OpenRow checks a row's size, form, network, signature, freshness at now and,
// where it carries one, its signer's membership. Order is the business of
// whoever remembers what it has seen; whether the row counts for a cell is that
// of [Row.Counts].
func OpenRow(raw []byte, network identity.NetworkID, now time.Time) (Row, error) {
	if len(raw) > MaxRowSize {
		return Row{}, fmt.Errorf("%w: row of %d bytes, %d are allowed", ErrSize, len(raw), MaxRowSize)
	}
	var p rowPayload
	h, err := Open(raw, network, DomainRow, &p)
	if err != nil {
		return Row{}, err
	}
	if h.TTL != 0 && (h.TTL < MinRowTTL || h.TTL > MaxRowTTL) {
		return Row{}, fmt.Errorf("%w: row with a ttl of %v", ErrMalformed, h.TTL)
	}
	fresh := h
	if fresh.TTL == 0 { // whoever holds a goodbye passes it on for as long
		fresh.TTL = MaxRowTTL
	}
	if err := fresh.window(now); err != nil {
		return Row{}, fmt.Errorf("row: %w", err)
	}
	r := Row{Header: h, Raw: raw,
		Capacity: Capacity{CPU: p.CPU, CPUFree: p.CPUFree, Memory: p.Memory, MemoryFree: p.MemoryFree, Room: p.Room}}
	if r.Cells, err = openRowCells(p.Cells); err != nil {
		return Row{}, err
	}
	if len(p.Member) > 0 {
		m, err := OpenMember(p.Member, network, now)
		if err != nil {
			return Row{}, fmt.Errorf("%w: %w", ErrGrant, err)
		}
		if m.Node != h.Signer {
			return Row{}, fmt.Errorf("%w: membership of another node", ErrGrant)
		}
		r.Member = &m
	}
	return r, nil
}

func openRowCells(in []rowCellPayload) ([]RowCell, error) {
	if len(in) > MaxRowCells {
		return nil, fmt.Errorf("%w: row of %d cells", ErrMalformed, len(in))
	}
	cells, seen := make([]RowCell, 0, len(in)), make(map[identity.Cell]bool, len(in))
	for _, p := range in {
		name, err := identity.ParseName(p.Name)
		if err != nil {
			return nil, fmt.Errorf("%w: row: %v", ErrMalformed, err)
		}
		c := RowCell{Cell: identity.Cell{Author: p.Author, Name: name}, Code: p.Code,
			Epoch: p.Epoch, Seq: p.Seq, Waiting: p.Waiting, Replicas: p.Replicas, Population: p.Population}
		if seen[c.Cell] || p.Author.IsZero() || len(p.Replicas) > MaxRowReplicas {
			return nil, fmt.Errorf("%w: row with %s twice, of no author or with %d replicas", ErrMalformed, name, len(p.Replicas))
		}
		if len(p.Population) > MaxPopulationSize {
			return nil, fmt.Errorf("%w: row with a population of %d bytes for %s", ErrMalformed, len(p.Population), name)
		}
		seen[c.Cell] = true
		ids := make(map[uint64]bool, len(p.Replicas))
		for _, r := range p.Replicas {
			if ids[r.ID] || r.State < ReplicaStarting || r.State > ReplicaFailed {
				return nil, fmt.Errorf("%w: row with a replica twice or in state %d", ErrMalformed, r.State)
			}
			ids[r.ID] = true
		}
		cells = append(cells, c)
	}
	return cells, nil
}

// Node is the node that the row is about.
func (r Row) Node() identity.Key { return r.Signer }

// Goodbye reports whether the node is leaving: all that it said before is void.
func (r Row) Goodbye() bool { return r.TTL == 0 }

// Counts reports whether what the row says of a cell counts for anything at
// now: whether the grant, opened before, lets the row's node serve the cell.
func (r Row) Counts(cell identity.Cell, g Grant, now time.Time) bool {
	if g.Network != r.Network || g.window(now) != nil || r.Member != nil && r.Member.window(now) != nil {
		return false
	}
	return g.Allows(cell, r.Signer, r.Member)
}
