package report

import (
	"math/bits"
	"time"
)

const (
	fine    = 6                       // bits of precision below the leading one
	buckets = (64 - fine + 1) << fine // enough for any uint64
)

// Histogram counts durations with a relative error below 1 %, in constant
// memory and without allocation, so that counting does not disturb what is
// measured. The zero Histogram is empty. It is not safe for concurrent use.
type Histogram struct {
	count [buckets]uint32
	n     uint64
}

// bucket returns where v is counted: values below 2^fine have a bucket each,
// above there are 2^fine for each power of two.
func bucket(v uint64) int {
	if v < 1<<fine {
		return int(v)
	}
	shift := bits.Len64(v) - fine - 1
	return shift<<fine + int(v>>shift)
}

// middle returns the value in the middle of bucket i.
func middle(i int) uint64 {
	if i < 2<<fine {
		return uint64(i)
	}
	shift := i>>fine - 1
	low := uint64(i-shift<<fine) << shift
	return low + 1<<shift/2
}

// Add counts d; a negative one as zero.
func (h *Histogram) Add(d time.Duration) {
	h.count[bucket(uint64(max(d, 0)))]++
	h.n++
}

// Merge adds all that o has counted.
func (h *Histogram) Merge(o *Histogram) {
	for i, c := range o.count {
		h.count[i] += c
	}
	h.n += o.n
}

// Count is the number of durations counted.
func (h *Histogram) Count() int { return int(h.n) }

// Quantile returns the duration that a share q of all do not exceed; 0 where
// nothing was counted. q is from 0 to 1.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank, seen := min(uint64(q*float64(h.n)), h.n-1), uint64(0)
	for i, c := range h.count {
		if seen += uint64(c); seen > rank {
			return time.Duration(middle(i))
		}
	}
	panic("report: counts do not add up")
}
