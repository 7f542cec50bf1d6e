package node

import (
	"context"
	"errors"
	"iter"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/kad"
	"cell.network/cell/internal/mesh"
)

// joinTime is how long after its start a node that was told of others waits for
// the first of them, before it says that the DHT knows nobody.
const joinTime = 3 * time.Second

// joining is the DHT of a node that has just started: its first questions wait
// for the first peer instead of failing.
type joining struct {
	*kad.Kad
	until time.Time // zero: there is nobody to wait for
}

var _ interface {
	mesh.WAN
	mesh.Finder
	mesh.Watcher
} = joining{}

// nobodyHint says what to do where nobody was found who serves a cell: another
// thing where this node has nobody to ask.
func nobodyHint(err error, otherwise string) string {
	if errors.Is(err, kad.ErrNoPeers) {
		return "this node knows no other one: name one that is up, cell up --bootstrap ADDRESS, and see what is amiss: cell doctor; or start the cell where its source is: cell run DIR"
	}
	return otherwise
}

// Find implements [mesh.Finder].
func (j joining) Find(ctx context.Context, cell identity.Cell) iter.Seq2[mesh.Finding, error] {
	return func(yield func(mesh.Finding, error) bool) {
		if j.Size() == 0 && time.Now().Before(j.until) {
			wait, cancel := context.WithDeadline(ctx, j.until)
			_ = j.Bootstrap(wait) // Find says itself what is missing
			cancel()
		}
		for f, err := range j.Search(ctx, cell) {
			if !yield(mesh.Finding{Lease: f.Lease, Hops: f.Hops, Holder: f.Holder}, err) {
				return
			}
		}
	}
}
