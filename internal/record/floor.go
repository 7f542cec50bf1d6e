package record

import (
	"container/list"
	"fmt"
	"sync"

	"cell.network/cell/internal/identity"
)

// MaxFloor is how many nodes, (node, cell) and (author, name) pairs a [Floor] remembers.
const MaxFloor = 1 << 16

// Floor remembers the highest order seen of every lease and grant, and in which
// life every node is, so that an old record, though well signed, is refused. The
// zero Floor is ready to use; when it is full it forgets what it has not met for
// longest. It is safe for concurrent use.
type Floor struct {
	mu    sync.Mutex
	seen  map[floorKey]*list.Element
	byAge list.List // of floorEntry, most recently met first

	changes uint64 // times that something rose
	saved   string // file that held all of it
	savedAt uint64 // after so many changes

	saving sync.Mutex // held while a file is written; taken before mu
}

type floorKey struct {
	signer identity.Key
	cell   identity.Cell // of a grant: the author and the grant's name; of a life: zero
}

type floorEntry struct {
	key   floorKey
	order Order
}

// Admit raises the floor to l, or fails with [ErrOrder] where l or its grant is
// below it, or l is of a former life of its node. A lease equal to the floor is
// admitted: fresh is false then.
func (f *Floor) Admit(l Lease) (fresh bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	lease, grant := floorKey{l.Signer, l.Cell}, grantKey(l)
	if l.Seed == nil && f.atLocked(grant).Compare(l.Grant.Order) > 0 {
		return false, fmt.Errorf("%w: its grant has been replaced", ErrOrder)
	}
	c := f.atLocked(lease).Compare(l.Order)
	if c > 0 {
		return false, fmt.Errorf("%w: lease of %s by %s", ErrOrder, l.Cell.Short(), l.Signer.Short())
	}
	if f.overLocked(l) {
		return false, fmt.Errorf("%w: %s has begun anew since", ErrOrder, l.Signer.Short())
	}
	if l.Seed == nil {
		f.raiseLocked(grant, l.Grant.Order)
	}
	f.raiseLocked(lease, l.Order)
	f.beganLocked(l.Header, l.Order.Incarnation)
	return c < 0, nil
}

// Stands reports whether l's grant is not below the floor: a lease that was
// admitted no longer stands when a newer grant has been seen. Seeds need none.
func (f *Floor) Stands(l Lease) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return l.Seed != nil || f.atLocked(grantKey(l)).Compare(l.Grant.Order) <= 0
}

func grantKey(l Lease) floorKey {
	return floorKey{l.Cell.Author, identity.Cell{Author: l.Cell.Author, Name: l.Grant.Name}}
}

func (f *Floor) atLocked(k floorKey) Order {
	if e, ok := f.seen[k]; ok {
		return e.Value.(floorEntry).order
	}
	return Order{}
}

func (f *Floor) raiseLocked(k floorKey, o Order) {
	if f.atLocked(k) != o {
		f.changes++
	}
	if e, ok := f.seen[k]; ok {
		e.Value = floorEntry{k, o}
		f.byAge.MoveToFront(e)
		return
	}
	if f.seen == nil {
		f.seen = make(map[floorKey]*list.Element)
	}
	f.seen[k] = f.byAge.PushFront(floorEntry{k, o})
	if len(f.seen) > MaxFloor {
		old := f.byAge.Remove(f.byAge.Back()).(floorEntry)
		delete(f.seen, old.key)
	}
}
