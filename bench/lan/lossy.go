package main

import (
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"time"

	"cell.network/cell/internal/pheromone"
)

// sameCopy is how long a packet that comes again is a copy of the first.
const sameCopy = 60 * time.Millisecond

// lossy loses some of the packets that a bus receives, each with all copies
// that come by other interfaces and families.
type lossy struct {
	pheromone.Bus
	share float64
	seed  maphash.Seed

	// Used by Recv only, which one goroutine calls.
	rand  *rand.Rand
	fates map[uint64]fate
}

type fate struct {
	lost bool
	at   time.Time
}

func newLossy(b pheromone.Bus, share float64, seed uint64) *lossy {
	return &lossy{Bus: b, share: share, seed: maphash.MakeSeed(), rand: rand.New(rand.NewPCG(seed, 1)), fates: make(map[uint64]fate)}
}

func (l *lossy) Recv() ([]byte, netip.AddrPort, error) {
	for {
		pkt, from, err := l.Bus.Recv()
		if err != nil {
			return nil, from, err
		}
		now, sum := time.Now(), maphash.Bytes(l.seed, pkt)
		f, known := l.fates[sum]
		if !known || now.Sub(f.at) > sameCopy {
			f = fate{lost: l.rand.Float64() < l.share, at: now}
			l.fates[sum] = f
		}
		if !f.lost {
			return pkt, from, nil
		}
	}
}
