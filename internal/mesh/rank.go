package mesh

import (
	"bytes"
	"cmp"
	"time"
)

// What the round trip to a node that was never measured is taken for: that of a
// neighbour or a stranger, twice, since there is no connection to it yet.
const (
	nearGuess = 2 * time.Millisecond
	farGuess  = 200 * time.Millisecond
)

// rank orders endpoints: those who stay before those who drain, those close by
// before those far away, those known for longest first.
func rank(a, b Endpoint) int {
	return cmp.Or(
		cmp.Compare(a.Lease.State, b.Lease.State),
		cmp.Compare(a.distance, b.distance),
		a.since.Compare(b.since),
		bytes.Compare(a.Node[:], b.Node[:]))
}

// settle returns the round trip to rank by. It stays what it was while what is
// measured is within a quarter or a millisecond of it, so that the order of two
// nodes does not change with every measurement.
func settle(was, measured time.Duration) time.Duration {
	if was > 0 && (measured-was).Abs() <= max(was/4, time.Millisecond) {
		return was
	}
	return max(measured, 1) // 0 is none
}

// guess is how far away e's node is, as far as is known.
func (e *entry) guess(now time.Time) time.Duration {
	switch {
	case e.distance > 0:
		return e.distance
	case e.lan.live(now):
		return nearGuess
	}
	return farGuess
}
