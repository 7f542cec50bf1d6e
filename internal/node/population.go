package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/record"
)

// hearPopulation takes in an operator's word on a cell, from another node's row:
// signed by the cell's author or by this node's colony, and newer than what is
// known. Only cells that this node knows count. It reports whether it was news.
func (n *Node) hearPopulation(cell identity.Cell, raw []byte) bool {
	n.mu.Lock()
	s := n.services[cell]
	known := s == nil || bytes.Equal(s.population.Raw, raw) || bytes.Equal(s.refused, raw)
	n.mu.Unlock()
	if known {
		return false
	}
	p, err := record.OpenPopulation(raw, n.net.ID(), time.Now())
	if err == nil && p.Cell != cell {
		err = fmt.Errorf("%w: population of another cell", record.ErrMalformed)
	}
	if err == nil && !p.Counts(n.colony()) {
		err = fmt.Errorf("%w: population signed by %s", record.ErrGrant, p.Signer.Short())
	}
	if err != nil {
		n.refuse(journal.LeaseRefused, "pulse", record.Reason(err))
		if !errors.Is(err, record.ErrClock) && !errors.Is(err, record.ErrStale) && !errors.Is(err, record.ErrGrant) { // these may pass
			n.mu.Lock()
			s.refused = raw
			n.mu.Unlock()
		}
		return false
	}
	newer, err := n.setPopulation(s, p)
	if err != nil {
		n.cfg.Log.Error("keep population record", "cell", s.cell, "err", err)
	}
	return newer
}

// loadPopulation puts the word into force that an earlier life of this node
// verified and wrote down at a time; the clock may not be set yet.
func (n *Node) loadPopulation(s *service, raw []byte, written time.Time) error {
	p, err := record.OpenPopulation(raw, n.net.ID(), time.Now())
	if errors.Is(err, record.ErrClock) {
		p, err = record.OpenPopulation(raw, n.net.ID(), written)
	}
	if err != nil {
		return fmt.Errorf("read population record: %w", err)
	}
	if p.Cell != s.cell || !p.Counts(n.colony()) {
		return fmt.Errorf("read population record: %w", record.ErrGrant)
	}
	_, err = n.setPopulation(s, p)
	return err
}

// setPopulation puts a verified record into force, in memory and on disk,
// unless a newer one is.
func (n *Node) setPopulation(s *service, p record.Population) (newer bool, err error) {
	n.keeping.Lock()
	n.mu.Lock()
	newer = s.population.Raw == nil || p.Supersedes(s.population)
	if newer {
		s.population = p
	}
	n.mu.Unlock()
	if newer {
		err = n.keepFile(s.cell, populationFile, p.Raw)
	}
	n.keeping.Unlock()
	if !newer {
		return false, nil
	}
	n.event(journal.Config, "", s.cell.String(), "population: "+wordsOf(p), map[string]any{
		"min": p.Min, "max": p.Max, "stopped": p.Stopped, "by": p.Signer.String(),
	})
	n.changed()
	return true, err
}

func wordsOf(p record.Population) string {
	switch {
	case p.Stopped:
		return "stopped by " + p.Signer.Short()
	case p.Max == 0:
		return "as Cell.toml says, by " + p.Signer.Short()
	}
	return fmt.Sprintf("%d to %d replicas, by %s", p.Min, p.Max, p.Signer.Short())
}

// colony is the one that this node belongs to, or zero.
func (n *Node) colony() identity.Key {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.certs.Member == nil {
		return identity.Key{}
	}
	return n.certs.Member.Signer
}

// errNoWord says that nobody on this machine may speak for a cell.
var errNoWord = NewError(CodeRefused, "neither the author's key nor the colony's is on this machine",
	"do it where one of them is; to move replicas off this host alone: cell drain")

// direct signs the operator's word on a cell and tells all hosts. change gets
// the record in force, zero where there is none.
func (n *Node) direct(s *service, change func(*record.PopulationOffer)) (record.Population, error) {
	keys, err := LoadKeys(n.cfg.Home)
	if err != nil {
		return record.Population{}, err
	}
	signer := keys.Author
	if keys.Author.IsZero() || keys.Author.Public() != s.cell.Author {
		if signer = keys.Colony; keys.Colony.IsZero() || keys.Colony.Public() != n.colony() {
			return record.Population{}, errNoWord
		}
	}
	for {
		n.mu.Lock()
		was := s.population
		n.mu.Unlock()
		now := time.Now()
		o := record.PopulationOffer{Cell: s.cell, Min: was.Min, Max: was.Max, Stopped: was.Stopped, Issued: now, TTL: CertTTL}
		change(&o)
		o.Order = record.Order{Incarnation: max(uint64(now.UnixMilli()), was.Order.Incarnation), Sequence: was.Order.Sequence + 1}
		p, err := record.SignPopulation(signer, n.net.ID(), o)
		if err != nil {
			return record.Population{}, err
		}
		newer, err := n.setPopulation(s, p)
		if err != nil {
			return p, fmt.Errorf("keep the word on %s: %w", s.cell.Short(), err)
		}
		if newer {
			return p, nil
		} // another operator was quicker: say it again, with regard to that
	}
}

