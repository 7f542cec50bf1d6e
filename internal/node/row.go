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

// What a node takes on. A row has to hold all of it.
const (
	maxHosted     = 48       // replicas on this node
	maxHostedCell = 24       // of these, of one cell
	maxMourned    = 8        // ended replicas of a cell that its row still tells of
	minMemory     = 64 << 20 // bytes that a replica is reckoned to need where Cell.toml sets no limit
)

// mourned is a replica that ended without being asked, as the row tells of it
// for [autonomic.Mourning].
type mourned struct {
	number, generation uint64
	state              record.ReplicaState
	at                 time.Time
}

// claim is a replica that this node has told others it is starting.
type claim struct {
	number, generation uint64
	cancel             func() // gives it up
}

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
	// Those with replicas first: a row that would be too long loses its end.
	slices.SortFunc(o.Cells, func(a, b record.RowCell) int {
		return cmp.Or(cmp.Compare(len(b.Replicas), len(a.Replicas)), strings.Compare(a.Cell.String(), b.Cell.String()))
	})
	o.Cells = o.Cells[:min(len(o.Cells), record.MaxRowCells)]
	return o
}

func (n *Node) capacityLocked() record.Capacity {
	m := n.machine
	c := record.Capacity{
		CPU: thousandths(m.Cores), CPUFree: thousandths(m.Cores * m.CPUFree),
		Memory: mebibytes(m.Memory), MemoryFree: mebibytes(m.MemoryFree),
	}
	hosted := 0
	for _, s := range n.services {
		hosted += len(s.replicas) + len(s.claims)
	}
	if !n.leaving && !n.drained {
		c.Room = uint32(max(0, maxHosted-hosted))
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
	if s.deploy == nil || s.drained || n.drained || n.leaving || !n.settings.Trusts(s.cell.Author, n.cfg.Author) {
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

// counts reports whether what a row says of a cell counts: whether the author
// lets its node serve it, as far as this node holds his grants.
func (n *Node) countsLocked(row record.Row, cell identity.Cell, now time.Time) bool {
	return slices.ContainsFunc(n.certs.Grants, func(g record.Grant) bool { return row.Counts(cell, g, now) })
}

// wanted tells pulse which rows are of use here: those of nodes that may serve
// a cell that this node knows, or that bring word of one.
func (n *Node) wanted(row record.Row) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for _, c := range row.Cells {
		if n.services[c.Cell] != nil && (len(c.Population) > 0 || n.countsLocked(row, c.Cell, now)) {
			return true
		}
	}
	return false
}

// heardRow takes in another node's row.
func (n *Node) heardRow(row record.Row) {
	for _, c := range row.Cells {
		if len(c.Population) > 0 {
			n.hearPopulation(c.Cell, c.Population)
		}
	}
	n.kick()
}

// partners are the nodes to exchange rows with: who serves a cell that is known
// here, and who seeds it.
func (n *Node) partners() []pulse.Target {
	n.mu.Lock()
	topics := make(map[identity.Cell]bool, 2*len(n.services))
	for cell := range n.services {
		topics[cell], topics[cell.Seeds()] = true, true
	}
	n.mu.Unlock()
	var out []pulse.Target
	seen := make(map[identity.Key]bool)
	for _, ep := range n.mesh.Known() {
		if topics[ep.Lease.Cell] && ep.Node != n.self && !seen[ep.Node] {
			seen[ep.Node] = true
			out = append(out, pulse.Target{Node: ep.Node, Addrs: ep.Addrs})
		}
	}
	slices.SortFunc(out, func(a, b pulse.Target) int { return strings.Compare(string(a.Node[:]), string(b.Node[:])) })
	return out
}

// viewLocked is what this node sees of a cell: its own replicas as they are now,
// those of others as their rows say.
func (n *Node) viewLocked(s *service, rows []pulse.Seen, now time.Time) autonomic.View {
	v := autonomic.View{Cell: s.cell, Self: n.self, Waiting: float64(s.waiting), Stopped: s.population.Stopped}
	add := func(node identity.Key, capacity record.Capacity, c record.RowCell, age time.Duration) {
		h := autonomic.Host{Key: node, Room: int(min(capacity.Room, maxHosted)), HasCode: c.Code, CPUFree: 1, Age: age}
		if capacity.CPU > 0 {
			h.CPUFree = float64(capacity.CPUFree) / float64(capacity.CPU)
		}
		if len(c.Replicas) >= maxHostedCell {
			h.Room = 0
		}
		v.Hosts = append(v.Hosts, h)
		for _, r := range c.Replicas {
			v.Replicas = append(v.Replicas, autonomic.Replica{
				Host: node, ID: r.ID, State: autonomic.State(r.State), Generation: r.Generation, Age: age,
				Offered: float64(r.Offered) / 1000, Shed: float64(r.Shed) / 1000, Inflight: float64(r.Inflight) / 1000, CPU: float64(r.CPU) / 1000,
			})
		}
	}
	if own, ok := n.rowCellLocked(s); ok {
		add(n.self, n.capacityLocked(), own, 0)
	}
	for _, seen := range rows {
		i := slices.IndexFunc(seen.Row.Cells, func(c record.RowCell) bool { return c.Cell == s.cell })
		if i < 0 || !n.countsLocked(seen.Row, s.cell, now) {
			continue
		}
		c := seen.Row.Cells[i]
		v.Waiting += float64(c.Waiting)
		add(seen.Row.Node(), seen.Row.Capacity, c, seen.Age)
	}
	return v
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
