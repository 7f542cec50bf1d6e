package node

import (
	"context"
	"time"

	"cell.network/cell/internal/autonomic"
	"cell.network/cell/internal/identity"
)

// Limits on requests that wait for a replica to be born.
const (
	maxHold    = 10 * time.Second // as long as a start may take
	maxWaiting = 1024             // requests for one cell
)

// hold keeps a request for a cell that has no replica just now, where one is to
// be expected: it tells the hosts that somebody waits, and returns true as
// soon as the caller may try again. False: nobody will start one, or none came in
// time. The request is held until a time, which the first call sets if it is zero.
func (n *Node) hold(ctx context.Context, cell identity.Cell, until *time.Time) bool {
	if until.IsZero() {
		*until = time.Now().Add(maxHold)
	}
	n.mu.Lock()
	s := n.services[cell]
	if s == nil || s.waiting >= maxWaiting || n.leaving {
		n.mu.Unlock()
		return false
	}
	s.waiting++
	decided := s.decided
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		s.waiting--
		n.mu.Unlock()
	}()
	n.changed()
	limit, cancel := context.WithDeadline(ctx, *until)
	defer cancel()
	for {
		select {
		case <-decided: // with this request in mind
		case <-n.quit:
			return false
		case <-limit.Done():
			return false
		}
		rows := n.rows()
		n.mu.Lock()
		decided = s.decided
		live, coming := 0, !s.searched && s.deploy != nil
		for _, r := range n.viewLocked(s, n.siftLocked(rows, time.Now())[cell]).Replicas {
			switch {
			case r.Age > hostSilent:
			case r.State == autonomic.Live:
				live++
			case r.State == autonomic.Starting:
				coming = true
			}
		}
		for _, a := range s.decision.Actions {
			coming = coming || a.Kind == autonomic.Divide || a.Reason.Rule == autonomic.RuleListen
		}
		n.mu.Unlock()
		if live > 0 || !coming {
			return live > 0
		}
	}
}
