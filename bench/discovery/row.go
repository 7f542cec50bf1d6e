package main

import (
	"fmt"
	"strings"
	"time"
)

// row compares two on the same work. Its goals are of ours alone.
type row struct {
	name   string
	ours   source
	peer   string // "" for a row without one
	theirs source
	must   bound // missed: the program fails
	goal   bound
	unit   unit
}

// source is where a side's figure comes from: a scene and what it calls it.
type source struct{ scene, figure string }

// unit is what a row is about.
type unit int

const (
	seconds unit = iota // times of operations
	share               // of what should be so that was
	traffic             // bytes per second and node
	events              // that should not happen, counted in Failed
)

// bound is what is to be reached; what is zero is not asked for.
type bound struct {
	p50, p95, p99, last time.Duration // at most
	rpcs                float64       // at most
	share               float64       // at least
	rate                float64       // at most
	none                bool          // no event at all
}

// missed says what of a bound a figure does not reach, "" where it does. An
// operation that failed is one that took for ever.
func (b bound) missed(f figure) string {
	var out []string
	late := func(what string, got, most time.Duration, rank float64) {
		if n := f.Samples + f.Failed; n == 0 || float64(f.Samples) < rank*float64(n) {
			out = append(out, what)
		} else if got > most {
			out = append(out, what)
		}
	}
	if b.p50 > 0 {
		late("p50", f.P50, b.p50, 0.5)
	}
	if b.p95 > 0 {
		late("p95", f.P95, b.p95, 0.95)
	}
	if b.p99 > 0 {
		late("p99", f.P99, b.p99, 0.99)
	}
	if b.last > 0 {
		late("last", f.Max, b.last, 1)
	}
	if b.rpcs > 0 && (f.RPCs == 0 || f.RPCs > b.rpcs) {
		out = append(out, "RPCs")
	}
	if b.share > 0 && f.Share < b.share {
		out = append(out, "share")
	}
	if b.rate > 0 && (f.Rate == 0 || f.Rate > b.rate) {
		out = append(out, "rate")
	}
	if b.none && (f.Samples == 0 || f.Failed > 0) {
		out = append(out, "events")
	}
	return strings.Join(out, ", ")
}

func (b bound) String() string {
	var out []string
	for _, t := range []struct {
		name string
		most time.Duration
	}{{"p50", b.p50}, {"p95", b.p95}, {"p99", b.p99}, {"last", b.last}} {
		if t.most > 0 {
			out = append(out, t.name+" "+brief(t.most))
		}
	}
	if b.rpcs > 0 {
		out = append(out, fmt.Sprintf("%g RPCs", b.rpcs))
	}
	if b.share > 0 {
		out = append(out, percent(b.share))
	}
	if b.rate > 0 {
		out = append(out, fmt.Sprintf("%g B/s", b.rate))
	}
	if b.none {
		out = append(out, "none")
	}
	return strings.Join(out, ", ")
}

// brief writes a time with three digits that matter.
func brief(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d >= 100*time.Second:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return fmt.Sprintf("%.3g s", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.3g ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.3g µs", float64(d)/1e3)
}

func percent(v float64) string { return fmt.Sprintf("%.4g %%", 100*v) }
