package node

import (
	"math"
	"sync"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/mesh"
)

// What the choice among places goes by.
const (
	fading       = 10 * time.Second // in which what is left of a slow answer falls to 37 %
	smoothing    = 32               // answers over which a mean is taken, about
	ownNode      = 2                // times as slow as others its own idle replica may be for a lone caller
	penalty      = 1e9              // ns; a refusal counts as an answer that took so long
	trials       = 4                // calls in flight at a place that has not answered any
	maxGreetings = 8                // new places that are being greeted
	loadTime     = time.Minute      // after so long without a call a place is new again
	maxLoads     = 4096             // places that are remembered, beside those with calls in flight
)

// balancer chooses where the calls of this node go: to its replicas or to other
// nodes. A call is expected to cost the time that a place takes to answer,
// times the calls that it would then have in flight. That time is a peak EWMA:
// a slow answer raises it at once, quick ones lower it little by little. This
// is how Finagle and Linkerd choose:
// https://linkerd.io/2016/03/16/beyond-round-robin-load-balancing-for-latency/
//
// Three things are not as there:
//   - a place with nothing in flight is judged by its mean and not by its peak,
//     and a replica here by half of it: a few slow answers do not send a lone
//     caller away from his node;
//   - with time alone a place becomes as good as it has been at best, and not
//     as good as can be, so that a far node is not tried again and again;
//   - a node that has never been called is greeted first, and no request that
//     another place can take waits for that; until it has answered requests
//     it gets a few at a time.
//
// The zero value is ready to use. Time is an argument.
type balancer struct {
	mu        sync.Mutex // guards what follows, the loads included
	cells     map[identity.Cell]map[place]*load
	count     int       // of loads
	swept     time.Time // when the unused ones were last dropped
	greetings int       // under way
}

// place is where a call may go.
type place struct {
	node    identity.Key // another node, or
	replica *replica     // a replica on this one
}

// option is a place that may take a certain call.
type option struct {
	place
	inflight int            // calls there, as far as they are known otherwise
	leaving  bool           // it drains: only for want of others that can be reached
	via      *mesh.Endpoint // of another node
}

// sent is a call under way. The zero sent is one that is not counted.
type sent struct {
	*load
	began time.Time
	cold  bool // it may have waited for a connection: how long it takes says nothing
}

// choose returns the cheapest of options, the first one of those that are
// equal, and counts a call as begun there. greet is a new node to greet, or
// -1: greeted is to be called with what came of it.
func (b *balancer) choose(cell identity.Cell, options []option, now time.Time) (best, greet int, s sent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(b.swept) > loadTime {
		b.sweepLocked(now)
	}
	best, greet = compare(b.cells[cell], options, now)
	if greet >= 0 && b.greetings < maxGreetings {
		b.greetings++
		l := b.addLocked(cell, options[greet].place, now)
		l.greeting, l.used = true, now
	} else {
		greet = -1
	}
	return best, greet, b.beginLocked(cell, options[best].place, now)
}

// compare returns the best option, and one of which it would be good to know
// more, or -1.
func compare(known map[place]*load, options []option, now time.Time) (best, greet int) {
	var room [8]*load
	loads := room[:0]
	var least float64 // time to an answer of any of them, at best; 0: there was none
	for _, o := range options {
		l := recall(known, o.place, now)
		if loads = append(loads, l); l.best > 0 && (least == 0 || l.best < least) {
			least = l.best
		}
	}
	greet = -1
	var first rank
	var cost, next float64
	for i, l := range loads {
		o := &options[i]
		r, c := l.cost(max(l.inflight, o.inflight), o.leaving, least, now)
		if i == 0 || r < first || r == first && c < cost {
			best, first, cost = i, r, c
		}
		if r == strange && !l.greeting && l.inflight == 0 && c < penalty/2 && (greet < 0 || c < next) {
			greet, next = i, c
		}
	}
	// A new one is supposed to be half as quick as the best of all.
	if greet == best || first == open && (least == 0 || cost <= 2*max(next, least)) {
		greet = -1
	}
	return best, greet
}

// beginLocked counts a call as begun.
func (b *balancer) beginLocked(cell identity.Cell, p place, now time.Time) sent {
	l := b.addLocked(cell, p, now)
	l.inflight++
	l.used = now
	return sent{l, now, !l.reached}
}

// end counts a call as ended; err is what it returned.
func (b *balancer) end(s sent, err error, now time.Time) {
	code := codeOf(err)
	b.mu.Lock()
	defer b.mu.Unlock()
	l, took := s.load, now.Sub(s.began)
	l.inflight--
	l.used = now
	switch code {
	case frame.NotSent, frame.Unavailable:
		l.reached = l.here
		l.refused(now)
	case frame.Overloaded, frame.Draining, frame.NoReplica, frame.Version:
		l.refused(now)
	case frame.Timeout, frame.Cancelled:
		l.gaveUp(took, now)
	default:
		if !s.cold {
			l.answered(took, now)
		}
		l.reached = true
	}
}

