package pheromone

import (
	"hash/maphash"
	"time"
)

// maxRecent is how many records a recent remembers.
const maxRecent = 8192

// recent remembers when records were last met, byte for byte: a packet arrives
// once by each interface and address family that two hosts share. It is not
// safe for concurrent use.
type recent struct {
	seed maphash.Seed
	met  map[uint64]time.Time
	ring []uint64 // in the order of first meeting
	next int      // in ring, to be forgotten next once it is full
}

func newRecent() *recent {
	return &recent{seed: maphash.MakeSeed(), met: make(map[uint64]time.Time)}
}

// last returns when raw was noted, or the zero time.
func (r *recent) last(raw []byte) time.Time { return r.met[maphash.Bytes(r.seed, raw)] }

// note remembers that raw is met now.
func (r *recent) note(raw []byte, now time.Time) {
	sum := maphash.Bytes(r.seed, raw)
	_, known := r.met[sum]
	r.met[sum] = now
	switch {
	case known:
	case len(r.ring) < maxRecent:
		r.ring = append(r.ring, sum)
	default:
		delete(r.met, r.ring[r.next])
		r.ring[r.next] = sum
		r.next = (r.next + 1) % maxRecent
	}
}
