package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/mycelium"
	"cell.network/cell/internal/record"
)

// Grow fetches a release of a cell from whoever seeds it, checks it against its
// author's signature, builds it, starts a replica, and seeds the release from
// then on. Code of an author whom the operator has not trusted is refused
// before anything is fetched.
func (n *Node) Grow(ctx context.Context, text string, mirrors []string, progress func(Progress)) (Replica, error) {
	ref, err := identity.ParseRef(text)
	if err != nil {
		return Replica{}, NewError(CodeUsage, err.Error(), "write a release like greeter@alice or greeter@z6Mk…:1.4.0")
	}
	cell, err := n.resolve(ref)
	if err != nil {
		return Replica{}, NewError(CodeNoCell, err.Error(), "name the author by key, or give him a petname: cell trust add NAME KEY")
	}
	n.mu.Lock()
	trusted := n.settings.Trusts(cell.Author, n.cfg.Author)
	n.mu.Unlock()
	if !trusted {
		n.event(journal.Refuse, "", cell.String(), "its author is not trusted to run code here", nil)
		return Replica{}, Untrusted(cell.Author)
	}
	rel, err := n.fetch(ctx, cell, ref.Version, mirrors, progress)
	if err != nil {
		return Replica{}, explainFetch(err)
	}
	m, err := LoadManifest(rel.Dir)
	if err != nil {
		return Replica{}, fmt.Errorf("release %d of %s: %w", rel.Spore.Seq, cell.Short(), err)
	}
	if m.Cell.Name != cell.Name {
		return Replica{}, NewError(CodeRefused, fmt.Sprintf("release %d of %s holds the cell %s", rel.Spore.Seq, cell.Short(), m.Cell.Name), "tell its author")
	}
	if err := n.keepGrants(rel.Grants...); err != nil {
		return Replica{}, err
	}
	n.seed(rel, "")
	r, err := n.startCell(ctx, cell, m, rel.Dir, progress)
	if err == nil {
		progress(Progress{Step: StepSeed, Text: fmt.Sprintf("now seeding release %d", rel.Spore.Seq)})
	}
	return r, err
}

// fetch gets a release onto this machine, verified and installed.
func (n *Node) fetch(ctx context.Context, cell identity.Cell, version string, mirrors []string, progress func(Progress)) (mycelium.Release, error) {
	begin := time.Now()
	seeds := n.findSeeds(ctx, cell)
	progress(Progress{Step: StepFind, Text: fmt.Sprintf("found %d seeds of %s", len(seeds), cell.Short()), TookMS: ms(time.Since(begin))})
	begin = time.Now()
	rel, err := n.store.Fetch(ctx, cell, version, seeds, mirrors, func(s mycelium.Step) {
		switch {
		case s.Kind == mycelium.StepRefused:
			n.event(journal.Refuse, "", cell.String(), fmt.Sprintf("%s: %v", s.Source, s.Err), map[string]any{"source": s.Source, "reason": record.Reason(s.Err)})
			progress(Progress{Step: StepFetch, Text: fmt.Sprintf("%s refused: %v", s.Source, s.Err)})
		case s.Kind == mycelium.StepCopy:
			progress(Progress{Step: StepFetch, Text: fmt.Sprintf("release %d, %s, from %s", s.Spore.Seq, s.Spore.Version, s.Source)})
		}
	})
	if err != nil {
		return rel, err
	}
	took := time.Since(begin)
	id := n.event(journal.Fetch, "", cell.String(), fmt.Sprintf("release %d from %s, %d bytes", rel.Spore.Seq, rel.Source, rel.Bytes), map[string]any{
		"seq": rel.Spore.Seq, "version": rel.Spore.Version, "source": rel.Source, "bytes": rel.Bytes, "seeds": len(seeds), "took_ms": took.Milliseconds(),
	})
	n.event(journal.Verify, id, cell.String(), "signature, number and content are the author's", map[string]any{"commit": rel.Spore.Commit, "files": rel.Spore.Files})
	progress(Progress{Step: StepVerify, Text: fmt.Sprintf("release %d, %s: %d bytes from %s, signed by %s", rel.Spore.Seq, rel.Spore.Version, rel.Bytes, rel.Source, cell.Author.Short()), TookMS: ms(took)})
	return rel, nil
}

// findSeeds returns who hands out the cell's source, as far as LAN and DHT tell.
func (n *Node) findSeeds(ctx context.Context, cell identity.Cell) []mycelium.Seed {
	var seeds []mycelium.Seed
	for ep, err := range n.mesh.Discover(ctx, cell.Seeds()) {
		if err != nil || len(seeds) >= mycelium.MaxSeeds {
			break
		}
		if ep.Node != n.self {
			seeds = append(seeds, mycelium.Seed{Node: ep.Node, Addrs: ep.Addrs})
		}
	}
	return seeds
}

func explainFetch(err error) error {
	var fork *mycelium.Fork
	switch {
	case errors.As(err, &fork):
		return NewError(CodeRefused, err.Error(), "do not run it; ask its author which one holds")
	case errors.Is(err, record.ErrSignature), errors.Is(err, record.ErrOrder), errors.Is(err, record.ErrStale), errors.Is(err, mycelium.ErrContent):
		return NewError(CodeRefused, err.Error(), "somebody offers what its author did not sign, or no longer stands for: see cell events")
	case errors.Is(err, mycelium.ErrNone):
		return NewError(CodeNoCell, err.Error(), "see who seeds it: cell seeds NAME; its author publishes it with: cell publish")
	}
	return err
}
