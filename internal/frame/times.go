package frame

import (
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Times measures how long served calls took, from the arrival of the whole
// request to the return of its handler, and forgets them within two seconds.
// Connections may share one.
//
// Calls are counted in two windows of a second each: one fills while the other
// is complete. A call costs two looks at the clock and one atomic addition,
// which is too much where calls cost little themselves: in the second after one
// with more than maxMeasured calls, one of sample is measured, drawn by lot.
type Times struct {
	epoch  time.Time    // where its clock is at 0
	second atomic.Int64 // the present one
	busy   atomic.Bool  // measure one of sample
	_      [64]byte     // what all calls read lies apart from what they write

	mu      sync.Mutex                // held to turn to another second, and to read
	windows [2][buckets]atomic.Uint32 // calls that ended in even and in odd seconds
}

const (
	maxMeasured = 8192 // calls in a second
	sample      = 8
)

// A bucket holds the durations of an eighth of a power of two, so that its
// middle is at most a sixteenth away from each. Those below 16 are one
// microsecond wide. The last one ends where 32 bits do, at 71 minutes.
const buckets = 240

// NewTimes returns one that has measured nothing. Its clock is past 0, which start keeps for itself.
func NewTimes() *Times { return &Times{epoch: time.Now().Add(-time.Second)} }

// P99 returns how long 99 of 100 calls took at most that ended in the last one
// to two seconds, 6.25 % or a microsecond more or less; 0 where there were none.
func (t *Times) P99() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turnLocked(int64(time.Since(t.epoch) / time.Second))
	left := t.countLocked(0) + t.countLocked(1)
	left -= left / 100
	for b := range buckets {
		n := t.windows[0][b].Load() + t.windows[1][b].Load()
		if n > 0 && n >= left {
			return middle(b)
		}
		left -= n
	}
	return 0
}

// start returns when a call begins, in microseconds of the clock modulo 2^32;
// 0 says that it is not to be measured. skip is the connection's: how many calls
// are passed over, where that is the rule, until the next.
func (t *Times) start(skip *uint32) uint32 {
	if *skip > 0 && t.busy.Load() {
		*skip--
		return 0
	}
	*skip = rand.Uint32N(2*sample - 1)
	return uint32(time.Since(t.epoch) / time.Microsecond)
}

// end counts a call that began at start.
func (t *Times) end(start uint32) {
	now := time.Since(t.epoch)
	second := int64(now / time.Second)
	if t.second.Load() < second {
		t.turn(second)
	}
	took := uint32(now/time.Microsecond) - start
	t.windows[second%2][bucketOf(took)].Add(1)
}

func (t *Times) turn(second int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turnLocked(second)
}

// turnLocked makes second the present one, unless a later one is, and forgets
// what lies before the one before it.
func (t *Times) turnLocked(second int64) {
	last := t.second.Load()
	if last >= second {
		return
	}
	if last < second-1 {
		t.clearLocked((second - 1) % 2)
	}
	t.clearLocked(second % 2)
	calls := t.countLocked((second - 1) % 2)
	t.busy.Store(calls > maxMeasured || t.busy.Load() && calls > maxMeasured/sample)
	t.second.Store(second)
}

func (t *Times) clearLocked(window int64) {
	for b := range buckets {
		t.windows[window][b].Store(0)
	}
}

func (t *Times) countLocked(window int64) (calls uint32) {
	for b := range buckets {
		calls += t.windows[window][b].Load()
	}
	return calls
}

func bucketOf(us uint32) int {
	shift := max(bits.Len32(us)-4, 0)
	return shift*8 + int(us>>shift)
}

func middle(bucket int) time.Duration {
	shift := max(bucket/8-1, 0)
	low := time.Duration(bucket-shift*8) << shift
	return max(low+(1<<shift)/2, 1) * time.Microsecond
}
