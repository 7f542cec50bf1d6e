package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const node = "z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"

func openJournal(t *testing.T, dir string, o Options) *Journal {
	t.Helper()
	j, err := Open(dir, node, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func appendText(t *testing.T, j *Journal, text string) string {
	t.Helper()
	id, err := j.Append(Spawn, "", "", text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// readAll returns the events of a folder and how many lines were torn.
func readAll(t *testing.T, dir string) (events []Event, torn int) {
	t.Helper()
	for e, err := range Read(dir) {
		switch {
		case errors.Is(err, ErrTorn):
			torn++
		case err != nil:
			t.Fatal(err)
		default:
			events = append(events, e)
		}
	}
	return events, torn
}

func size(t *testing.T, dir string) (files int, bytes int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		bytes += info.Size()
	}
	return len(entries), bytes
}

func TestAppendThenRead(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, dir, Options{})
	first, err := j.Append(Discover, "", "greeter@z6Mk", "looked for <greeter> & found it", map[string]any{"took_ms": 3})
	if err != nil || first != node[len(node)-6:]+"-1" {
		t.Fatal(first, err)
	}
	if _, err := j.Append(Spawn, first, "", "", nil); err != nil {
		t.Fatal(err)
	}
	events, torn := readAll(t, dir)
	if len(events) != 2 || torn != 0 {
		t.Fatal(events, torn)
	}
	e := events[0]
	if e.ID() != first || e.Node != node || e.Kind != Discover || e.Cell != "greeter@z6Mk" || e.Text != "looked for <greeter> & found it" || e.Data["took_ms"] != 3.0 {
		t.Errorf("got %+v", e)
	}
	if events[1].Cause != first || events[1].Time <= e.Time {
		t.Errorf("got %+v after %+v", events[1], e)
	}
	info, err := os.Stat(filepath.Join(dir, fileName(1)))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
}

func TestAppendRefuses(t *testing.T) {
	j := openJournal(t, t.TempDir(), Options{})
	if _, err := j.Append("dance", "", "", "", nil); !errors.Is(err, ErrKind) {
		t.Error("unregistered kind:", err)
	}
	if _, err := j.Append(Spawn, "", "", "", map[string]any{"x": strings.Repeat("y", MaxLine)}); !errors.Is(err, ErrLong) {
		t.Error("long data:", err)
	}
	if _, err := j.Append(Spawn, "", "", "", map[string]any{"x": make(chan int)}); err == nil {
		t.Error("data that has no JSON form was accepted")
	}
	if id := appendText(t, j, strings.Repeat("é", MaxText)); !strings.HasSuffix(id, "-1") {
		t.Error("refused events took a number:", id)
	}
	e, err := j.Wait(t.Context(), func(Event) bool { return true })
	if err != nil || len(e.Text) > MaxText || !strings.HasSuffix(e.Text, "é…") {
		t.Errorf("%d bytes of text, %v", len(e.Text), err)
	}
	j.Close()
	if _, err := j.Append(Spawn, "", "", "", nil); !errors.Is(err, ErrClosed) {
		t.Error("after Close:", err)
	}
	if _, err := Open(t.TempDir(), node, Options{MaxFiles: 1}); err == nil {
		t.Error("one file was accepted")
	}
}

func TestOpenContinues(t *testing.T) {
	whole := func(seq uint64) string {
		b, _ := Event{Node: node, Seq: seq, Time: Stamp{Wall: int64(seq)}.String(), Kind: Spawn}.line()
		return string(b)
	}
	for _, c := range []struct {
		name  string
		files map[uint64]string
		seq   uint64 // of the last event found
		cut   int    // bytes
	}{
		{"nothing", nil, 0, 0},
		{"two events", map[uint64]string{1: whole(1) + whole(2)}, 2, 0},
		{"torn line", map[uint64]string{1: whole(1) + whole(2)[:40]}, 1, 40},
		{"whole but for the newline", map[uint64]string{1: whole(1) + strings.TrimSpace(whole(2))}, 1, len(whole(2)) - 1},
		{"only a torn line", map[uint64]string{1: `{"node"`}, 0, 7},
		{"zeros after a power cut", map[uint64]string{1: whole(1) + strings.Repeat("\x00", 5000)}, 1, 5000},
		{"damaged last lines", map[uint64]string{1: whole(1) + "x\n" + "{}\n"}, 1, 5},
		{"damage in the middle stays", map[uint64]string{1: whole(1) + "x\n" + whole(3)}, 3, 0},
		{"empty last file", map[uint64]string{1: whole(1), 2: ""}, 1, 0},
		{"torn last file", map[uint64]string{1: whole(1), 2: "{"}, 1, 1},
		{"lost file", map[uint64]string{9: ""}, 8, 0},
		{"last file too large", map[uint64]string{1: whole(1) + strings.Repeat("z\n", 4000) + whole(7)}, 7, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for first, text := range c.files {
				if err := os.WriteFile(filepath.Join(dir, fileName(first)), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			j := openJournal(t, dir, Options{MaxFile: 4096})
			want := c.seq
			if c.cut > 0 {
				want++
				e, err := j.Wait(t.Context(), func(e Event) bool { return e.Seq == want })
				if err != nil || e.Kind != Cut || e.Data["bytes"] != float64(c.cut) {
					t.Errorf("cut reported as %+v, %v", e, err)
				}
			}
			if j.Last() != want {
				t.Errorf("last is %d, want %d", j.Last(), want)
			}
			appendText(t, j, "new")
			events, _ := readAll(t, dir)
			if last := events[len(events)-1]; last.Seq != want+1 || last.Text != "new" {
				t.Errorf("last event is %+v", last)
			}
		})
	}
}

func TestRotationBoundsDisk(t *testing.T) {
	dir := t.TempDir()
	o := Options{MaxFile: 2000, MaxFiles: 3}
	for range 3 { // reopening must not break the bound
		j := openJournal(t, dir, o)
		for range 100 {
			appendText(t, j, strings.Repeat("x", 150))
			if files, bytes := size(t, dir); files > o.MaxFiles || bytes > o.MaxFile*int64(o.MaxFiles) {
				t.Fatalf("%d files of %d bytes", files, bytes)
			}
		}
		j.Close()
	}
	events, torn := readAll(t, dir)
	if torn != 0 || len(events) < 12 || events[len(events)-1].Seq != 300 {
		t.Fatalf("%d events, %d torn", len(events), torn)
	}
	for i, e := range events[1:] {
		if e.Seq != events[i].Seq+1 {
			t.Fatalf("event %d after %d", e.Seq, events[i].Seq)
		}
	}
}

func TestConcurrentAppends(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, dir, Options{MaxFile: 20_000, MaxFiles: 50})
	const writers, each = 8, 200
	var done sync.WaitGroup
	for w := range writers {
		done.Go(func() {
			for i := range each {
				if _, err := j.Append(Spawn, "", "", fmt.Sprintf("%d/%d", w, i), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var followed []Event
	for e := range j.Follow(t.Context(), 0) {
		if followed = append(followed, e); len(followed) == writers*each {
			break
		}
	}
	done.Wait()
	read, torn := readAll(t, dir)
	if torn != 0 || len(read) != writers*each {
		t.Fatalf("%d events, %d torn", len(read), torn)
	}
	next := [writers]int{}
	for i, e := range read {
		var w, n int
		if _, err := fmt.Sscanf(e.Text, "%d/%d", &w, &n); err != nil {
			t.Fatal(err)
		}
		if e.Seq != uint64(i+1) || i > 0 && e.Time <= read[i-1].Time || n != next[w] || followed[i].ID() != e.ID() {
			t.Fatalf("event %d is %+v, followed as %+v", i+1, e, followed[i])
		}
		next[w]++
	}
}

func TestFollowResumes(t *testing.T) {
	j := openJournal(t, t.TempDir(), Options{MaxFile: 1000, MaxFiles: 30})
	for range 50 {
		appendText(t, j, "history")
	}
	for _, after := range []uint64{0, 1, 7, 25, 49, 50} {
		live := fmt.Sprint("live after ", after)
		var appended sync.WaitGroup
		appended.Go(func() { appendText(t, j, live) })
		want := after + 1
		for e := range j.Follow(t.Context(), after) {
			if e.Seq != want {
				t.Fatalf("after %d: got %d, want %d", after, e.Seq, want)
			}
			if want++; e.Text == live {
				break
			}
		}
		appended.Wait()
	}
}

func TestFollowReportsGaps(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, dir, Options{MaxFile: 1000, MaxFiles: 2})
	appendText(t, j, "first")
	var got []Event
	for e := range j.Follow(t.Context(), 0) {
		if got = append(got, e); len(got) == 1 { // a consumer that sleeps through several rotations
			for range 60 {
				appendText(t, j, "more")
			}
			j.Close()
		}
	}
	seen := uint64(0)
	gaps := 0
	for _, e := range got {
		from := e.Seq
		if e.Kind == Gap {
			gaps++
			from = e.Data["from"].(uint64)
		}
		if from != seen+1 {
			t.Fatalf("event %d (%s) after %d", e.Seq, e.Kind, seen)
		}
		seen = e.Seq
	}
	if seen != 61 || gaps != 1 {
		t.Errorf("saw up to %d with %d gaps", seen, gaps)
	}
}

func TestFollowReportsDamage(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, dir, Options{})
	for range 4 {
		appendText(t, j, "x")
	}
	path := filepath.Join(dir, fileName(1))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2-20] = '\n' // within the second line
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	j.Close()
	var got []string
	for e := range j.Follow(t.Context(), 0) {
		got = append(got, fmt.Sprint(e.Seq, " ", e.Kind))
	}
	if want := []string{"1 spawn", "2 journal.gap", "3 spawn", "4 spawn"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if events, torn := readAll(t, dir); len(events) != 3 || torn != 2 {
		t.Errorf("read %d events, %d torn", len(events), torn)
	}
}

func TestFollowEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := openJournal(t, t.TempDir(), Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		for e := range j.Follow(ctx, 0) {
			t.Error("got", e)
		}
		if d := time.Since(start); d != time.Minute {
			t.Error("ended after", d)
		}
		go func() {
			time.Sleep(time.Hour)
			appendText(t, j, "late")
			j.Close()
		}()
		var got int
		for range j.Follow(t.Context(), 0) {
			got++
		}
		if got != 1 || time.Since(start) != time.Hour+time.Minute {
			t.Error(got, time.Since(start))
		}
	})
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := openJournal(t, t.TempDir(), Options{})
		go func() {
			time.Sleep(time.Second)
			appendText(t, j, "no")
			time.Sleep(time.Second)
			appendText(t, j, "yes")
		}()
		start := time.Now()
		e, err := j.Wait(t.Context(), func(e Event) bool { return e.Text == "yes" })
		if err != nil || e.Seq != 2 || time.Since(start) != 2*time.Second {
			t.Error(e, err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := j.Wait(ctx, func(Event) bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		j.Close()
		if _, err := j.Wait(t.Context(), func(Event) bool { return false }); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

// fullDisk stands for a file on a disk with room for some bytes more.
type fullDisk struct {
	*os.File
	room     *int
	truncate error // what Truncate answers while set
}

func (f *fullDisk) Write(p []byte) (int, error) {
	n := min(len(p), *f.room)
	*f.room -= n
	n, err := f.File.Write(p[:n])
	if n < len(p) && err == nil {
		err = &os.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
	}
	return n, err
}

func (f *fullDisk) Truncate(size int64) error {
	if f.truncate != nil {
		return f.truncate
	}
	return f.File.Truncate(size)
}

func TestFullDisk(t *testing.T) {
	for _, truncate := range []error{nil, syscall.EIO} {
		t.Run(fmt.Sprint("truncate answers ", truncate), func(t *testing.T) {
			dir, room := t.TempDir(), 1<<20
			var disk *fullDisk
			j, err := open(dir, node, Options{}, func(path string) (file, error) {
				f, err := openFile(path)
				if err != nil {
					return nil, err
				}
				disk = &fullDisk{File: f.(*os.File), room: &room}
				return disk, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			defer j.Close()
			appendText(t, j, "before")
			disk.truncate = truncate
			for _, room = range []int{0, 30, 1} {
				_, err := j.Append(Spawn, "", "", "no room", nil)
				if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, truncate) {
					t.Fatal(err)
				}
				if truncate == nil && !strings.Contains(err.Error(), "the disk that holds "+dir+" is full") {
					t.Error(err)
				}
			}
			room, disk.truncate = 1<<20, nil
			if id := appendText(t, j, "after"); !strings.HasSuffix(id, "-2") {
				t.Error("refused events took a number:", id)
			}
			events, torn := readAll(t, dir)
			if len(events) != 2 || torn != 0 || events[1].Text != "after" {
				t.Error(events, torn)
			}
		})
	}
}

func TestRotationFails(t *testing.T) {
	dir, fail := t.TempDir(), false
	j, err := open(dir, node, Options{MaxFile: 400, MaxFiles: 3}, func(path string) (file, error) {
		if fail {
			return nil, &os.PathError{Op: "open", Path: path, Err: syscall.ENOSPC}
		}
		return openFile(path)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for range 10 {
		appendText(t, j, "x")
	}
	fail = true
	for range 20 { // must not eat up the files that are left
		_, err = j.Append(Spawn, "", "", "x", nil)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	fail = false
	last := j.Last()
	appendText(t, j, "on")
	events, torn := readAll(t, dir)
	if torn != 0 || len(events) < 3 || events[len(events)-1].Seq != last+1 {
		t.Error(events, torn)
	}
}

func TestManyFollowersOfSlowJournal(t *testing.T) {
	j := openJournal(t, t.TempDir(), Options{MaxFile: 3000, MaxFiles: 40})
	const events = 300
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			want := uint64(1)
			for e := range j.Follow(t.Context(), 0) {
				if e.Seq != want {
					t.Errorf("got %d, want %d", e.Seq, want)
					return
				}
				want++
			}
			if want != events+1 {
				t.Errorf("ended before %d", want)
			}
		})
	}
	for range events {
		appendText(t, j, "x")
	}
	j.Close()
	all.Wait()
}
