package kad

import (
	"sync"
	"time"
)

// What one source may ask of this node. A put costs three signatures, about
// 0.2 ms; a get costs next to nothing.
const (
	putRate    = 50  // a second
	putBurst   = 500 //
	askRate    = 200 // a second, gets and nears
	askBurst   = 500 //
	maxSources = 4096
)

// rates is a pair of token buckets for every source. The zero rates is ready
// to use. It remembers the sources of late: at most twice maxSources.
type rates struct {
	mu       sync.Mutex // guards what follows
	now, old map[string]*bucket
}

type bucket struct {
	put, ask float64 // tokens used
	at       time.Time
}

// allow takes a token, or reports that the source has none left.
func (r *rates) allow(source string, put bool, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.now[source]
	if b == nil {
		if b = r.old[source]; b == nil {
			b = &bucket{at: now}
		}
		if r.now == nil || len(r.now) >= maxSources {
			r.old, r.now = r.now, make(map[string]*bucket)
		}
		r.now[source] = b
	}
	past := now.Sub(b.at).Seconds()
	b.at = now
	b.put, b.ask = max(0, b.put-past*putRate), max(0, b.ask-past*askRate)
	used, burst := &b.ask, float64(askBurst)
	if put {
		used, burst = &b.put, putBurst
	}
	if *used+1 > burst {
		return false
	}
	*used++
	return true
}
