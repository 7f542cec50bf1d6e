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

// adoptTime bounds how long a folder is looked at, which may hold as much as a
// release.
const adoptTime = 30 * time.Second

// adopt seeds the release that is checked out in dir, where it is one of cell:
// who runs a published release hands it out too. Changes that are in no release
// are never seeded, so for most folders it does nothing. It goes by what the
// author signed; what is wrong with that is journalled. It returns the folder to
// build from: that of the release, which nobody edits, or else dir.
func (n *Node) adopt(ctx context.Context, cell identity.Cell, dir string) string {
	ctx, cancel := context.WithTimeout(ctx, adoptTime)
	defer cancel()
	var grants [][]byte // with which whoever grows the cell from here may serve it too
	n.mu.Lock()
	if raw, _, err := n.certs.For(cell, n.self); err == nil {
		grants = append(grants, raw)
	}
	n.mu.Unlock()
	rel, err := n.store.Adopt(ctx, dir, cell, grants)
	switch {
	case err == nil:
	case errors.Is(err, mycelium.ErrNotRelease), ctx.Err() != nil:
		n.cfg.Log.Info("not seeded", "cell", cell, "dir", dir, "err", err)
		return dir
	default:
		n.event(journal.Refuse, "", cell.String(), fmt.Sprintf("not seeded: %v", err), map[string]any{"dir": dir, "reason": record.Reason(err)})
		return dir
	}
	if err := n.keepGrants(rel.Grants...); err != nil {
		n.cfg.Log.Error("keep grants", "cell", cell, "err", err)
	}
	n.mu.Lock()
	known := n.leaving || rel.Source == "cache" && n.seeds[cell] != nil
	n.mu.Unlock()
	if known {
		return rel.Dir
	}
	id := n.event(journal.Verify, "", cell.String(), fmt.Sprintf("the folder is release %d, %s: signature, number and content are the author's", rel.Spore.Seq, rel.Spore.Version),
		map[string]any{"dir": dir, "seq": rel.Spore.Seq, "commit": rel.Spore.Commit, "files": rel.Spore.Files})
	n.seed(rel, id)
	return rel.Dir
}
