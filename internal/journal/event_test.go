package journal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestEventVectors(t *testing.T) {
	b, err := os.ReadFile("testdata/events.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	want := []Event{
		{Node: node, Seq: 1, Time: "2026-08-22T10:11:12.123456789Z_00000", Kind: NodeUp},
		{Node: node, Seq: 2, Time: "2026-08-22T10:11:12.123456789Z_00001", Kind: Spawn, Cause: "ta2doK-1",
			Cell: "greeter@" + node, Text: "started <replica> 1 … & more", Data: map[string]any{"pid": 4711.0, "args": []any{"a"}}},
		{Node: node, Seq: 18446744073709551615, Time: "1970-01-01T00:00:00.000000000Z_99999", Kind: "of.the.future"},
	}
	lines := bytes.SplitAfter(b, []byte("\n"))
	for i, w := range want {
		got, err := Parse(lines[i])
		if err != nil || !reflect.DeepEqual(got, w) {
			t.Errorf("line %d: got %+v, %v", i+1, got, err)
		}
		if line, err := w.line(); err != nil || !bytes.Equal(line, lines[i]) {
			t.Errorf("line %d: wrote %s, %v", i+1, line, err)
		}
	}
	if id := want[1].ID(); id != node[len(node)-6:]+"-2" {
		t.Error(id)
	}
	if id := (Event{Node: "a", Seq: 3}).ID(); id != "a-3" {
		t.Error(id)
	}
}

func TestParseRefuses(t *testing.T) {
	good := `{"node":"n","seq":1,"time":"2026-08-22T10:11:12.123456789Z_00000","kind":"spawn","more":[1]}`
	if _, err := Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"", "\n", "{}", "null", "[]", good[:50], good + good,
		strings.Replace(good, `"seq":1`, `"seq":0`, 1),
		strings.Replace(good, `"seq":1`, `"seq":-1`, 1),
		strings.Replace(good, `"n"`, `""`, 1),
		strings.Replace(good, "spawn", "", 1),
		strings.Replace(good, "_00000", "_0000", 1),
		strings.Replace(good, "Z_", "+_", 1),
		good + strings.Repeat(" ", MaxLine),
	} {
		if e, err := Parse([]byte(line)); !errors.Is(err, ErrTorn) {
			t.Errorf("%.60q: %+v, %v", line, e, err)
		}
	}
}

func TestStampText(t *testing.T) {
	for text, want := range map[string]Stamp{
		"1970-01-01T00:00:00.000000000Z_00000": {},
		"2026-08-22T10:11:12.000000001Z_00042": {Wall: time.Date(2026, 8, 22, 10, 11, 12, 1, time.UTC).UnixNano(), Count: 42},
		"1969-12-31T23:59:59.999999999Z_99999": {Wall: -1, Count: 99999},
	} {
		if got, err := ParseStamp(text); err != nil || got != want || got.String() != text {
			t.Errorf("%s: %+v, %s, %v", text, got, got, err)
		}
	}
	for _, text := range []string{
		"", "2026-08-22T10:11:12Z", "2026-08-22T10:11:12.123456789Z_0000x", "2026-08-22T10:11:12.123456789Z-00001",
		"9999-08-22T10:11:12.123456789Z_00001", "0001-01-01T00:00:00.000000000Z_00000", "2026-13-22T10:11:12.123456789Z_00001",
		"2026-08-22T10:11:12.12345678Z_000001", "2026-08-22T10:11:12.123456789Z_+0001", "2026-08-22T10:11:12,123456789Z_00001",
	} {
		if s, err := ParseStamp(text); !errors.Is(err, ErrStamp) {
			t.Errorf("%q: %+v, %v", text, s, err)
		}
	}
}

func TestClockNeverGoesBack(t *testing.T) {
	at := func(ns int64) time.Time { return time.Unix(0, ns) }
	var c clock
	var last string
	for i, wall := range []int64{100, 100, 100, 50, 101, 101, 7} {
		s := c.now(at(wall)).String()
		if s <= last {
			t.Errorf("step %d: %s after %s", i, s, last)
		}
		last = s
	}
	if c.last != (Stamp{Wall: 101, Count: 2}) {
		t.Error(c.last)
	}
	c.last = Stamp{Wall: 200, Count: maxCounter}
	if got := c.now(at(200)); got != (Stamp{Wall: 201}) {
		t.Error("full counter:", got)
	}
}

func TestObserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := openJournal(t, t.TempDir(), Options{}), openJournal(t, t.TempDir(), Options{})
		appendText(t, a, "cause")
		before := a.Now()
		appendText(t, b, "unrelated")
		if err := b.Observe(before); err != nil {
			t.Fatal(err)
		}
		appendText(t, b, "effect")
		e, err := b.Wait(t.Context(), func(e Event) bool { return e.Text == "effect" })
		if err != nil || e.Time <= before {
			t.Errorf("%s is not after %s (%v)", e.Time, before, err)
		}
		for ahead, ok := range map[time.Duration]bool{-time.Hour: true, MaxSkew: true, MaxSkew + 1: false} {
			err := b.Observe(Stamp{Wall: time.Now().Add(ahead).UnixNano()}.String())
			if ok != (err == nil) || !ok && !errors.Is(err, ErrStamp) {
				t.Errorf("%v ahead: %v", ahead, err)
			}
		}
		if err := b.Observe("yesterday"); !errors.Is(err, ErrStamp) {
			t.Error(err)
		}
	})
}

func TestClockSteppedBack(t *testing.T) {
	for ahead, stepped := range map[time.Duration]bool{time.Minute: false, time.Hour: true} {
		dir := t.TempDir()
		stamp := Stamp{Wall: time.Now().Add(ahead).UnixNano()}.String()
		line, _ := Event{Node: node, Seq: 1, Time: stamp, Kind: Spawn}.line()
		if err := os.WriteFile(filepath.Join(dir, fileName(1)), line, 0o600); err != nil {
			t.Fatal(err)
		}
		j := openJournal(t, dir, Options{})
		appendText(t, j, "x")
		events, _ := readAll(t, dir)
		last := events[len(events)-1]
		if (events[1].Kind == Clock) != stepped || (last.Time < stamp) != stepped {
			t.Errorf("%v ahead: %+v", ahead, events)
		}
	}
}

func TestKindsAreExplained(t *testing.T) {
	source, err := os.ReadFile("kinds.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), `Kind = "`); n != len(Kinds) || n != len(known) {
		t.Errorf("%d constants, %d explained, %d distinct", n, len(Kinds), len(known))
	}
	for _, k := range Kinds {
		if !strings.HasSuffix(k.Meaning, ".") || strings.Count(k.Meaning, ". ") > 0 {
			t.Errorf("%s: %q is not one sentence", k.Kind, k.Meaning)
		}
	}
}

func FuzzParse(f *testing.F) {
	b, err := os.ReadFile("testdata/events.ndjson")
	if err != nil {
		f.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		f.Add(line)
	}
	f.Add([]byte(`{"node":"n","seq":1,"time":"2000-01-01T00:00:00.000000000Z_00000","kind":"up","data":{}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := Parse(line)
		if err != nil {
			return
		}
		again, err := e.line()
		if err != nil {
			t.Fatal(err)
		}
		if len(again) > MaxLine { // escapes may be longer than what they stand for
			return
		}
		if back, err := Parse(again); err != nil || !reflect.DeepEqual(back, e) {
			t.Fatalf("%+v became %+v, %v", e, back, err)
		}
	})
}

// FuzzOpen recovers from whatever a crash may have left.
func FuzzOpen(f *testing.F) {
	b, err := os.ReadFile("testdata/events.ndjson")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:len(b)/2])
	f.Add([]byte("\n\n\x00{}\n"))
	f.Fuzz(func(t *testing.T, left []byte) {
		if bytes.Contains(left, []byte("18446744073709551615")) {
			return // the number after the last number
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName(1)), left, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Open(dir, node, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		id, err := j.Append(Spawn, "", "", "after", nil)
		if err != nil {
			t.Fatal(err)
		}
		var last Event
		for e, err := range Read(dir) {
			if last = e; err != nil && !errors.Is(err, ErrTorn) {
				t.Fatal(err)
			}
		}
		if last.ID() != id {
			t.Fatalf("last event is %+v, want %s", last, id)
		}
	})
}
