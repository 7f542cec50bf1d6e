package node

import (
	"cmp"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"

	"cell.network/cell/internal/autonomic"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/pulse"
	"cell.network/cell/internal/record"
)

// What a node takes on.
const (
	maxHosted     = 48       // replicas on this node, as far as its row holds them
	maxHostedCell = 24       // of these, of one cell
	maxMourned    = 8        // ended replicas of a cell that its row still tells of
	minMemory     = 64 << 20 // bytes that a replica is reckoned to need where Cell.toml sets no limit
	maxGeneration = 1 << 32  // greater ones are lies
)

// What a row's parts take in bytes, at most and about: all that this node runs
// must be in its row, so it takes no more than the row holds.
const (
	rowBytes        = record.MaxRowSize - 100
	rowHeadBytes    = 330 // with a membership
	rowCellBytes    = 46  // beside the name
	rowReplicaBytes = 40
	usualName       = 20
)

// row is what this node says of itself now.
func (n *Node) row() record.RowOffer {
	n.mu.Lock()
	defer n.mu.Unlock()
	o := record.RowOffer{Capacity: n.capacityLocked()}
	if m := n.certs.Member; m != nil {
		o.Member = m.Raw
	}
	for _, s := range n.services {
		if c, ok := n.rowCellLocked(s); ok {
			o.Cells = append(o.Cells, c)
		}
	}
	// Those with replicas first: a row that would be too long loses its end. The
	// others take turns.
	slices.SortFunc(o.Cells, func(a, b record.RowCell) int {
		return cmp.Or(cmp.Compare(len(b.Replicas), len(a.Replicas)), strings.Compare(a.Cell.String(), b.Cell.String()))
	})
	idle := o.Cells
	for len(idle) > 0 && len(idle[0].Replicas) > 0 {
		idle = idle[1:]
	}
	if n.turn++; len(idle) > 1 {
		k := n.turn % len(idle)
		copy(idle, append(slices.Clone(idle[k:]), idle[:k]...))
	}
	o.Cells = o.Cells[:min(len(o.Cells), record.MaxRowCells)]
	return o
}

// roomLocked is how many more replicas of any cell fit into this node's row.
func (n *Node) roomLocked() int {
	left, busy, hosted := rowBytes-rowHeadBytes, 0, 0
	for cell, s := range n.services {
		if k := len(s.replicas) + len(s.claims) + len(s.mourned); k > 0 {
			busy++
			hosted += len(s.replicas) + len(s.claims)
			left -= rowCellBytes + len(cell.Name) + k*rowReplicaBytes
		}
	}
	left -= rowCellBytes + usualName // it may be for a cell that has none yet
	if busy >= record.MaxRowCells {
		return 0
	}
	return max(0, min(maxHosted-hosted, left/rowReplicaBytes))
}

func (n *Node) capacityLocked() record.Capacity {
	m := n.machine
	c := record.Capacity{
		CPU: thousandths(m.Cores), CPUFree: thousandths(m.Cores * m.CPUFree),
		Memory: mebibytes(m.Memory), MemoryFree: mebibytes(m.MemoryFree),
	}
	if !n.leaving && !n.drained && !n.cfg.Settings.Only {
		c.Room = uint32(n.roomLocked())
		if m.Memory > 0 {
			c.Room = min(c.Room, uint32(m.MemoryFree/minMemory))
		}
	}
	return c
}

// rowCellLocked is a cell in the row; there is nothing to say of one that this
// node neither has code of, nor runs, nor knows a population record of.
func (n *Node) rowCellLocked(s *service) (record.RowCell, bool) {
	c := record.RowCell{Cell: s.cell, Code: n.startableLocked(s), Waiting: uint32(s.waiting), Population: s.population.Raw}
	if s.deploy != nil {
		c.Epoch, c.Seq = s.deploy.release.Epoch, s.deploy.release.Seq
	}
	for _, r := range s.replicas {
		v := r.getVitals()
		c.Replicas = append(c.Replicas, record.RowReplica{
			ID: r.number, Generation: r.generation, State: r.rowState(),
			Offered: thousandths(v.offered), Shed: thousandths(v.shed), Inflight: thousandths(v.inflight),
			P99: uint32(min(v.p99.Microseconds(), math.MaxUint32)), CPU: thousandths(v.cpu), Memory: mebibytes(v.memory),
		})
	}
	for _, x := range s.claims {
		c.Replicas = append(c.Replicas, record.RowReplica{ID: x.number, Generation: x.generation, State: record.ReplicaStarting})
	}
	s.mourned = slices.DeleteFunc(s.mourned, func(m mourned) bool { return time.Since(m.at) > autonomic.Mourning })
	for _, m := range s.mourned {
		c.Replicas = append(c.Replicas, record.RowReplica{ID: m.number, Generation: m.generation, State: m.state})
	}
	c.Replicas = c.Replicas[:min(len(c.Replicas), record.MaxRowReplicas)]
	return c, c.Code || len(c.Replicas) > 0 || c.Waiting > 0 || len(c.Population) > 0
}

// startableLocked reports whether this node could start a replica now.
func (n *Node) startableLocked(s *service) bool {
	if s.deploy == nil || s.drained || n.drained || n.leaving || n.cfg.Settings.Only || !n.settings.Trusts(s.cell.Author, n.cfg.Author) {
		return false
	}
	if rel := s.deploy.release; rel.Raw != nil && rel.Check(time.Now()) != nil { // it has expired
		return false
	}
	_, _, err := n.certs.For(s.cell, n.self)
	return err == nil
}

