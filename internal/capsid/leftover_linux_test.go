package capsid

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"cell.network/cell/internal/capsid/stage"
)

func TestReap(t *testing.T) {
	state := t.TempDir()
	run := func() *exec.Cmd {
		cmd := exec.Command(victimPath(t), "silent")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	c := New(Config{StateDir: state})
	defer c.Close()
	record := func(cmd *exec.Cmd, kept bool, change func(*running)) {
		t.Helper()
		if _, err := c.remember(cmd.Process.Pid, cmd.Path, kept, nil); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(state, strconv.Itoa(cmd.Process.Pid))
		r, err := readRecord(file)
		if err != nil || r.PID == 0 {
			t.Fatal(r, err)
		}
		if change != nil {
			change(&r)
			b, _ := json.Marshal(r)
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	left, kept, stranger, before := run(), run(), run(), run()
	record(left, false, nil)
	record(kept, true, nil)
	record(stranger, false, func(r *running) { r.Start++ }) // the number was given to somebody else
	record(before, false, func(r *running) { r.Boot = "another" })
	if err := os.WriteFile(filepath.Join(state, "12"), []byte(`{"pid":`), 0o600); err != nil { // torn
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(state, "note"), []byte("not ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := c.Reap()
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b Leftover) int { return a.PID - b.PID })
	want := []Leftover{{left.Process.Pid, left.Path}, {kept.Process.Pid, kept.Path}}
	slices.SortFunc(want, func(a, b Leftover) int { return a.PID - b.PID })
	if !slices.Equal(got, want) {
		t.Errorf("reaped %v, want %v", got, want)
	}
	for _, cmd := range []*exec.Cmd{stranger, before} {
		if st, err := stage.ReadStat(cmd.Process.Pid); err != nil || st.Zombie {
			t.Error("killed a stranger")
		}
	}
	if es, _ := os.ReadDir(state); len(es) != 1 || es[0].Name() != "note" {
		t.Errorf("left in %s: %v", state, es)
	}
}
