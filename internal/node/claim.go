package node

import (
	"context"
	"slices"
	"time"

	"cell.network/cell/internal/autonomic"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/record"
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
	deploy             *deployment // that is started
	ordered            bool        // by the operator himself: no decision takes it back
	cancel             func()      // gives it up
}

// divide claims a vacancy, so that others count it, and starts a replica for it.
func (n *Node) divide(s *service, a autonomic.Action) {
	n.mu.Lock()
	taken := n.leaving || s.deploy == nil || slices.ContainsFunc(s.claims, func(c *claim) bool { return c.generation == a.Generation })
	if taken || s.drained || n.drained {
		n.mu.Unlock()
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.nextID++
	c := &claim{number: n.nextID, generation: a.Generation, deploy: s.deploy, cancel: cancel}
	s.claims = append(s.claims, c)
	n.wg.Add(1)
	n.mu.Unlock()
	n.changed()
	cause := n.event(journal.Mitosis, "", s.cell.String(), a.Reason.String(), reasonData(a, a.Reason.Want))
	go func() {
		defer n.wg.Done()
		defer cancel()
		n.fill(ctx, s, c, cause)
	}()
}

// claimNext claims the next replica of a cell for a start that the operator asked for.
func (n *Node) claimNext(s *service, d *deployment) (*claim, error) {
	rows := n.rows()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.leaving || n.drained {
		return nil, NewError(CodeFailed, "this node takes no new replicas", "let it take them again: cell drain --undo")
	}
	n.services[s.cell] = s // a start that failed meanwhile may have removed it
	generation := uint64(1)
	for _, r := range n.viewLocked(s, n.siftLocked(rows, time.Now())[s.cell]).Replicas {
		if r.Generation < maxGeneration {
			generation = max(generation, r.Generation+1)
		}
	}
	n.nextID++
	c := &claim{number: n.nextID, generation: generation, deploy: d, ordered: true, cancel: func() {}}
	s.claims = append(s.claims, c)
	n.pulse.Changed()
	return c, nil
}

// fill starts the replica of a claim and makes it known.
func (n *Node) fill(ctx context.Context, s *service, c *claim, cause string) {
	defer n.changed()
	r, err := n.spawn(ctx, s, c.deploy, c, cause)
	if err != nil {
		n.mu.Lock()
		if s.dropClaim(c) {
			s.mourn(c.number, c.generation, record.ReplicaFailed)
		}
		n.mu.Unlock()
		return
	}
	n.mu.Lock()
	joined := n.joinLocked(s, c, r)
	n.mu.Unlock()
	if !joined {
		r.end()
	}
}

// end ends a replica that nobody has been told of.
func (r *replica) end() {
	r.parting.Store(true) // nobody mourns it
	_ = r.proc.Kill()
	<-r.done
}

// joinLocked makes a replica that is ready one of the cell's, and the cell
// known. It reports false where the claim was given up meanwhile, or is of an
// earlier deployment.
func (n *Node) joinLocked(s *service, c *claim, r *replica) bool {
	grant, member, err := n.certs.For(s.cell, n.self)
	held := s.dropClaim(c)
	ended := false
	select {
	case <-r.done:
		ended = true
	default:
	}
	if !held || c.deploy != s.deploy || n.leaving || err != nil || ended {
		return false
	}
	s.replicas = append(s.replicas, r)
	s.lease = n.mesh.Announce(s.cell, grant, member)
	n.endRelaysLocked(s.cell)
	return true
}

// dropClaim reports whether the claim was still held.
func (s *service) dropClaim(c *claim) bool {
	was := len(s.claims)
	s.claims = slices.DeleteFunc(s.claims, func(x *claim) bool { return x == c })
	return len(s.claims) < was
}

// mourn has the row tell of a replica that ended without being asked.
func (s *service) mourn(number, generation uint64, state record.ReplicaState) {
	s.mourned = append(s.mourned, mourned{number, generation, state, time.Now()})
	s.mourned = s.mourned[max(0, len(s.mourned)-maxMourned):]
}
