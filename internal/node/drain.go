package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/record"
)

const (
	// viewTime is how long a replica that parts goes on taking requests, until
	// everybody who calls it has heard: three exchanges of rows and a round trip.
	viewTime = 1500 * time.Millisecond
	// handoverTime is how long a node that lets go of a cell waits for another
	// host to have taken it over.
	handoverTime = 10 * time.Second
	// drainedFile lies in the state folder while the whole node is drained.
	drainedFile = "drained"
	// finished marks the last line about something; its time is filled in.
	finished = 1
)

// part ends replicas without a failed request: says that they drain, lets them
// go on until others have heard and handover has returned, then has them refuse what
// is new before it is executed, finish what they have, and exit. The caller has set
// their parting.
func (n *Node) part(s *service, rs []*replica, cause string, handover func()) {
	n.mu.Lock()
	if s.lease != nil && !s.staysLocked() {
		s.lease.Drain()
	}
	n.mu.Unlock()
	n.changed()
	if handover != nil {
		handover()
	}
	select {
	case <-time.After(viewTime):
	case <-n.quit:
	}
	n.withdraw(s, cause, func() bool { return !s.staysLocked() })
	n.drainAll(s.cell, rs)
}

// staysLocked reports whether the cell has a replica here that does not part.
func (s *service) staysLocked() bool {
	return slices.ContainsFunc(s.replicas, func(r *replica) bool { return r.rowState() == record.ReplicaLive })
}

// Drain lets go of something in good order, and returns when it has ended: of
// one replica, of a cell on this node, or with an empty target of everything on
// this node, which takes nothing new from then on. With undo the node may run it
// again. What is needed elsewhere starts on other hosts.
func (n *Node) Drain(ctx context.Context, target string, undo bool, tell func(Progress)) error {
	begin := time.Now()
	progress := func(p Progress) {
		if p.Step = StepDrain; p.TookMS > 0 {
			p.TookMS = ms(time.Since(begin))
		}
		tell(p)
	}
	if target == "" {
		return n.drainNode(ctx, undo, progress)
	}
	if s, r := n.findReplica(target); r != nil {
		if undo {
			return NewError(CodeUsage, "a replica that drains cannot be kept", "start another: cell scale "+string(s.cell.Name)+" --min N")
		}
		if !r.parting.CompareAndSwap(false, true) {
			return NewError(CodeFailed, target+" is draining already", "")
		}
		cause := n.event(journal.Drain, "", s.cell.String(), target+" drains, as the operator asked", map[string]any{"replica": target})
		progress(Progress{Text: target + " drains"})
		n.part(s, []*replica{r}, cause, nil)
		progress(Progress{Text: target + " has ended", TookMS: finished})
		return nil
	}
	cell, err := n.parseCell(target)
	if err != nil {
		return err
	}
	n.mu.Lock()
	s := n.services[cell]
	known := s != nil && s.deploy != nil
	n.mu.Unlock()
	if !known {
		return fmt.Errorf("drain %s: %w", cell.Short(), ErrNotServed)
	}
	return n.drainCell(ctx, s, undo, progress)
}

func (n *Node) drainCell(ctx context.Context, s *service, undo bool, progress func(Progress)) error {
	n.mu.Lock()
	s.drained = !undo
	n.mu.Unlock()
	if err := n.keepDeployment(s); err != nil {
		return err
	}
	if undo {
		n.event(journal.Drain, "", s.cell.String(), "this node may run it again", nil)
		n.changed()
		progress(Progress{Text: s.cell.Short() + " may run on this node again", TookMS: finished})
		return nil
	}
	cause := n.event(journal.Drain, "", s.cell.String(), "this node lets go of it, as the operator asked", nil)
	n.letGo(ctx, s, cause, progress)
	return nil
}

func (n *Node) drainNode(ctx context.Context, undo bool, progress func(Progress)) error {
	path := filepath.Join(n.cfg.Home.State, drainedFile)
	if undo {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("take the node back: %w", err)
		}
	} else if err := replaceFile(path, []byte("by the operator\n")); err != nil {
		return fmt.Errorf("drain the node: %w", err)
	}
	n.mu.Lock()
	n.drained = !undo
	n.mu.Unlock()
	n.changed()
	if undo {
		n.event(journal.Drain, "", "", "this node takes replicas again", nil)
		progress(Progress{Text: "this node takes replicas again", TookMS: finished})
		return nil
	}
	cause := n.event(journal.Drain, "", "", "this node lets go of everything, as the operator asked", nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, s := range n.allServices() {
		wg.Go(func() {
			n.letGo(ctx, s, cause, func(p Progress) {
				mu.Lock()
				defer mu.Unlock()
				progress(p)
			})
		})
	}
	wg.Wait()
	progress(Progress{Text: "this node runs nothing and takes nothing new", TookMS: finished})
	return nil
}

// letGo has all replicas of a cell here part, once another host has one or
// nobody can.
func (n *Node) letGo(ctx context.Context, s *service, cause string, progress func(Progress)) {
	n.mu.Lock()
	rs := slices.Clone(s.replicas)
	for _, r := range rs {
		r.parting.Store(true)
	}
	for _, c := range s.claims {
		c.cancel()
	}
	s.claims = nil
	n.mu.Unlock()
	if len(rs) == 0 {
		progress(Progress{Text: "no replica of " + s.cell.Short() + " runs here", TookMS: finished})
		return
	}
	progress(Progress{Text: fmt.Sprintf("%d replicas of %s drain", len(rs), s.cell.Short())})
	n.part(s, rs, cause, func() {
		if live, able := n.elsewhere(context.WithoutCancel(ctx), s); live > 0 {
			progress(Progress{Text: fmt.Sprintf("%s has %d replicas on other hosts", s.cell.Short(), live)})
		} else if able == 0 {
			progress(Progress{Text: "no other host has " + s.cell.Short() + ": nobody serves it from now on"})
		}
	})
	progress(Progress{Text: s.cell.Short() + " has left this node", TookMS: finished})
}

// elsewhere waits until another host has a live replica of the cell, nobody
// could, or handoverTime is over. It returns how many there are, and how many
// hosts could.
func (n *Node) elsewhere(ctx context.Context, s *service) (live, able int) {
	limit, cancel := context.WithTimeout(ctx, handoverTime)
	defer cancel()
	for {
		rows := n.rows()
		n.mu.Lock()
		decided := s.decided
		live, able = 0, 0
		for _, o := range n.siftLocked(rows, time.Now())[s.cell] {
			if o.age > hostSilent {
				continue
			}
			if o.cell.Code && o.capacity.Room > 0 {
				able++
			}
			for _, r := range o.cell.Replicas {
				if r.State == record.ReplicaLive {
					live++
				}
			}
		}
		idle := s.population.Stopped || s.decision.Want == 0
		n.mu.Unlock()
		if live > 0 || able == 0 || idle {
			return live, able
		}
		select {
		case <-decided:
		case <-n.quit:
			return live, able
		case <-limit.Done():
			return live, able
		}
	}
}

// findReplica returns a replica by its name, nil where there is none.
func (n *Node) findReplica(id string) (*service, *replica) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.services {
		for _, r := range s.replicas {
			if r.id == id {
				return s, r
			}
		}
	}
	return nil, nil
}
