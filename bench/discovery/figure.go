package main

import (
	"math"
	"slices"
	"time"
)

// figure is what one side of a row was measured to be. Times are virtual.
type figure struct {
	Samples  int
	P50, P95 time.Duration
	P99, Max time.Duration
	Failed   int           // operations that had no result; they are not among the samples
	RPCs     float64       // requests per operation; 0: not counted
	CPU      time.Duration // real, of all nodes, per operation; 0: not counted
	Share    float64       // of what should be so that was, 0 to 1, where the row is about that
	Rate     float64       // bytes per second and node, where the row is about that
	Note     string        // what else there is to know
}

// times are durations of operations of one kind.
type times []time.Duration

// figure summarises them; failed operations had no result.
func (t times) figure(failed int) figure {
	slices.Sort(t)
	f := figure{Samples: len(t), Failed: failed}
	if len(t) > 0 {
		f.P50, f.P95, f.P99, f.Max = t.quantile(0.5), t.quantile(0.95), t.quantile(0.99), t[len(t)-1]
		f.Share = float64(len(t)) / float64(len(t)+failed)
	}
	return f
}

// quantile returns the time that a share q of all did not exceed; t is sorted.
func (t times) quantile(q float64) time.Duration {
	if len(t) == 0 {
		return 0
	}
	return t[max(0, int(math.Ceil(q*float64(len(t))))-1)]
}
