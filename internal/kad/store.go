package kad

import (
	"slices"
	"sync"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// Limits of what a node holds for others.
const (
	MaxPerKey      = 64       // leases under one key
	maxTombsPerKey = 32       // tombstones under one key; the one that ends first gives way
	MaxPerGroup    = 16       // of them from one IPv4 /24 or IPv6 /48 of the public network
	MaxStore       = 32 << 20 // bytes of all records
	MaxPerSource   = 2 << 20  // bytes that one source may deposit
	MaxPerAuthor   = 8 << 20  // bytes of the cells of one author
	recordOverhead = 256      // bytes that a record costs beside its own
)

// store holds leases by key and node. It is safe for concurrent use.
type store struct {
	mu      sync.Mutex // guards what follows
	shelves map[identity.NameKey]map[identity.Key]*held
	records int
	bytes   int
	sources map[string]int       // bytes by source
	authors map[identity.Key]int // bytes by author
	public  bool                 // MaxPerGroup holds

	firstCome bool // tests: crowds give way to nobody
	swept     time.Time
}

type held struct {
	lease   record.Lease
	expires time.Time
	origin  origin
}

func (h *held) cost() int { return len(h.lease.Raw) + recordOverhead }

func newStore(public bool) *store {
	return &store{shelves: make(map[identity.NameKey]map[identity.Key]*held), sources: make(map[string]int), authors: make(map[identity.Key]int), public: public}
}

// put stores a verified lease that came from somewhere. It returns whether it
// is news, and "" or the reason for which it was not stored. A lease that is
// held already stays as it is: to send it again does not prolong it.
func (s *store) put(key identity.NameKey, l record.Lease, from origin, now time.Time) (fresh bool, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.shelves[key][l.Signer]
	if old != nil && !old.expires.After(now) {
		s.dropLocked(key, old)
		old = nil
	}
	if old != nil {
		switch c := l.Order.Compare(old.lease.Order); {
		case c < 0:
			return false, record.Reason(record.ErrOrder)
		case c == 0:
			return false, ""
		}
	}
	h := &held{lease: l, expires: l.Expires(now), origin: from}
	if reason := s.roomLocked(key, h, old, now); reason != "" {
		return false, reason
	}
	if old != nil {
		s.dropLocked(key, old)
	}
	shelf := s.shelves[key]
	if shelf == nil {
		shelf = make(map[identity.Key]*held)
		s.shelves[key] = shelf
	}
	shelf[l.Signer] = h
	s.countLocked(h, +1)
	return true, ""
}

// countLocked books what h takes, or gives back.
func (s *store) countLocked(h *held, n int) {
	cost := n * h.cost()
	s.records += n
	s.bytes += cost
	if s.sources[h.origin.source] += cost; s.sources[h.origin.source] <= 0 {
		delete(s.sources, h.origin.source)
	}
	if s.authors[h.lease.Cell.Author] += cost; s.authors[h.lease.Cell.Author] <= 0 {
		delete(s.authors, h.lease.Cell.Author)
	}
}

// roomLocked makes room for h, which replaces old where that is not nil.
func (s *store) roomLocked(key identity.NameKey, h, old *held, now time.Time) string {
	tomb := h.lease.Tombstone()
	var same []*held // tombstones, or leases, as h is one
	groups := make(map[string]int)
	for _, other := range s.shelves[key] {
		if other == old || other.lease.Tombstone() != tomb {
			continue
		}
		if !other.expires.After(now) {
			s.dropLocked(key, other)
			continue
		}
		same = append(same, other)
		groups[other.origin.group]++
	}
	own := h.origin == ownOrigin
	switch {
	case tomb && len(same) >= maxTombsPerKey:
		s.dropLocked(key, slices.MinFunc(same, func(a, b *held) int { return a.expires.Compare(b.expires) }))
	case !tomb && s.public && !own && groups[h.origin.group] >= MaxPerGroup:
		return reasonGroup
	case !tomb && len(same) >= MaxPerKey:
		victim := crowd(same, groups)
		if s.firstCome || !own && groups[victim.origin.group] <= groups[h.origin.group]+1 {
			return reasonFull
		}
		s.dropLocked(key, victim)
	}
	grows := h.cost()
	if old != nil {
		grows -= old.cost()
	}
	if own || grows <= 0 {
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
	if s.sources[h.origin.source]+grows > MaxPerSource || s.authors[h.lease.Cell.Author]+grows > MaxPerAuthor {
		return reasonQuota
	}
	return ""
}

// crowd returns the lease that gives way to one of a smaller group: of the group
// with the most under the name the one that ends first. So whoever comes first
// with many names of his own does not keep others out.
func crowd(all []*held, groups map[string]int) *held {
	return slices.MinFunc(all, func(a, b *held) int {
		if c := groups[b.origin.group] - groups[a.origin.group]; c != 0 {
			return c
		}
		return a.expires.Compare(b.expires)
	})
}

// get returns what is held under key: leases that need not be hidden, then tombstones.
func (s *store) get(key identity.NameKey, now time.Time, hide func(record.Lease) bool) [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var leases, tombs [][]byte
	for _, h := range s.shelves[key] {
		switch {
		case !h.expires.After(now):
		case h.lease.Tombstone():
			tombs = append(tombs, h.lease.Raw)
		case hide(h.lease):
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
	s.countLocked(h, -1)
}

func (s *store) size() (records, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records, s.bytes
}
