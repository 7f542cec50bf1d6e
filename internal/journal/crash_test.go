//go:build unix

package journal

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// childDir is set in a process that writes a journal until it is killed.
const childDir = "CELL_TEST_JOURNAL"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
	}
	os.Exit(m.Run())
}

// halfWriter writes half of the line that says so, reports that, and hangs.
type halfWriter struct{ *os.File }

func (w halfWriter) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "half of this") {
		n, err := w.File.Write(p[:len(p)/2])
		fmt.Println("half", n, err)
		select {}
	}
	return w.File.Write(p)
}

// child prints the id of each event that it has appended.
func child(dir string) {
	half := os.Getenv(childDir+"_HALF") != ""
	go func() { time.Sleep(time.Minute); os.Exit(3) }() // not for ever, should the parent die
	j, err := open(dir, node, Options{MaxFile: 200_000, MaxFiles: 100}, func(path string) (file, error) {
		f, err := openFile(path)
		if err != nil {
			return nil, err
		}
		return halfWriter{f.(*os.File)}, nil
	})
	for i := 0; err == nil; i++ {
		text := strings.Repeat("x", i%MaxText)
		if half && i == 20 {
			text = "half of this"
		}
		var id string
		if id, err = j.Append(Spawn, "", "", text, map[string]any{"pad": strings.Repeat("y", i*37%12_000)}); err == nil {
			fmt.Println(id)
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

// TestKilled kills a process while it writes: each event whose id it said is
// there afterwards, at most the torn line is gone, and the numbering goes on.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	var seq uint64
	cuts := 0
	for round := range 6 {
		half := round%2 == 1
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		if half {
			cmd.Env = append(cmd.Env, childDir+"_HALF=1")
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := uint64(0)
		kill := 50 + rand.N(200)
		in := bufio.NewScanner(out)
		for n := 0; in.Scan(); n++ {
			if _, err := fmt.Sscanf(in.Text(), node[len(node)-6:]+"-%d", &said); err != nil && !strings.HasPrefix(in.Text(), "half") {
				t.Fatal("child says:", in.Text())
			}
			if strings.HasPrefix(in.Text(), "half") || !half && n == kill {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait()

		j := openJournal(t, dir, Options{MaxFile: 200_000, MaxFiles: 100})
		want := seq + 1
		var cut bool
		j.Close()
		for e := range j.Follow(t.Context(), seq) {
			if e.Seq != want {
				t.Fatalf("round %d: event %d (%s) where %d should be", round, e.Seq, e.Kind, want)
			}
			want++
			cut = e.Kind == Cut
		}
		if cut {
			cuts++
		}
		seq = want - 1
		events := seq
		if cut {
			events--
		}
		if events < said || half && (events != said || !cut) {
			t.Fatalf("round %d: %d events are left (cut: %v), the process had said %d", round, events, cut, said)
		}
		if _, torn := readAll(t, dir); torn != 0 {
			t.Fatalf("round %d: %d torn lines are left", round, torn)
		}
	}
	if cuts < 3 {
		t.Errorf("%d lines were cut, want at least 3", cuts)
	}
}
