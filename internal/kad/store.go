package kad

import (
	"sync"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// Limits of what a node holds for others.
const (
	MaxPerKey      = 64       // leases under one key
	maxTombsPerKey = 32       // tombstones under one key; the one that ends first gives way
	MaxStore       = 32 << 20 // bytes of all records
	MaxPerSource   = 2 << 20  // bytes that one source may deposit
	recordOverhead = 256      // bytes that a record costs beside its own
	ownSource      = "self"   // source of this node's leases, which no quota limits
)

// store holds leases by key and node. It is safe for concurrent use.
type store struct {
	mu      sync.Mutex // guards what follows
	shelves map[identity.NameKey]map[identity.Key]*held
	records int
	bytes   int
	sources map[string]int // bytes by source
	swept   time.Time
}

type held struct {
	lease   record.Lease
	expires time.Time
	source  string
}

func (h *held) cost() int { return len(h.lease.Raw) + recordOverhead }

func newStore() *store {
	return &store{shelves: make(map[identity.NameKey]map[identity.Key]*held), sources: make(map[string]int)}
}

// put stores a verified lease that came from source. It returns "" or the
// reason for which it did not. A lease that is held already stays as it is: to
// send it again does not prolong it.
func (s *store) put(key identity.NameKey, l record.Lease, source string, now time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	shelf := s.shelves[key]
	old := shelf[l.Signer]
	if old != nil && !old.expires.After(now) {
		s.dropLocked(key, old)
		old = nil
	}
	if old != nil {
		switch c := l.Order.Compare(old.lease.Order); {
		case c < 0:
			return record.Reason(record.ErrOrder)
		case c == 0:
			return ""
		}
	}
	h := &held{lease: l, expires: l.Expires(now), source: source}
	if reason := s.roomLocked(key, h, old, now); reason != "" {
		return reason
	}
	if old != nil {
		s.dropLocked(key, old)
	}
	shelf = s.shelves[key]
	if shelf == nil {
		shelf = make(map[identity.Key]*held)
		s.shelves[key] = shelf
	}
	shelf[l.Signer] = h
	s.records++
	s.bytes += h.cost()
	s.sources[source] += h.cost()
	return ""
}

// roomLocked makes room for h, which replaces old where that is not nil.
func (s *store) roomLocked(key identity.NameKey, h, old *held, now time.Time) string {
	tomb := h.lease.Tombstone()
	same := 0
	var first *held // the tombstone that ends first
	for _, other := range s.shelves[key] {
		if other == old || other.lease.Tombstone() != tomb {
			continue
		}
		if !other.expires.After(now) {
			s.dropLocked(key, other)
			continue
		}
		same++
		if tomb && (first == nil || other.expires.Before(first.expires)) {
			first = other
		}
	}
	switch {
	case tomb && same >= maxTombsPerKey:
		s.dropLocked(key, first)
	case !tomb && same >= MaxPerKey:
		return reasonFull
	}
	grows := h.cost()
	if old != nil {
		grows -= old.cost()
	}
	if h.source == ownSource || grows <= 0 {
		return ""
	}
	if s.bytes+grows > MaxStore {
		if now.Sub(s.swept) >= time.Second { // a full store is no reason to look through it at every put
			s.sweepLocked(now)
		}
		if s.bytes+grows > MaxStore {
			return reasonFull
		}
	}
	if s.sources[h.source]+grows > MaxPerSource {
		return reasonQuota
	}
	return ""
}

// get returns what is held under key: leases, then tombstones.
func (s *store) get(key identity.NameKey, now time.Time) [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var leases, tombs [][]byte
	for _, h := range s.shelves[key] {
		switch {
		case !h.expires.After(now):
		case h.lease.Tombstone():
			tombs = append(tombs, h.lease.Raw)
		default:
			leases = append(leases, h.lease.Raw)
		}
	}
	return append(leases, tombs...)
}

// sweep drops what has expired.
func (s *store) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepLocked(now)
}

func (s *store) sweepLocked(now time.Time) {
	s.swept = now
	for key, shelf := range s.shelves {
		for _, h := range shelf {
			if !h.expires.After(now) {
				s.dropLocked(key, h)
			}
		}
	}
}

func (s *store) dropLocked(key identity.NameKey, h *held) {
	shelf := s.shelves[key]
	if shelf[h.lease.Signer] != h {
		return
	}
	delete(shelf, h.lease.Signer)
	if len(shelf) == 0 {
		delete(s.shelves, key)
	}
	s.records--
	s.bytes -= h.cost()
	if s.sources[h.source] -= h.cost(); s.sources[h.source] <= 0 {
		delete(s.sources, h.source)
	}
}

func (s *store) size() (records, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records, s.bytes
}