// greeted tells what became of greeting a node: the time to it and back, or
// that it did not answer.
func (b *balancer) greeted(cell identity.Cell, node identity.Key, trip time.Duration, err error, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.greetings--
	l := b.addLocked(cell, place{node: node}, now)
	l.greeting, l.used = false, now
	if err != nil {
		l.refused(now)
		return
	}
	l.reached, l.trip = true, trip
}

// addLocked returns the load of a place, a new one where none is known.
func (b *balancer) addLocked(cell identity.Cell, p place, now time.Time) *load {
	if l := b.cells[cell][p]; l != nil && !l.stale(now) {
		return l
	}
	if b.count >= maxLoads {
		b.sweepLocked(now)
	}
	l := &load{here: p.replica != nil, reached: p.replica != nil, used: now}
	if b.cells == nil {
		b.cells = make(map[identity.Cell]map[place]*load)
	}
	if b.cells[cell] == nil {
		b.cells[cell] = make(map[place]*load)
	}
	if b.cells[cell][p] == nil {
		b.count++
	}
	b.cells[cell][p] = l
	return l
}

// sweepLocked drops the loads that are out of use; where that does not make
// room, some that are in use but have no call in flight.
func (b *balancer) sweepLocked(now time.Time) {
	b.swept = now
	drop := func(idle func(*load) bool) {
		for cell, loads := range b.cells {
			for p, l := range loads {
				if idle(l) {
					delete(loads, p)
					b.count--
				}
			}
			if len(loads) == 0 {
				delete(b.cells, cell)
			}
		}
	}
	drop(func(l *load) bool { return l.stale(now) })
	drop(func(l *load) bool { return b.count > maxLoads*3/4 && l.inflight == 0 })
}

// load is what is known of a place. It is pure; durations are in nanoseconds.
type load struct {
	here     bool // a replica on this node
	inflight int
	used     time.Time     // when a call last began or ended
	reached  bool          // there is a connection
	greeting bool          // it is being greeted
	trip     time.Duration // to it and back, once it was greeted

	when       time.Time // the two below held
	peak, mean float64   // time to an answer
	best       float64   // least time to an answer; 0: there was none
}

// Places that were never called.
var unknown, unknownHere = &load{}, &load{here: true, reached: true}

// recall returns what is known of a place, for reading only.
func recall(known map[place]*load, p place, now time.Time) *load {
	l := known[p]
	switch {
	case l != nil && !l.stale(now):
		return l
	case p.replica != nil:
		return unknownHere
	}
	return unknown
}

// stale reports whether l is too old to say anything.
func (l *load) stale(now time.Time) bool {
	return l.inflight == 0 && !l.greeting && now.Sub(l.used) > loadTime
}

// rank is the order in which places come into question.
type rank int

const (
	open    rank = iota
	trying       // it has as many calls as it gets before it has answered any
	leaving      // it drains
	strange      // it has not been reached
	last         // neither is it reached, nor does it stay
)

// cost returns how much a call there is expected to cost, with inflight others.
// least is what it costs at the best of all places, at best.
func (l *load) cost(inflight int, drains bool, least float64, now time.Time) (rank, float64) {
	calls, left := float64(inflight+1), l.left(now)
	peak := l.best + (l.peak-l.best)*left
	switch {
	case drains && l.reached:
		return leaving, (peak + 1) * calls
	case drains:
		return last, peak
	case !l.reached:
		return strange, peak // the first one of them, as they are ordered, is as good as another
	case l.best == 0 && inflight >= trials:
		return trying, calls
	case l.best == 0:
		return open, (max(least+float64(l.trip), peak) + 1) * calls
	case inflight > 0:
		return open, peak * calls
	case l.here:
		return open, (l.best + (l.mean-l.best)*left) / ownNode
	}
	return open, l.best + (l.mean-l.best)*left
}

// left is the share that is left of what peak and mean are above the best.
func (l *load) left(now time.Time) float64 {
	return math.Exp(-float64(max(now.Sub(l.when), 0)) / float64(fading))
}

// answered takes in how long an answer took.
func (l *load) answered(took time.Duration, now time.Time) {
	x, left := float64(max(took, 1)), l.left(now)
	if l.best == 0 { // the first; there may have been refusals
		l.peak, l.mean, l.best, l.when = max(x, l.peak*left), x, x, now
		return
	}
	l.mean = l.best + (l.mean-l.best)*left
	l.mean += (x - l.mean) / smoothing
	if x >= l.best+(l.peak-l.best)*left {
		l.peak = x
	} else {
		l.peak = x + (l.peak-x)*left
	}
	l.best, l.when = min(l.best, x), now
}

// refused takes in that a request was not taken, or lost.
func (l *load) refused(now time.Time) {
	left := l.left(now)
	l.peak = max(l.best+(l.peak-l.best)*left, penalty)
	l.mean = max(l.best+(l.mean-l.best)*left, penalty)
	l.when = now
}

// gaveUp takes in that the caller did not wait for the answer any longer, which
// tells something only where that was long.
func (l *load) gaveUp(took time.Duration, now time.Time) {
	x, left := float64(took), l.left(now)
	l.peak = max(l.best+(l.peak-l.best)*left, x)
	l.mean = l.best + (l.mean-l.best)*left
	l.mean += max(x-l.mean, 0) / smoothing
	l.when = now
}
