package kad

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Limits of one lookup.
const (
	maxQueries = 96          // in all: however many peers are made up, a lookup ends
	maxNear    = 64          // candidates remembered for each place, the closest ones
	curious    = 3 * Holders // of them are asked who is closer to that place
	giveUp     = 4           // of the holders of one place that are late: a search does without it
)

// Patience of a lookup, from the round trip expected of a peer: one on a
// connection at hand, two where it must be opened first.
const (
	lateFactor = 1.25 // of the time expected, plus lateSlack: then another one is asked too
	lateSlack  = 30 * time.Millisecond
	endFactor  = 4 // of the time expected, plus endSlack: then the peer is given up
	endSlack   = 300 * time.Millisecond
	endLeast   = 800 * time.Millisecond
	endMost    = 3 * time.Second
)

// rules are what a lookup is after.
type rules struct {
	atOnce int           // queries under way for each place
	enough int           // of the Holders closest to each place must have answered well
	total  int           // must have answered well in all
	limit  time.Duration // then it ends with what there is; 0: when everybody has been asked
}

var (
	// searching asks few: leases lie on all holders of all places.
	searching = rules{atOnce: 2, enough: 1, total: 4, limit: 4 * time.Second}
	// storing asks all holders and has done enough when most have taken it.
	storing = rules{atOnce: Holders, enough: Holders/2 + 1, total: Keys * (Holders/2 + 1)}
)

type progress uint8

const (
	fresh    progress = iota
	asked             // waited for
	late              // still asked, but others are asked in its place
	answered          // well
	failed            // counts for nothing
)

// candidate is a peer that a lookup has heard of.
type candidate struct {
	peer.AddrInfo
	at      place
	hops    int           // exchanges that led to it and to its answer
	rtt     time.Duration // 0 unknown
	warm    bool          // there is a connection
	hearsay bool          // membership told of it, and it has never answered
	suspect bool          // did not answer of late: asked when nobody else is left, and not waited for
	state   progress
	lists   int // of how many places it is remembered
	sent    time.Time
	lateAt  time.Time
	endAt   time.Time
}

// query is what a lookup wants to be done: to ask a peer.
type query struct {
	*candidate
	places uint8 // bit r: who is closer to place r is of interest
}

// lookup walks towards the places of one name at once: it is told what happened
// and when, and says whom to ask next and when to look again. It has no
// goroutine, no clock and no socket, and is not safe for concurrent use.
type lookup struct {
	rules   rules
	places  []place
	self    peer.ID
	usual   time.Duration // round trip expected of a peer that is not known
	rand    *rand.Rand
	near    [][]*candidate // by place, the closest first
	known   map[peer.ID]*candidate
	queries int
	answers int
	started time.Time
	over    bool // the limit has passed
}

func newLookup(r rules, places []place, self peer.ID, usual time.Duration, rng *rand.Rand) *lookup {
	return &lookup{rules: r, places: places, self: self, usual: usual, rand: rng,
		near: make([][]*candidate, len(places)), known: make(map[peer.ID]*candidate)}
}

// add hears of a peer. A lookup begins with those that are known beforehand.
func (l *lookup) add(c candidate) {
	if c.ID == l.self || l.known[c.ID] != nil {
		return
	}
	if c.at == (place{}) {
		c.at = placeOf(c.ID)
	}
	for r := range l.places {
		l.insert(r, &c)
	}
	if c.lists > 0 {
		l.known[c.ID] = &c
	}
}

// insert remembers c for one place, where it is one of the closest.
func (l *lookup) insert(r int, c *candidate) {
	dist := c.at.to(l.places[r])
	at, _ := slices.BinarySearchFunc(l.near[r], dist, func(c *candidate, d place) int { return c.at.to(l.places[r]).compare(d) })
	if n := len(l.near[r]); n >= maxNear {
		last := l.near[r][n-1]
		if at == n {
			return
		}
		l.near[r] = l.near[r][:n-1]
		if last.lists--; last.lists == 0 {
			delete(l.known, last.ID)
		}
	}
	l.near[r] = slices.Insert(l.near[r], at, c)
	c.lists++
}

// stores reports whether the lookup is to reach all holders, not just some.
func (l *lookup) stores() bool { return l.rules.atOnce == Holders }

// window returns the candidates that hold, or would hold, what lies at place r:
// the Holders closest that have not failed. Suspects are among them where there
// are not enough others. What is to be stored goes to all of these, to suspects
// among them, and to as many others in place of those who are late.
func (l *lookup) window(r int) []*candidate {
	var w, suspects []*candidate
	room := Holders
	for _, c := range l.near[r] {
		switch {
		case room == 0:
			return w
		case c.state == failed:
		case c.suspect && c.state != answered && !l.stores():
			suspects = append(suspects, c)
		default:
			w = append(w, c)
			if !l.stores() || c.state == answered || c.state != late && !c.suspect {
				room--
			}
		}
	}
	return append(w, suspects[:min(len(suspects), room)]...)
}

// tally counts the states of a window.
func tally(w []*candidate) (n [failed + 1]int, hopeful int) {
	for _, c := range w {
		n[c.state]++
		if c.state == fresh && !c.suspect {
			hopeful++
		}
	}
	return n, hopeful
}

