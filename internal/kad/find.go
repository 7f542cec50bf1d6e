package kad

import (
	"context"
	"crypto/sha256"
	"iter"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// Find yields the leases of a cell as they arrive, each verified, of every node
// the newest seen. It ends when the [Quorum] closest nodes have answered;
// stopping early is free. Tombstones are yielded, too: whoever remembers an
// older lease shall forget it. An error is yielded last: [ErrNoPeers] at
// once where this node knows nobody, [ErrUnreachable], or that of ctx. What
// this node holds itself is found even then.
func (k *Kad) Find(ctx context.Context, cell identity.Cell) iter.Seq2[record.Lease, error] {
	return func(yield func(record.Lease, error) bool) {
		key := cell.Key(k.net)
		f := finding{kad: k, key: key, read: make(map[[sha256.Size]byte]bool), given: make(map[identity.Key]record.Order)}
		more := true
		take := func(raws [][]byte) bool {
			for _, raw := range raws {
				if l, ok := f.open(raw); ok {
					if more = yield(l, nil); !more {
						return false
					}
				}
			}
			return true
		}
		if !take(k.store.get(key, time.Now())) {
			return
		}
		_, err := k.walk(ctx, key, opGet, Quorum, func(a answer) bool { return take(a.Leases) })
		if err != nil && more {
			yield(record.Lease{}, err)
		}
	}
}

// finding is what one Find has seen.
type finding struct {
	kad   *Kad
	key   identity.NameKey
	read  map[[sha256.Size]byte]bool // records that were opened: the same one comes from many
	given map[identity.Key]record.Order
}

// open verifies a record and reports whether it is news.
func (f *finding) open(raw []byte) (record.Lease, bool) {
	sum := sha256.Sum256(raw)
	if f.read[sum] {
		return record.Lease{}, false
	}
	f.read[sum] = true
	l, reason := f.kad.admit(raw, f.key, time.Now())
	if reason != "" {
		f.kad.refuse(reason)
		return record.Lease{}, false
	}
	before, met := f.given[l.Signer]
	if met && l.Order.Compare(before) <= 0 {
		return record.Lease{}, false
	}
	f.given[l.Signer] = l.Order
	return l, true
}