func (r *replica) rowState() record.ReplicaState {
	switch {
	case r.parting.Load() || r.getState() == ReplicaDraining:
		return record.ReplicaDraining
	case r.getState() == ReplicaAlive:
		return record.ReplicaLive
	}
	return record.ReplicaStarting
}

func thousandths(x float64) uint32 {
	return uint32(min(max(math.Round(1000*x), 0), math.MaxUint32))
}

func mebibytes(b int64) uint32 { return uint32(min(max(b>>20, 0), math.MaxUint32)) }

// countsLocked reports whether what a row says of a cell counts: whether the author
// lets its node serve it, as far as this node holds his grants.
func (n *Node) countsLocked(row record.Row, cell identity.Cell, now time.Time) bool {
	return slices.ContainsFunc(n.certs.Grants, func(g record.Grant) bool { return row.Counts(cell, g, now) })
}

// wanted tells pulse which rows are of use here: those of nodes that may serve
// a cell that this node knows, or that bring a new word of its operator.
func (n *Node) wanted(row record.Row) bool {
	n.mu.Lock()
	shares := n.sharesLocked(row, time.Now())
	n.mu.Unlock()
	if shares {
		return true
	}
	for _, c := range row.Cells {
		if len(c.Population) > 0 && n.hearPopulation(c.Cell, c.Population) {
			return true
		}
	}
	return false
}

// rowKick is how long news of other nodes is gathered before a decision.
const rowKick = 50 * time.Millisecond

// heardRow takes in another node's row.
func (n *Node) heardRow(row record.Row) {
	for _, c := range row.Cells {
		if len(c.Population) > 0 {
			n.hearPopulation(c.Cell, c.Population)
		}
	}
	if n.soon.CompareAndSwap(false, true) {
		time.AfterFunc(rowKick, func() {
			n.soon.Store(false)
			n.kick()
		})
	}
}

// testimony is what a node's row says of one cell, where that counts.
type testimony struct {
	node     identity.Key
	capacity record.Capacity
	cell     record.RowCell
	age      time.Duration
}

// siftLocked sorts what other nodes say by cell: of cells that are known here,
// by nodes that may serve them.
func (n *Node) siftLocked(rows []pulse.Seen, now time.Time) map[identity.Cell][]testimony {
	out := make(map[identity.Cell][]testimony, len(n.services))
	for _, seen := range rows {
		for _, c := range seen.Row.Cells {
			if n.services[c.Cell] != nil && n.countsLocked(seen.Row, c.Cell, now) {
				out[c.Cell] = append(out[c.Cell], testimony{seen.Row.Node(), seen.Row.Capacity, c, seen.Age})
			}
		}
	}
	return out
}

// hostSilent is the age from which a row says nothing of the present: that of
// [autonomic.Policy.Suspect].
const hostSilent = 4 * time.Second

// ownLocked is what this node says of a cell itself.
func (n *Node) ownLocked(s *service) (testimony, bool) {
	c, ok := n.rowCellLocked(s)
	return testimony{n.self, n.capacityLocked(), c, 0}, ok
}

// viewLocked is what this node sees of a cell: its own replicas as they are now,
// those of others as their rows say.
func (n *Node) viewLocked(s *service, others []testimony) autonomic.View {
	v := autonomic.View{Cell: s.cell, Self: n.self, Stopped: s.population.Stopped}
	if own, ok := n.ownLocked(s); ok {
		own.into(&v)
	}
	for _, o := range others {
		o.into(&v)
	}
	return v
}

// into adds a testimony to a view.
func (o testimony) into(v *autonomic.View) {
	h := autonomic.Host{Key: o.node, HasCode: o.cell.Code, CPUFree: 1, Age: o.age}
	h.Room = max(0, min(int(min(o.capacity.Room, maxHosted)), maxHostedCell-len(o.cell.Replicas)))
	if o.capacity.CPU > 0 {
		h.CPUFree = float64(o.capacity.CPUFree) / float64(o.capacity.CPU)
	}
	v.Hosts = append(v.Hosts, h)
	v.Waiting += float64(o.cell.Waiting)
	for _, r := range o.cell.Replicas {
		v.Replicas = append(v.Replicas, autonomic.Replica{
			Host: o.node, ID: r.ID, State: autonomic.State(r.State), Generation: r.Generation, Age: o.age,
			Offered: float64(r.Offered) / 1000, Shed: float64(r.Shed) / 1000, Inflight: float64(r.Inflight) / 1000, CPU: float64(r.CPU) / 1000,
		})
	}
}

// policy is what Cell.toml and the operator want of a cell's population.
func (s *service) policy() autonomic.Policy {
	m := Manifest{Scaling: ScalingSection{MaxReplicas: 1}}
	if s.deploy != nil {
		m = s.deploy.manifest
	}
	sc := m.Scaling
	p := autonomic.Policy{
		Min: sc.MinReplicas, Max: sc.MaxReplicas, InflightTarget: float64(sc.InflightTarget),
		CPUTarget: float64(sc.CPUTarget) / 100, ScaleUp: float64(sc.ScaleUpThreshold) / 100, ScaleDown: float64(sc.ScaleDownThreshold) / 100,
	}
	if s.population.Max > 0 {
		p.Min, p.Max = s.population.Min, s.population.Max
	}
	return p
}

// measureMachine looks at what is left of this machine.
func (n *Node) measureMachine() {
	m := Machine{Cores: float64(runtime.NumCPU()), CPUFree: 1}
	if n.cfg.Meter != nil {
		if seen, err := n.cfg.Meter.Machine(); err == nil {
			m = seen
		}
	}
	n.mu.Lock()
	n.machine = m
	n.mu.Unlock()
}
