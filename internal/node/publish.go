package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/mycelium"
	"cell.network/cell/internal/record"
)

// Publish signs what is committed in dir as a release, and seeds it from now
// on. Version "" is the one of Cell.toml. Who seeds the cell already is asked
// first, for some seconds at most: the release follows the newest, also where
// that was published from another machine. The author's key must be on this
// machine; it is read for this, and not kept.
func (n *Node) Publish(ctx context.Context, dir, version string) (Published, error) {
	m, err := LoadManifest(dir)
	if err != nil {
		return Published{}, err
	}
	if version == "" {
		version = m.Cell.Version
	}
	keys, err := LoadKeys(n.cfg.Home)
	if err != nil {
		return Published{}, err
	}
	if keys.Author.IsZero() {
		return Published{}, NewError(CodeRefused, "the author's key is not on this machine", "publish where it is: only the author can sign a release")
	}
	cell := identity.Cell{Author: keys.Author.Public(), Name: m.Cell.Name}
	serve, grants, err := n.consent(keys, cell, m.Cell.Serve)
	if err != nil {
		return Published{}, err
	}
	rel, err := n.store.Publish(ctx, dir, mycelium.Publication{
		Author: keys.Author, Name: cell.Name, Version: version, Serve: serve, Grants: grants,
		Seeds: func(ctx context.Context) []mycelium.Seed { return n.findSeeds(ctx, cell) },
	})
	if err != nil {
		return Published{}, explainPublish(err)
	}
	id := n.event(journal.Publish, "", cell.String(), fmt.Sprintf("published %s as release %d", rel.Spore.Version, rel.Spore.Seq), map[string]any{
		"version": rel.Spore.Version, "seq": rel.Spore.Seq, "commit": rel.Spore.Commit, "files": rel.Spore.Files, "bytes": rel.Spore.Size,
	})
	n.seed(rel, id)
	return Published{
		Cell: cell.String(), Version: rel.Spore.Version, Seq: rel.Spore.Seq, Commit: rel.Spore.Commit,
		Tag: fmt.Sprintf("cell/%s/%d", cell.Name, rel.Spore.Seq), Expires: rel.Spore.Expires, Bytes: rel.Spore.Size, Files: rel.Spore.Files,
	}, nil
}

// consent turns serve of Cell.toml into what a release says of it, and into the
// grants that leases under it carry.
func (n *Node) consent(keys KeyRing, cell identity.Cell, serve []Server) (record.Serve, [][]byte, error) {
	var out record.Serve
	var subjects []record.Subject
	for _, s := range serve {
		switch {
		case s.Any:
			out.Open = true
			subjects = append(subjects, record.Subject{Kind: record.SubjectAny})
		case s.Colony && keys.Colony.IsZero():
			return out, nil, NewError(CodeRefused, "the colony's key is not on this machine", "publish where author and colony are, or name the colony's key under serve in Cell.toml")
		case s.Colony:
			out.Colonies = append(out.Colonies, keys.Colony.Public())
			subjects = append(subjects, record.Subject{Kind: record.SubjectColony, Key: keys.Colony.Public()})
		default:
			out.Colonies = append(out.Colonies, s.Key)
			subjects = append(subjects, record.Subject{Kind: record.SubjectColony, Key: s.Key}, record.Subject{Kind: record.SubjectNode, Key: s.Key})
		}
	}
	if out.Open {
		out.Colonies = nil
	}
	if len(serve) == 1 && serve[0].Colony { // what the author's general grant says already
		n.mu.Lock()
		raw, _, err := n.certs.For(cell, n.self)
		n.mu.Unlock()
		return out, [][]byte{raw}, err
	}
	g, err := record.SignGrant(keys.Author, n.net.ID(), cell.Name, subjects, time.Now(), record.DefaultSporeLife)
	if err != nil {
		return out, nil, fmt.Errorf("grant service of %s: %w", cell.Short(), err)
	}
	return out, [][]byte{g.Raw}, n.keepGrants(g)
}

// keepGrants saves grants and puts them into force here, but none that is older
// than one held for the same: a seed may hand out what the author has replaced.
func (n *Node) keepGrants(grants ...record.Grant) error {
	n.mu.Lock()
	held := n.certs.Grants
	n.mu.Unlock()
	grants = slices.DeleteFunc(slices.Clone(grants), func(g record.Grant) bool {
		return slices.ContainsFunc(held, func(h record.Grant) bool {
			return h.Signer == g.Signer && h.Name == g.Name &&
				(h.Order.Compare(g.Order) > 0 || h.Order == g.Order && !h.Issued.Before(g.Issued))
		})
	})
	if len(grants) == 0 {
		return nil
	}
	if err := SaveCerts(n.cfg.Home, n.net, nil, grants...); err != nil {
		return err
	}
	certs, err := LoadCerts(n.cfg.Home, n.net, time.Now())
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.certs = certs
	return nil
}

// seed announces that this node hands out a release.
func (n *Node) seed(rel mycelium.Release, cause string) {
	lease := n.mesh.AnnounceSeed(rel.Spore)
	n.mu.Lock()
	n.seeds[rel.Spore.Cell] = lease
	n.mu.Unlock()
	n.event(journal.Seed, cause, rel.Spore.Cell.String(), fmt.Sprintf("seeding release %d, %s", rel.Spore.Seq, rel.Spore.Version), map[string]any{"seq": rel.Spore.Seq, "source": rel.Source})
}

// seedAll announces what was installed in an earlier life.
func (n *Node) seedAll() {
	seen := make(map[identity.Cell]bool)
	for _, rel := range n.store.Releases() { // the highest of each cell first
		if !seen[rel.Spore.Cell] {
			seen[rel.Spore.Cell] = true
			n.seed(rel, "")
		}
	}
}

func explainPublish(err error) error {
	switch {
	case errors.Is(err, mycelium.ErrDirty):
		return NewError(CodeFailed, err.Error(), "commit or stash them: a release is exactly a commit")
	case errors.Is(err, mycelium.ErrNoRepository):
		return NewError(CodeFailed, err.Error(), "make it one: git init && git add . && git commit")
	case errors.Is(err, mycelium.ErrFork):
		return NewError(CodeRefused, err.Error(), "two machines have published without knowing of each other, and whoever meets both releases takes neither: publish the cell under another name")
	case errors.Is(err, mycelium.ErrVersion):
		return NewError(CodeFailed, err.Error(), "give it another: cell publish VERSION, or version in Cell.toml")
	case errors.Is(err, mycelium.ErrNoGit):
		return NewError(CodeFailed, err.Error(), "install git: publishing signs a git tag")
	case errors.Is(err, mycelium.ErrTree), errors.Is(err, mycelium.ErrTooBig):
		return NewError(CodeFailed, err.Error(), "take it out of the repository: nobody could install it")
	}
	return err
}