// next returns whom to ask now.
func (l *lookup) next(now time.Time) []query {
	l.pass(now)
	var out []query
	stuck := make([]int, len(l.places)) // who is late where nobody has answered
	total := l.rules.total
	for r := range l.places {
		w := l.window(r)
		n, _ := tally(w)
		want := max(l.rules.atOnce, n[late]) // in place of those who are slow twice as many are asked
		switch {
		case l.stores():
			want = len(w)
		case n[answered] >= l.rules.enough:
			want = 0
		default:
			stuck[r] = n[late]
			total += n[late]
		}
		for n[asked] < want {
			c := l.pick(w, n[asked] == 0)
			if c == nil || !l.ask(c, now, &out) {
				break
			}
			n[asked]++
		}
	}
	l.fill(total, stuck, now, &out)
	for i := range out {
		for r := range l.places {
			if slices.Contains(l.near[r][:min(curious, len(l.near[r]))], out[i].candidate) {
				out[i].places |= 1 << r
			}
		}
	}
	return out
}

// fill asks more until total have answered or may soon, at places that are not
// stuck: what one of them withholds the others must make good.
func (l *lookup) fill(total int, stuck []int, now time.Time, out *[]query) {
	for _, c := range l.known {
		if c.state == asked {
			total--
		}
	}
	for r := range l.places {
		for stuck[r] == 0 && l.answers < total {
			w := slices.DeleteFunc(l.window(r), func(c *candidate) bool { return c.suspect })
			c := l.pick(w, true)
			if c == nil || !l.ask(c, now, out) {
				break
			}
			total--
		}
	}
}

// pick chooses one of a window that has not been asked: the one that should
// answer first, or anyone, so that to be quick is not all that it takes to be
// asked. Suspects come last.
func (l *lookup) pick(w []*candidate, first bool) *candidate {
	var left, suspects []*candidate
	for _, c := range w {
		switch {
		case c.state != fresh:
		case c.suspect:
			suspects = append(suspects, c)
		default:
			left = append(left, c)
		}
	}
	if len(left) == 0 {
		left = suspects
	}
	switch {
	case len(left) == 0:
		return nil
	case first:
		return slices.MinFunc(left, func(a, b *candidate) int { return int(l.expect(a) - l.expect(b)) })
	}
	return left[l.rand.IntN(len(left))]
}

// expect is how long a peer should take to answer.
func (l *lookup) expect(c *candidate) time.Duration {
	rtt := c.rtt
	if rtt == 0 {
		rtt = l.usual
	}
	if c.warm {
		return rtt
	}
	return 2 * rtt
}

func (l *lookup) ask(c *candidate, now time.Time, out *[]query) bool {
	if l.queries >= maxQueries {
		c.state = failed
		return false
	}
	l.queries++
	e := l.expect(c)
	if c.state, c.sent = asked, now; c.suspect {
		c.state = late
	}
	c.lateAt = now.Add(time.Duration(lateFactor*float64(e)) + lateSlack)
	c.endAt = now.Add(min(max(endFactor*e+endSlack, endLeast), endMost))
	*out = append(*out, query{candidate: c})
	return true
}

// pass lets time pass: who is asked becomes late, who is late fails.
func (l *lookup) pass(now time.Time) {
	if l.started.IsZero() {
		l.started = now
	}
	l.over = l.rules.limit > 0 && !now.Before(l.started.Add(l.rules.limit))
	for _, c := range l.known {
		if c.state == asked && !now.Before(c.lateAt) {
			c.state = late
		}
		if c.state == late && !now.Before(c.endAt) {
			c.state = failed
		}
	}
}

// wake is when next must be called though nothing happens. Zero: never.
func (l *lookup) wake() (at time.Time) {
	for _, c := range l.known {
		t := c.lateAt
		switch c.state {
		case late:
			t = c.endAt
		case asked:
		default:
			continue
		}
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if end := l.started.Add(l.rules.limit); l.rules.limit > 0 && !l.over && end.Before(at) {
		return end
	}
	return at
}

// answer records that a peer has answered, well or not, and whom it named. A
// peer that was given up may still answer.
func (l *lookup) answer(p peer.ID, well bool, closer []candidate) {
	c := l.known[p]
	if c == nil {
		return
	}
	switch {
	case !well:
		c.state = failed
	case c.state != answered:
		c.state = answered
		l.answers++
	}
	for _, q := range closer {
		q.hops = c.hops + 1
		l.add(q)
	}
}

// fail records that a peer will not answer.
func (l *lookup) fail(p peer.ID) {
	if c := l.known[p]; c != nil && c.state != answered {
		c.state = failed
	}
}

// enough reports whether the lookup has what it is after: of each place enough
// of the closest have answered, and enough in all. A place at which nobody
// answers in time does not hold up the others; nor do holders that are not there.
func (l *lookup) enough() bool {
	if l.over {
		return true
	}
	covered, waiting := 0, false
	for r := range l.places {
		n, hopeful := tally(l.window(r))
		active := hopeful > 0 || n[asked] > 0
		size := n[answered] + n[asked] + hopeful
		switch need := min(l.rules.enough, size/2+1); {
		case n[answered] >= need:
			covered++
			waiting = waiting || active
		case (active || n[fresh] > 0) && (l.stores() || n[late] < giveUp):
			return false
		case n[late] > 0:
			waiting = true
		}
	}
	switch {
	case covered == 0:
		return l.idle()
	case covered == len(l.places):
		return l.answers >= l.rules.total || l.stores() || !waiting
	}
	return l.answers >= l.rules.total || l.idle()
}

// idle reports whether there is nobody left to ask and nobody to wait for.
func (l *lookup) idle() bool {
	if l.over {
		return true
	}
	for r := range l.places {
		if n, _ := tally(l.window(r)); n[fresh]+n[asked]+n[late] > 0 {
			return false
		}
	}
	return true
}
