package mycelium

import (
	"context"
	"fmt"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// askWait bounds how long an author who publishes waits to hear who seeds the
// cell, and then what they have.
const askWait = 3 * time.Second

// history is what an author has signed of one cell, as far as it is known:
// whether it holds still or not.
type history map[record.Order]record.Spore

// add takes a record in. It fails with a [Fork] where another contradicts it.
func (h history) add(p record.Spore) error {
	o := p.Order()
	for _, seq := range [...]uint64{o.Sequence - 1, o.Sequence, o.Sequence + 1} {
		other, ok := h[record.Order{Incarnation: o.Incarnation, Sequence: seq}]
		if ok && contradict(other, p) {
			return &Fork{other, p}
		}
	}
	h[o] = p
	return nil
}

// last returns the highest record, or a zero one.
func (h history) last() record.Spore {
	var last record.Spore
	for o, p := range h {
		if o.Compare(last.Order()) > 0 {
			last = p
		}
	}
	return last
}

// free fails with [ErrVersion] where a version is that of other files.
func (h history) free(version string, tree [32]byte) error {
	for _, p := range h {
		if p.Version == version && p.Tree != tree {
			return fmt.Errorf("%w: release %d is called %s and holds something else", ErrVersion, p.Seq, version)
		}
	}
	return nil
}

// history collects what an author has signed of a cell: what is known here, his
// tags in dir, and what seeds have of it. used is the highest number of all.
func (s *Store) history(ctx context.Context, dir string, c identity.Cell, p Publication) (h history, used uint64, err error) {
	h = make(history)
	for _, r := range s.known(c) {
		if err := h.add(r); err != nil {
			return nil, 0, err
		}
	}
	tags, err := s.tags(ctx, dir, c)
	if err != nil {
		return nil, 0, err
	}
	for _, t := range tags {
		used = max(used, t.seq)
		if r, err := record.ParseSpore(t.raw); err == nil && r.Cell == c {
			if err := h.add(r); err != nil {
				return nil, 0, err
			}
		}
	}
	if p.Seeds != nil {
		for _, r := range s.elsewhere(ctx, c, p) {
			if err := h.add(r); err != nil {
				return nil, 0, err
			}
		}
	}
	return h, max(used, h.last().Seq), ctx.Err()
}

// known returns the records of a cell that this store has.
func (s *Store) known(c identity.Cell) []record.Spore {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.cells[c]
	if b == nil {
		return nil
	}
	var all []record.Spore
	if b.head.Seq > 0 {
		all = append(all, b.head)
	}
	for _, r := range b.releases {
		all = append(all, r.Spore)
	}
	return all
}

// elsewhere asks all seeds at once for the highest record that each has seen of
// a cell, and for that with the version that is to be published. Those that do
// not answer in time, or with what the author did not sign, count for nothing.
func (s *Store) elsewhere(ctx context.Context, c identity.Cell, p Publication) []record.Spore {
	find, cancel := context.WithTimeout(ctx, askWait)
	seeds := p.Seeds(find)
	cancel()
	ask, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	seeds = seeds[:min(len(seeds), MaxSeeds)]
	answers := make(chan []record.Spore)
	for _, seed := range seeds {
		go func() {
			var got []record.Spore
			for _, version := range []string{"", p.Version} {
				if r, err := s.askHead(ask, seed, c, version); err == nil {
					got = append(got, r)
				}
			}
			answers <- got
		}()
	}
	var all []record.Spore
	for range seeds {
		all = append(all, <-answers...)
	}
	return all
}