// Scale sets how many replicas a cell has at least and at most, on all hosts,
// whatever its Cell.toml says; nil leaves a bound as it is. With reset,
// Cell.toml holds again.
func (n *Node) Scale(ctx context.Context, text string, lo, hi *int, reset bool) (Scaled, error) {
	cell, err := n.parseCell(text)
	if err != nil {
		return Scaled{}, err
	}
	s, err := n.serviceSomewhere(ctx, cell)
	if err != nil {
		return Scaled{}, fmt.Errorf("scale %s: %w", cell.Short(), err)
	}
	n.mu.Lock()
	bounds := s.policy()
	unknown := s.deploy == nil && s.population.Max == 0
	n.mu.Unlock()
	if unknown && !reset && (lo == nil || hi == nil) {
		return Scaled{}, NewError(CodeUsage, "this node has not got "+cell.Short()+" and does not know its bounds", "give both: cell scale "+string(cell.Name)+" --min N --max N")
	}
	if lo != nil {
		bounds.Min = *lo
		bounds.Max = max(bounds.Max, bounds.Min)
	}
	if hi != nil {
		bounds.Max = *hi
		if lo == nil {
			bounds.Min = min(bounds.Min, bounds.Max)
		}
	}
	switch {
	case bounds.Min < 0 || bounds.Max < 1 || bounds.Max > maxReplicas:
		return Scaled{}, NewError(CodeUsage, fmt.Sprintf("bounds %d to %d: at least 0 and 1, at most %d", bounds.Min, bounds.Max, maxReplicas), "to end it everywhere: cell stop "+string(cell.Name))
	case bounds.Min > bounds.Max:
		return Scaled{}, NewError(CodeUsage, fmt.Sprintf("the minimum %d is above the maximum %d", bounds.Min, bounds.Max), "")
	}
	p, err := n.direct(s, func(o *record.PopulationOffer) {
		o.Min, o.Max = bounds.Min, bounds.Max
		if reset {
			o.Min, o.Max = 0, 0
		}
	})
	if err != nil {
		return Scaled{}, err
	}
	n.mu.Lock()
	bounds = s.policy()
	n.mu.Unlock()
	return Scaled{Cell: cell.String(), Min: bounds.Min, Max: bounds.Max, Stopped: p.Stopped, Everywhere: true}, nil
}

// StopCell ends a cell on all hosts, and returns when it has ended here. Where
// no key on this machine may say so, the cell leaves this host only.
func (n *Node) StopCell(ctx context.Context, cell identity.Cell) (Scaled, error) {
	s, err := n.serviceSomewhere(ctx, cell)
	if err != nil {
		return Scaled{}, fmt.Errorf("stop %s: %w", cell.Short(), err)
	}
	_, err = n.direct(s, func(o *record.PopulationOffer) { o.Stopped = true })
	everywhere := err == nil
	if err != nil && err != error(errNoWord) {
		return Scaled{}, err
	}
	if !everywhere {
		n.mu.Lock()
		s.drained = true
		n.mu.Unlock()
		if err := n.keepDeployment(s); err != nil {
			return Scaled{}, err
		}
	}
	n.changed()
	n.endService(s, "stopped by the operator")
	n.mu.Lock()
	bounds := s.policy()
	n.mu.Unlock()
	return Scaled{Cell: cell.String(), Min: bounds.Min, Max: bounds.Max, Stopped: true, Everywhere: everywhere}, nil
}

// serviceSomewhere returns the record of a cell that runs here, or that others
// serve or seed. Errors wrap [ErrNotServed].
func (n *Node) serviceSomewhere(ctx context.Context, cell identity.Cell) (*service, error) {
	n.mu.Lock()
	s := n.services[cell]
	n.mu.Unlock()
	if s != nil {
		return s, nil
	}
	for _, topic := range []identity.Cell{cell, cell.Seeds()} {
		for _, err := range n.mesh.Discover(ctx, topic) {
			if err == nil {
				return n.service(cell), nil
			}
		}
	}
	return nil, ErrNotServed
}

// unstop lets a cell run again that was stopped, on all hosts, where a key on
// this machine may say so.
func (n *Node) unstop(s *service) error {
	n.mu.Lock()
	stopped := s.population.Stopped
	n.mu.Unlock()
	if !stopped {
		return nil
	}
	_, err := n.direct(s, func(o *record.PopulationOffer) { o.Stopped = false })
	if err == error(errNoWord) {
		return NewError(CodeRefused, s.cell.Short()+" was stopped on all hosts, and no key on this machine may start it again", "start it where the author's or the colony's key is")
	}
	return err
}
