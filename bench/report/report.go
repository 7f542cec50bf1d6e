// Package report holds what the benchmark programs have in common: counting of
// durations and of CPU time, the table that people read and the JSON that
// machines read.
//
// The JSON is one object:
//
//	{"env": {…},
//	 "rows": [{"work": "…", "ours": 18.2, "peer": "grpc-go", "theirs": 60.1, "unit": "µs",
//	           "ratio": 3.3, "goal": 2, "must": false, "ok": true,
//	           "ours_p99_us": …, "theirs_p99_us": …, "ours_cpu_us": …, "theirs_cpu_us": …,
//	           "samples": 5000, "note": "…"}]}
//
// ours and theirs are in unit: "µs" is the median time of an operation, "op/s"
// a rate; a program may have units of its own. ratio says how many times better
// ours is, whatever the unit; goal is the ratio to reach. CPU is user and system time of all processes that take
// part, per operation.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"text/tabwriter"
	"time"
)

// Units of a row.
const (
	Time = "µs"   // median time of an operation: less is better
	Rate = "op/s" // operations in a second: more is better
)

// Side is what was measured of one side of a comparison.
type Side struct {
	P50, P99 time.Duration
	CPU      time.Duration // per operation, of all processes that take part
	Rate     float64       // operations in a second
	Samples  int           // operations that were measured
	Err      error         // why there is nothing to show, or nil
}

// Row compares two on the same work.
type Row struct {
	Work   string  `json:"work"`
	Ours   float64 `json:"ours"`
	Peer   string  `json:"peer"`
	Theirs float64 `json:"theirs"`
	Unit   string  `json:"unit"`
	Ratio  float64 `json:"ratio"` // how many times better ours is; 0: not known
	Goal   float64 `json:"goal"`  // ratio to reach; 0: none
	Must   bool    `json:"must"`  // a missed goal fails the program
	OK     bool    `json:"ok"`    // ours was measured, and the goal reached where there is one

	OursP99   float64 `json:"ours_p99_us"`
	TheirsP99 float64 `json:"theirs_p99_us"`
	OursCPU   float64 `json:"ours_cpu_us"`
	TheirsCPU float64 `json:"theirs_cpu_us"`
	Samples   int     `json:"samples"` // of ours
	Note      string  `json:"note,omitempty"`
}

// Compare makes a row. Where the peer could not be measured, the row shows
// ours alone and misses no goal: it is not for us to fail then.
func Compare(work, unit string, ours Side, peer string, theirs Side, goal float64) Row {
	r := Row{
		Work: work, Peer: peer, Unit: unit, Goal: goal,
		OursP99: micros(ours.P99), TheirsP99: micros(theirs.P99),
		OursCPU: micros(ours.CPU), TheirsCPU: micros(theirs.CPU), Samples: ours.Samples,
	}
	if r.Ours, r.Theirs = micros(ours.P50), micros(theirs.P50); unit == Rate {
		r.Ours, r.Theirs = math.Round(ours.Rate), math.Round(theirs.Rate)
	}
	switch {
	case ours.Err != nil:
		r.Note = "ours: " + ours.Err.Error()
		return r
	case theirs.Err != nil:
		r.Note = peer + ": " + theirs.Err.Error()
	case unit == Rate && r.Theirs > 0:
		r.Ratio = r.Ours / r.Theirs
	case unit == Time && r.Ours > 0:
		r.Ratio = r.Theirs / r.Ours
	}
	r.OK = r.Ratio == 0 || r.Ratio >= goal
	r.Ratio = math.Round(r.Ratio*1000) / 1000
	return r
}

// micros is d to 10 ns.
func micros(d time.Duration) float64 { return float64(d/10) / 100 }

// Report is the outcome of a run.
type Report struct {
	Env  Env   `json:"env"`
	Rows []Row `json:"rows"`
}

// Add appends a row.
func (r *Report) Add(row Row) { r.Rows = append(r.Rows, row) }

// Must marks the rows of a work: a goal missed there fails the program. Only for
// margins so wide that no neighbour on the machine can eat them.
func (r *Report) Must(work string) {
	for i := range r.Rows {
		if r.Rows[i].Work == work {
			r.Rows[i].Must = true
		}
	}
}

// Failed reports whether a row that must reach its goal does not.
func (r *Report) Failed() bool {
	for _, row := range r.Rows {
		if row.Must && !row.OK {
			return true
		}
	}
	return false
}

// Table writes the report for people.
func (r *Report) Table(w io.Writer) error {
	if _, err := fmt.Fprintln(w, r.Env); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "work\tours\tp99\tCPU/op\tpeer\ttheirs\tp99\tCPU/op\tratio\tof CPU\tgoal")
	for _, x := range r.Rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.Work,
			amount(x.Ours, x.Unit), amount(x.OursP99, Time), amount(x.OursCPU, Time), x.Peer,
			amount(x.Theirs, x.Unit), amount(x.TheirsP99, Time), amount(x.TheirsCPU, Time),
			times(x.Ratio), times(quotient(x.TheirsCPU, x.OursCPU)), x.verdict())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, x := range r.Rows {
		if x.Note != "" {
			if _, err := fmt.Fprintf(w, "%s: %s\n", x.Work, x.Note); err != nil {
				return err
			}
		}
	}
	return nil
}

// WriteJSON writes the report to a file.
func (r *Report) WriteJSON(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func (r Row) verdict() string {
	var s string
	switch {
	case r.Goal == 0 && r.OK:
		return "-"
	case r.OK:
		s = times(r.Goal) + " ok"
	default:
		s = times(r.Goal) + " MISSED"
	}
	if r.Must {
		s += " (must)"
	}
	return s
}

// amount writes a value with three digits that matter.
func amount(v float64, unit string) string {
	switch {
	case v == 0:
		return "-"
	case unit == Rate && v >= 1000:
		return digits(v/1000) + " k/s"
	case unit == Rate:
		return digits(v) + " /s"
	case unit != Time:
		return digits(v) + " " + unit
	case v >= 1e6:
		return digits(v/1e6) + " s"
	case v >= 1e3:
		return digits(v/1e3) + " ms"
	}
	return digits(v) + " µs"
}

func times(v float64) string {
	if v == 0 {
		return "-"
	}
	return digits(v) + "x"
}

func quotient(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func digits(v float64) string {
	n := 2 - int(math.Floor(math.Log10(v)))
	return fmt.Sprintf("%.*f", min(max(n, 0), 2), v)
}
