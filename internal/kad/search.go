package kad

import (
	"context"
	"crypto/sha256"
	"iter"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// maxForged is how many records that nobody can have signed in good faith are
// read of one answer; the rest of it is not looked at.
const maxForged = 3

// Found is a lease and how it came.
type Found struct {
	Lease  record.Lease
	Hops   int           // exchanges that led to it: 0 where this node held it, 1 where its holder was known
	Holder identity.Key  // who had it; zero: this node
	Took   time.Duration // since the search began
}

// Search yields the leases of a cell as they arrive, each verified, of every
// node the newest seen. It ends when of each of the cell's [Keys] places one of
// the nodes closest to it has answered, and four in all; stopping early is free.
// Tombstones are yielded, too: whoever remembers an older lease shall forget it.
// Leases of nodes that are dead, as [Kad.Known] has it, are not. An error is
// yielded last: [ErrNoPeers] at once where this node knows nobody,
// [ErrUnreachable], or that of ctx. What this node holds itself is found even
// then.
func (k *Kad) Search(ctx context.Context, cell identity.Cell) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		key, start := cell.Key(k.net), time.Now()
		r := newReader(k, key)
		more := true
		take := func(raws [][]byte, hops int, holder identity.Key) bool {
			r.forged = 0
			for _, raw := range raws {
				if l, ok := r.open(raw); ok && !k.dir.hides(l) {
					if more = yield(Found{l, hops, holder, time.Since(start)}, nil); !more {
						return false
					}
				}
			}
			return true
		}
		if !take(k.store.get(key, start, k.hidden), 0, identity.Key{}) {
			return
		}
		places := k.placesOf(key)
		err := k.walk(ctx, k.lookUp(searching, places), request{Op: opGet, Key: key[:]},
			func() bool { return false },
			func(from *candidate, a answer) bool {
				holder, _ := host.KeyOf(from.ID)
				return take(a.Leases, from.hops, holder)
			})
		if err != nil && more {
			yield(Found{}, err)
		}
	}
}

// reader opens the records of one name that come from many holders. It is not
// safe for concurrent use.
type reader struct {
	kad    *Kad
	key    identity.NameKey
	read   map[[sha256.Size]byte]bool // records that were opened: the same one comes from many
	given  map[identity.Key]record.Order
	forged int // in the answer at hand
}

func newReader(k *Kad, key identity.NameKey) *reader {
	return &reader{kad: k, key: key, read: make(map[[sha256.Size]byte]bool), given: make(map[identity.Key]record.Order)}
}

// open verifies a record and reports whether it is news.
func (r *reader) open(raw []byte) (record.Lease, bool) {
	sum := sha256.Sum256(raw)
	if r.read[sum] || r.forged >= maxForged {
		return record.Lease{}, false
	}
	r.read[sum] = true
	l, reason := r.kad.admit(raw, r.key, time.Now())
	if reason != "" {
		r.kad.refuse(reason)
		if forged[reason] {
			r.forged++
		}
		return record.Lease{}, false
	}
	before, met := r.given[l.Signer]
	if met && l.Order.Compare(before) <= 0 {
		return record.Lease{}, false
	}
	r.given[l.Signer] = l.Order
	return l, true
}

// forged are the reasons that no honest holder's record gives.
var forged = map[string]bool{
	record.Reason(record.ErrSize): true, record.Reason(record.ErrMalformed): true, record.Reason(record.ErrNetwork): true,
	record.Reason(record.ErrDomain): true, record.Reason(record.ErrSignature): true, reasonKey: true,
}
