package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCompare(t *testing.T) {
	fast := Side{P50: 20 * time.Microsecond, P99: time.Millisecond, CPU: 30 * time.Microsecond, Rate: 1000, Samples: 7}
	slow := Side{P50: 50 * time.Microsecond, P99: 2 * time.Millisecond, CPU: 60 * time.Microsecond, Rate: 250, Samples: 3}
	gone := Side{Err: errors.New("not there")}
	for _, x := range []struct {
		name         string
		unit         string
		ours, theirs Side
		goal         float64
		ratio        float64
		ok           bool
		note         string
	}{
		{"faster", Time, fast, slow, 2, 2.5, true, ""},
		{"faster, not enough", Time, fast, slow, 3, 2.5, false, ""},
		{"slower", Time, slow, fast, 1, 0.4, false, ""},
		{"slower, no goal", Time, slow, fast, 0, 0.4, true, ""},
		{"more", Rate, fast, slow, 4, 4, true, ""},
		{"fewer", Rate, slow, fast, 1, 0.25, false, ""},
		{"peer absent", Time, fast, gone, 2, 0, true, "peer: not there"},
		{"ours absent", Rate, gone, slow, 2, 0, false, "ours: not there"},
		{"ours absent, no goal", Rate, gone, slow, 0, 0, false, "ours: not there"},
	} {
		r := Compare("work", x.unit, x.ours, "peer", x.theirs, x.goal)
		if r.Ratio != x.ratio || r.OK != x.ok || r.Note != x.note {
			t.Errorf("%s: ratio %v, ok %v, note %q; want %v, %v, %q", x.name, r.Ratio, r.OK, r.Note, x.ratio, x.ok, x.note)
		}
	}
	r := Compare("work", Rate, fast, "peer", slow, 0)
	if r.Ours != 1000 || r.Theirs != 250 || r.OursP99 != 1000 || r.TheirsCPU != 60 || r.Samples != 7 {
		t.Errorf("figures are mixed up: %+v", r)
	}
}

func TestFailed(t *testing.T) {
	var r Report
	r.Add(Row{Work: "a", OK: false})
	r.Add(Row{Work: "b", OK: true})
	r.Must("b")
	if r.Failed() {
		t.Error("failed by a row that need not reach its goal")
	}
	r.Must("a")
	if !r.Failed() {
		t.Error("not failed by a row that must reach its goal")
	}
}

func TestTable(t *testing.T) {
	var r Report
	fast, slow := Side{P50: 1500 * time.Nanosecond, Rate: 123456, Samples: 1}, Side{P50: 15 * time.Millisecond, Rate: 99, Samples: 1}
	r.Add(Compare("one", Time, fast, "peer", slow, 2))
	r.Add(Compare("many", Rate, slow, "peer", fast, 2))
	r.Add(Compare("alone", Time, fast, "peer", Side{Err: errors.New("not there")}, 0))
	r.Must("many")
	var b bytes.Buffer
	if err := r.Table(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1.50 µs", "15.0 ms", "10000x", "2.00x ok", "99.0 /s", "123 k/s", "2.00x MISSED (must)", "alone: peer: not there"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestJSON(t *testing.T) {
	r := Report{Env: Start(7, true)}
	r.Env.End()
	r.Add(Compare("work", Time, Side{P50: time.Millisecond}, "peer", Side{P50: 2 * time.Millisecond}, 1))
	path := filepath.Join(t.TempDir(), "x.json")
	if err := r.WriteJSON(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Env  map[string]any
		Rows []map[string]any
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"work", "ours", "peer", "theirs", "unit", "ratio", "goal", "must", "ok"} {
		if _, ok := got.Rows[0][k]; !ok {
			t.Errorf("no %q in %s", k, b)
		}
	}
	if got.Env["seed"] != 7.0 || got.Rows[0]["ratio"] != 2.0 {
		t.Errorf("wrong values in %s", b)
	}
}

func TestHistogram(t *testing.T) {
	var a, b Histogram
	if a.Quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
	var all []time.Duration
	for i, v := 0, time.Duration(1); v < time.Hour; i, v = i+1, v+v/7+1 {
		h := &a
		if i%2 == 1 {
			h = &b
		}
		h.Add(v)
		all = append(all, v)
	}
	a.Merge(&b)
	if a.Count() != len(all) {
		t.Fatalf("counted %d of %d", a.Count(), len(all))
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.1, 0.5, 0.9, 0.99, 1} {
		want := all[min(int(q*float64(len(all))), len(all)-1)]
		if got := a.Quantile(q); (got - want).Abs() > want/100 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	a.Add(-1)
	a.Add(1<<63 - 1) // neither may panic
	if a.Quantile(0) != 0 {
		t.Error("a negative duration is not counted as zero")
	}
}

func TestBucketsAreInOrder(t *testing.T) {
	last := -1
	for v := uint64(0); v < 1<<20; v++ {
		i := bucket(v)
		if i != last && i != last+1 {
			t.Fatalf("%d is in bucket %d after %d", v, i, last)
		}
		last = i
	}
	if i := bucket(1<<64 - 1); i != buckets-1 {
		t.Errorf("the greatest value is in bucket %d of %d", i, buckets)
	}
}

func TestBusy(t *testing.T) {
	for line, want := range map[string]time.Duration{
		"cpu  1 2 3 1000 1000 4 5 6 0 0": 210 * time.Millisecond,
		"cpu  1 2 3":                     0,
		"intr 1 2 3 4 5 6 7 8 9":         0,
		"cpu  1 2 x 4 5 6 7 8":           0,
		"":                               0,
	} {
		if got := busy(line); got != want {
			t.Errorf("%q is %v, want %v", line, got, want)
		}
	}
}

func TestCPU(t *testing.T) {
	before := CPU()
	for begin := time.Now(); CPU()-before < 5*time.Millisecond; {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("work uses no CPU time")
		}
	}
}
