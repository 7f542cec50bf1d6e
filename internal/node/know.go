package node

import (
	"context"
	"sync"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/pulse"
)

// How others who have a cell are looked for.
const (
	knowSoon  = time.Second      // after the first search for who else has a cell; then twice as long each time
	knowEvery = 30 * time.Second // at most
	knowTime  = 5 * time.Second  // that such a search may take
	maxLooks  = 8                // of them at a time
)

// know keeps up, until ctx ends, with who else serves or seeds the cells that
// this node knows: these are the nodes to exchange rows with.
func (n *Node) know(ctx context.Context) error {
	for {
		n.mu.Lock()
		news, now := n.known, time.Now()
		next := now.Add(knowEvery)
		var due []*service
		for _, s := range n.services {
			if !s.search.After(now) {
				s.search = now.Add(n.vary(min(knowSoon<<min(s.searches, 16), knowEvery)))
				s.searches++
				due = append(due, s)
			}
			if s.search.Before(next) {
				next = s.search
			}
		}
		n.mu.Unlock()
		var looking sync.WaitGroup
		slots := make(chan struct{}, maxLooks)
		for _, s := range due {
			slots <- struct{}{}
			looking.Go(func() {
				defer func() { <-slots }()
				n.look(ctx, s)
			})
		}
		looking.Wait()
		if err := n.keepPartners(); err != nil {
			n.cfg.Log.Warn("keep partners", "err", err)
		}
		select {
		case <-time.After(time.Until(next)):
		case <-news:
		case <-ctx.Done():
			return nil
		}
	}
}

// look searches once for others who serve or seed a cell.
func (n *Node) look(ctx context.Context, s *service) {
	search, cancel := context.WithTimeout(ctx, knowTime)
	defer cancel()
	for _, topic := range []identity.Cell{s.cell, s.cell.Seeds()} {
		for range n.mesh.Discover(search, topic) { // what it finds, the mesh remembers
		}
	}
	n.mu.Lock()
	s.searched = true
	n.mu.Unlock()
	n.kick()
}

// vary returns d, give or take a tenth, so that nodes do not fall into step.
func (n *Node) vary(d time.Duration) time.Duration {
	return d + time.Duration((n.chance()-0.5)*0.2*float64(d))
}

// silentFor is how long a host that was not heard of stays out of use, unless it
// is heard again: longer than its leases last.
const silentFor = 5 * time.Minute

// noteSilence notes which hosts have fallen silent: no call goes there while others
// serve the cell or may soon.
func (n *Node) noteSilence(rows []pulse.Seen, now time.Time) {
	next := make(map[identity.Key]time.Time)
	if was := n.silent.Load(); was != nil {
		for node, since := range *was {
			if now.Sub(since) < silentFor {
				next[node] = since
			}
		}
	}
	for _, seen := range rows {
		node := seen.Row.Node()
		if _, known := next[node]; seen.Age <= hostSilent {
			delete(next, node)
		} else if !known {
			next[node] = now
		}
	}
	n.silent.Store(&next)
}

// isSilent reports whether a host was heard of, and is not any more.
func (n *Node) isSilent(node identity.Key) bool {
	silent := n.silent.Load()
	if silent == nil {
		return false
	}
	_, yes := (*silent)[node]
	return yes
}
