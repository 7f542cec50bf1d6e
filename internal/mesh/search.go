package mesh

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cell.network/cell/internal/identity"
)

// lately is for how long a node that ceased to serve a cell is a reason to expect
// another one.
const lately = time.Minute

// search asks the LAN and the DHT for one cell, on behalf of everyone who waits
// for it. Its fields are guarded by the mesh's lock.
type search struct {
	cell    identity.Cell
	started time.Time
	known   int  // endpoints at the start
	awaited bool // by a Discover, and not just due
	heard   int  // usable leases that came over the LAN meanwhile
	unsure  bool // the DHT has leases of the cell, though none that holds, or did not answer
	done    bool
	reasons []TierReason // of the tiers that found nobody
}

func (m *Mesh) beginLocked(cell identity.Cell, known []Endpoint) (*search, error) {
	if len(m.searches) >= maxSearches {
		return nil, ErrBusy
	}
	s := &search{cell: cell, started: time.Now(), known: len(known)}
	if !m.spawnLocked(func() { m.run(s) }) {
		return nil, ErrStopped
	}
	m.searches[cell] = s
	m.table.ask(cell).begun = s.started
	m.counts["searches"]++
	return s, nil
}

// run searches both tiers side by side and returns when both have ended.
func (m *Mesh) run(s *search) {
	var lan, dht TierReason
	var tiers sync.WaitGroup
	tiers.Go(func() { lan = m.searchLAN(s) })
	tiers.Go(func() { dht = m.searchDHT(s) })
	tiers.Wait()

	m.mu.Lock()
	for _, r := range []TierReason{lan, dht} {
		if r.Why != "" {
			s.reasons = append(s.reasons, r)
		}
	}
	s.done = true
	delete(m.searches, s.cell)
	now := time.Now()
	found := m.endpointsLocked(s.cell, now)
	if n := m.table.names[s.cell]; n != nil {
		n.searched, n.reasons = now, s.reasons
		n.glimpse.until = time.Time{} // the time of the next search is known
		if len(found) == 0 {
			n.missing = now.Add(m.cfg.Negative)
			if s.unsure || now.Sub(n.lossAt) < lately {
				n.missing = now.Add(m.cfg.Unsure)
			}
		}
	}
	awaited := s.awaited
	m.wakeLocked(s.cell)
	m.mu.Unlock()

	if m.ctx.Err() != nil || !awaited && len(found) == s.known {
		return // cut short, or in the background and nothing new: no result to speak of
	}
	took := now.Sub(s.started)
	e := Event{Kind: "discover", Cell: s.cell, Data: map[string]any{"found": len(found), "took_ms": took.Milliseconds()}}
	e.Text = fmt.Sprintf("searched for %s: %d found in %v", s.cell.Short(), len(found), took.Round(time.Millisecond))
	for _, r := range s.reasons {
		e.Data[string(r.Tier)] = r.Why
	}
	m.cfg.Event(e)
}

// searchLAN asks the neighbours and gives them Config.LANWait to answer; the
// answers come through Heard.
func (m *Mesh) searchLAN(s *search) TierReason {
	if m.cfg.LAN == nil {
		return TierReason{Tier: TierLAN, Why: "not in use"}
	}
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.LANWait)
	defer cancel()
	m.cfg.LAN.Query(ctx, s.cell.Key(m.cfg.Network))
	<-ctx.Done()
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.heard > 0 {
		return TierReason{}
	}
	return TierReason{Tier: TierLAN, Why: fmt.Sprintf("nobody answered within %v", m.cfg.LANWait)}
}

// searchDHT asks the DHT and merges what it finds.
func (m *Mesh) searchDHT(s *search) TierReason {
	far, ok := m.cfg.WAN.(Finder)
	if !ok {
		return TierReason{Tier: TierDHT, Why: "not in use"}
	}
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.FindTimeout)
	defer cancel()
	var failure error
	seen, good, withdrawn, silent := 0, 0, 0, 0
	for f, err := range far.Find(ctx, s.cell) {
		switch {
		case err != nil:
			failure = err
		case f.Lease.Cell != s.cell:
			m.mu.Lock()
			m.counts["foreign"]++
			m.mu.Unlock()
		default:
			if f.Holder.IsZero() {
				f.Holder = m.self
			}
			seen++
			what := m.learn(f.Lease, told{tier: TierDHT, hops: f.Hops, holder: f.Holder})
			switch {
			case usable(what):
				good++
			case what == dead:
				silent++
			case f.Lease.Tombstone():
				withdrawn++
			}
		}
	}
	r := TierReason{Tier: TierDHT, Err: failure}
	m.mu.Lock()
	s.unsure = seen > 0 || failure != nil
	m.mu.Unlock()
	switch {
	case good > 0:
		return TierReason{}
	case errors.Is(failure, context.DeadlineExceeded):
		r.Why = fmt.Sprintf("no answer within %v", m.cfg.FindTimeout)
	case failure != nil:
		r.Why = failure.Error()
	case seen > 0 && withdrawn == seen:
		r.Why = "withdrawn"
	case seen > 0 && silent == seen:
		r.Why = "only leases of nodes that are gone"
	case seen > 0:
		r.Why = fmt.Sprintf("%d leases, none of them current", seen)
	default:
		r.Why = "no lease is stored"
	}
	return r
}
