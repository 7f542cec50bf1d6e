package node

import (
	"slices"
	"strings"
	"time"

	"cell.network/cell/internal/autonomic"
	"cell.network/cell/internal/record"
)

// Cells lists the cells that this node has code or replicas of, or was told
// about, with what it knows of them on all hosts.
func (n *Node) Cells() []CellStatus {
	rows := n.pulse.Rows()
	n.mu.Lock()
	defer n.mu.Unlock()
	sifted := n.siftLocked(rows, time.Now())
	all := make([]CellStatus, 0, len(n.services))
	for _, s := range n.services {
		all = append(all, n.statusLocked(s, sifted[s.cell]))
	}
	slices.SortFunc(all, func(a, b CellStatus) int { return strings.Compare(a.Cell, b.Cell) })
	return all
}

func (n *Node) statusLocked(s *service, others []testimony) CellStatus {
	p := s.policy()
	c := CellStatus{
		Cell: s.cell.String(), Want: s.decision.Want, Min: p.Min, Max: p.Max, Stopped: s.population.Stopped, Bounds: "Cell.toml",
		Code: n.startableLocked(s), Drained: s.drained || n.drained,
		Replicas: []ReplicaLoad{}, Hosts: []HostLoad{},
	}
	if s.deploy != nil {
		c.Version, c.Seq = s.deploy.version, s.deploy.release.Seq
	}
	if w := s.population; w.Raw != nil && w.Max > 0 {
		c.Bounds = "scaled by " + w.Signer.Short() + " at " + w.Issued.UTC().Format(time.RFC3339)
	}
	if len(s.decision.Actions) > 0 {
		c.Decision = s.decision.Actions[0].Reason.String()
	}
	if own, ok := n.ownLocked(s); ok {
		others = append(slices.Clone(others), own)
	}
	for _, o := range others {
		h := HostLoad{Node: o.node, Self: o.node == n.self, Code: o.cell.Code, Room: int(o.capacity.Room), CPUFree: 1, AgeMS: ms(o.age)}
		if o.capacity.CPU > 0 {
			h.CPUFree = float64(o.capacity.CPUFree) / float64(o.capacity.CPU)
		}
		c.Hosts = append(c.Hosts, h)
		for _, r := range o.cell.Replicas {
			c.add(ReplicaLoad{
				Node: o.node, Self: h.Self, ID: r.ID, Generation: r.Generation, State: stateWord(r.State),
				Offered: float64(r.Offered) / 1000, Shed: float64(r.Shed) / 1000, Inflight: float64(r.Inflight) / 1000,
				P99MS: float64(r.P99) / 1000, CPU: float64(r.CPU) / 1000, Memory: int64(r.Memory) << 20,
			})
		}
	}
	if c.Live > 0 {
		c.CPU /= float64(c.Live)
	}
	slices.SortFunc(c.Hosts, func(a, b HostLoad) int { return strings.Compare(a.Node.String(), b.Node.String()) })
	slices.SortFunc(c.Replicas, func(a, b ReplicaLoad) int {
		if a.Generation != b.Generation {
			return int(min(max(int64(a.Generation-b.Generation), -1), 1))
		}
		return strings.Compare(a.Node.String(), b.Node.String())
	})
	return c
}

// add counts a replica and its load.
func (c *CellStatus) add(r ReplicaLoad) {
	c.Replicas = append(c.Replicas, r)
	switch r.State {
	case ReplicaAlive:
		c.Live++
		c.CPU += r.CPU
	case ReplicaStarting:
		c.Starting++
	case ReplicaDraining:
		c.Draining++
	}
	c.Offered += r.Offered
	c.Shed += r.Shed
	c.Inflight += r.Inflight
	c.P99MS = max(c.P99MS, r.P99MS)
}

// The states of a replica that ended without being asked, as others hear of it.
const (
	replicaDead   = "dead"
	replicaFailed = "failed"
)

func stateWord(s record.ReplicaState) string {
	switch autonomic.State(s) {
	case autonomic.Starting:
		return ReplicaStarting
	case autonomic.Live:
		return ReplicaAlive
	case autonomic.Draining:
		return ReplicaDraining
	case autonomic.Dead:
		return replicaDead
	}
	return replicaFailed
}
