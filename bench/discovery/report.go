package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"text/tabwriter"
	"time"

	"cell.network/cell/bench/report"
)

// side is one side of a row as it is reported. Times are in milliseconds of
// virtual time, CPU in microseconds of real time.
type side struct {
	Samples int     `json:"samples"`
	Failed  int     `json:"failed,omitempty"`
	P50     float64 `json:"p50_ms"`
	P95     float64 `json:"p95_ms"`
	P99     float64 `json:"p99_ms"`
	Max     float64 `json:"max_ms"`
	RPCs    float64 `json:"rpcs,omitempty"`
	CPU     float64 `json:"cpu_us,omitempty"`
	Share   float64 `json:"share,omitempty"`
	Rate    float64 `json:"bytes_per_s,omitempty"`
	Note    string  `json:"note,omitempty"`
	Error   string  `json:"error,omitempty"` // why there is nothing to show
}

// line is one row as it is reported.
type line struct {
	Work   string `json:"work"`
	Ours   side   `json:"ours"`
	Peer   string `json:"peer,omitempty"`
	Theirs *side  `json:"theirs,omitempty"`
	Must   string `json:"must,omitempty"`
	Goal   string `json:"goal,omitempty"`
	Missed string `json:"missed,omitempty"` // of the goal
	Failed string `json:"failed,omitempty"` // of must

	row          row
	ours, theirs figure
}

// sceneCost is what it took to play a scene.
type sceneCost struct {
	Scene   string  `json:"scene"`
	Virtual float64 `json:"virtual_s"`
	Wall    float64 `json:"wall_s"`
	CPU     float64 `json:"cpu_s"`
	Memory  int64   `json:"memory_bytes"`
	Error   string  `json:"error,omitempty"`
}

// results are the outcome of a run.
type results struct {
	Env    report.Env  `json:"env"`
	Nodes  int         `json:"nodes"`
	Rows   []line      `json:"rows"`
	Scenes []sceneCost `json:"scenes"`
}

// measure plays the scenes that the wanted rows need and writes what came out.
// It reports whether a row that must hold does not.
func measure(ctx context.Context, s setup, only *regexp.Regexp, file string, out io.Writer) (failed bool, err error) {
	r := results{Env: report.Start(s.Seed, s.Short), Nodes: s.Nodes}
	played := make(map[string]outcome)
	figureOf := func(from source) (figure, string) {
		o, ok := played[from.scene]
		if !ok {
			fmt.Fprintf(os.Stderr, "%-32s ", from.scene)
			o = perform(ctx, from.scene, s)
			played[from.scene] = o
			fmt.Fprintf(os.Stderr, "%7.0f s virtual %6.0f s wall %6.0f s CPU %6d MB %s\n",
				o.Virtual.Seconds(), o.Wall.Seconds(), o.CPU.Seconds(), o.Memory>>20, o.Error)
			r.Scenes = append(r.Scenes, sceneCost{from.scene, o.Virtual.Seconds(), o.Wall.Seconds(), o.CPU.Seconds(), o.Memory, o.Error})
		}
		f, ok := o.Figures[from.figure]
		switch {
		case ok:
			return f, ""
		case o.Error != "":
			return f, o.Error
		}
		return f, "not measured"
	}
	for _, row := range rows {
		if !only.MatchString(row.name) {
			continue
		}
		if ctx.Err() != nil {
			return true, ctx.Err()
		}
		l := line{Work: row.name, Peer: row.peer, Must: row.must.String(), Goal: row.goal.String(), row: row}
		var why string
		l.ours, why = figureOf(row.ours)
		l.Ours = sideOf(l.ours, why)
		l.Failed, l.Missed = row.must.missed(l.ours), row.goal.missed(l.ours)
		if row.theirs.scene != "" {
			l.theirs, why = figureOf(row.theirs)
			theirs := sideOf(l.theirs, why)
			l.Theirs = &theirs
		}
		failed = failed || l.Failed != ""
		r.Rows = append(r.Rows, l)
	}
	r.Env.End()
	if err := r.table(out); err != nil {
		return failed, err
	}
	if file == "" {
		return failed, nil
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return failed, fmt.Errorf("encode report: %w", err)
	}
	if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
		return failed, fmt.Errorf("write report: %w", err)
	}
	return failed, nil
}

func sideOf(f figure, why string) side {
	ms := func(d time.Duration) float64 { return float64(d/time.Microsecond) / 1000 }
	return side{
		f.Samples, f.Failed, ms(f.P50), ms(f.P95), ms(f.P99), ms(f.Max), f.RPCs, float64(f.CPU) / 1000, f.Share, f.Rate, f.Note, why,
	}
}

// table writes the report for people.
func (r *results) table(w io.Writer) error {
	fmt.Fprintf(w, "%d nodes, %v\n", r.Nodes, r.Env)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "work\tours p50\tp99\tlast\tRPCs\tCPU/op\tpeer\ttheirs p50\tp99\tlast\tRPCs\tCPU/op\tmust\tgoal")
	for _, l := range r.Rows {
		theirs := "-\t-\t-\t-\t-"
		if l.Theirs != nil {
			theirs = columns(l.row.unit, l.theirs, l.Theirs.Error)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", l.Work, columns(l.row.unit, l.ours, l.Ours.Error), orDash(l.Peer), theirs,
			verdict(l.Must, l.Failed, "FAILED"), verdict(l.Goal, l.Missed, "MISSED"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, l := range r.Rows {
		for _, n := range []struct {
			who string
			f   figure
			err string
		}{{"ours", l.ours, l.Ours.Error}, {l.Peer, l.theirs, theirError(l)}} {
			if n.f.Failed > 0 && l.row.unit == seconds {
				fmt.Fprintf(w, "%s, %s: %d of %d failed\n", l.Work, n.who, n.f.Failed, n.f.Failed+n.f.Samples)
			}
			for _, text := range []string{n.f.Note, n.err} {
				if text != "" {
					fmt.Fprintf(w, "%s, %s: %s\n", l.Work, n.who, text)
				}
			}
		}
	}
	return nil
}

func theirError(l line) string {
	if l.Theirs == nil {
		return ""
	}
	return l.Theirs.Error
}

// columns are p50, p99, last, RPCs and CPU of one side.
func columns(u unit, f figure, why string) string {
	switch {
	case why != "":
		return "?\t-\t-\t-\t-"
	case u == share:
		return percent(f.Share) + "\t-\t-\t" + count(f.RPCs) + "\t" + cpu(f)
	case u == events:
		return fmt.Sprintf("%d\t-\t-\t-\t-", f.Failed)
	case u == traffic:
		return fmt.Sprintf("%.4g B/s\t-\t-\t-\t%s", f.Rate, cpu(f))
	case f.Samples == 0:
		return "never\t-\t-\t-\t-"
	}
	return fmt.Sprintf("%s\t%s\t%s\t%s\t%s", brief(f.P50), brief(f.P99), brief(f.Max), count(f.RPCs), cpu(f))
}

func count(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", v)
}

func cpu(f figure) string {
	if f.CPU == 0 {
		return "-"
	}
	return brief(f.CPU)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// verdict is a bound and whether it was reached.
func verdict(bound, missed, word string) string {
	switch {
	case bound == "":
		return "-"
	case missed == "":
		return bound + " ok"
	}
	return bound + " " + word + " (" + missed + ")"
}
