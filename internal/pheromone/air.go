package pheromone

import (
	"math"
	"time"
)

// What all nodes of a LAN together send to everybody, in packets a second. A
// packet counts once, though it leaves by IPv4, by IPv6 and by several
// interfaces: where a LAN carries both families, twice as many pass.
const (
	airRate   = 30 // in the long run
	roundRate = 20 // of these, what rounds take
)

// urgency says how full the air may be for a packet.
type urgency int

const (
	urgent   urgency = iota // news, and questions by name, for the first time
	repeated                // the same once more; greetings
	round                   // what has been said before, from time to time
)

// full is how many packets may be in the air, by urgency. The first number is
// also what may be sent at once after a silence.
var full = [...]float64{urgent: 15, repeated: 10, round: 5}

// bucket fills with what is put into it, and leaks.
type bucket struct {
	level float64
	at    time.Time
}

// drain returns what is left of what was put in, where rate leaks in a second.
func (b *bucket) drain(now time.Time, rate float64) float64 {
	if passed := now.Sub(b.at); passed > 0 {
		b.level = max(0, b.level-rate*passed.Seconds())
		b.at = now
	}
	return b.level
}

const (
	startTime   = time.Second          // for which a node does not know yet how many others there are
	startWindow = 4 * time.Millisecond // from which it then draws its moment
	nodeWindow  = startWindow / 40     // later: for each node it knows, up to startWindow
	maxWindow   = 2 * time.Second
	minTrust    = 3 // packets that may be in the air at the first try
	steepness   = 7 // of the draw: e^7 nodes that start at once get along
)

// turn is the moment that a node has drawn to speak. Nobody hands out turns;
// whoever finds the air too full at his moment draws again, from a window of
// twice the length.
type turn struct {
	at     time.Time // zero: nothing is waiting
	of     urgency
	window time.Duration
	missed int
}

// draw returns the next turn after t for something of urgency u. The window is
// that of a first try; chance is from [0, 1). Late moments are the likelier, so
// that of any number of nodes few are early, and those who drew a later one
// hear them.
func (t turn) draw(u urgency, window time.Duration, chance float64, now time.Time) turn {
	if t.at.IsZero() || u < t.of {
		t = turn{window: window}
	} else {
		t.window = min(max(2*t.window, nodeWindow), maxWindow)
		t.missed++
	}
	t.of = u
	t.at = now.Add(time.Duration(float64(t.window) / steepness * math.Log1p(chance*math.Expm1(steepness))))
	return t
}

// room is how many packets may be in the air: few at the first try, when those
// who drew the same moment cannot have been heard.
func (t turn) room() float64 {
	return min(full[t.of], minTrust*math.Exp2(float64(min(t.missed, 8))))
}
