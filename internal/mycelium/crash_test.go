package mycelium

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"cell.network/cell/internal/record"
)

// In a process that is to be killed while it installs: the store's folder, and
// the step after which it dies.
const (
	crashDir  = "CELL_TEST_CRASH_DIR"
	crashStep = "CELL_TEST_CRASH_STEP"
)

// crashSpore is the second release, which the child finds beside the store.
func crashSpore(dir string) string { return dir + ".spore" }

// installSecond installs the release that lies beside the store in dir.
func installSecond(s *Store) (Release, error) {
	raw, err := os.ReadFile(crashSpore(s.conf.Dir))
	if err != nil {
		return Release{}, err
	}
	r, err := s.check(parcel{Spore: raw}, greeter, "")
	if err != nil {
		return Release{}, err
	}
	f := fetch{store: s, cell: greeter, report: func(Step) {}}
	return f.copy(context.Background(), r, "test", func(dir string) error {
		e, _ := second()
		return receive(bytes.NewReader(e.pack()), r.Spore, s.conf.Limits, dir)
	})
}

// second is another release than small.
func second() (*evil, objectID) {
	e := &evil{}
	return e, e.commit(e.tree(line(modeFile, "go.mod", e.blob("module second\n"))))
}

func crashChild(dir string) {
	go func() { time.Sleep(time.Minute); os.Exit(3) }() // not for ever, should the parent die
	s, err := New(Config{Dir: dir, Network: lab})
	if err == nil {
		s.step = func(at string) {
			fmt.Println(at)
			if at == os.Getenv(crashStep) {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
		_, err = installSecond(s)
	}
	fmt.Println("end:", err)
	os.Exit(0)
}

// TestKilled kills a process after every step of an install: the release before
// stays in use, the new one is there wholly or not at all, what has been seen is
// not forgotten, and trying again works.
func TestKilled(t *testing.T) {
	e, commit := small()
	files := []file{smallFiles()[2]}
	files[0].size, files[0].sum = int64(len("module second\n")), sum256("module second\n")
	_, commit2 := second()
	first := signed(t, commit, smallFiles(), nil)
	next := signed(t, commit2, files, func(s *record.Spore) { s.Seq, s.Version, s.Prev = 2, "2.0.0", first.Hash() })
	for _, step := range []string{"verified", "synced", "tree", "pack", "repository", "release", "head", "none"} {
		t.Run(step, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			if err := os.WriteFile(crashSpore(dir), next.Raw, 0o644); err != nil {
				t.Fatal(err)
			}
			s := newStore(t, Config{Dir: dir})
			f := fetch{store: s, cell: greeter, report: func(Step) {}}
			if _, err := f.copy(t.Context(), Release{Spore: first}, "test", func(dir string) error {
				return receive(bytes.NewReader(e.pack()), first, s.conf.Limits, dir)
			}); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), crashDir+"="+dir, crashStep+"="+step)
			out, err := cmd.CombinedOutput()
			var x *exec.ExitError
			killed := errors.As(err, &x) && x.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
			if killed != (step != "none") || !killed && !bytes.Contains(out, []byte("end: <nil>")) {
				t.Fatalf("the child ended with %v: %s", err, out)
			}

			s = newStore(t, Config{Dir: dir})
			if left, _ := os.ReadDir(s.tmpDir()); len(left) != 0 {
				t.Errorf("%d folders are left in quarantine", len(left))
			}
			if r, err := s.Open(greeter, "1.0.0"); err != nil || r.Spore.Hash() != first.Hash() {
				t.Errorf("the release before: %v", err)
			}
			done := step == "release" || step == "head" || step == "none"
			r, err := s.Open(greeter, "2.0.0")
			if done != (err == nil) {
				t.Errorf("the new release: %v", err)
			}
			want := first
			if done {
				want = next
			}
			if h, ok := s.Head(greeter); !ok || h.Hash() != want.Hash() {
				t.Errorf("the head is %d, want %d", h.Seq, want.Seq)
			}
			if r, err = installSecond(s); err != nil || r.Spore.Hash() != next.Hash() {
				t.Fatalf("trying again: %v", err)
			}
			if r, err = s.Open(greeter, ""); err != nil || r.Spore.Seq != 2 {
				t.Errorf("after trying again: %v", err)
			}
			if _, err := exec.LookPath("git"); err == nil {
				gitIn(t, s.repoDir(greeter), nil, "fsck", "--full")
			}
		})
	}
}

// A disk that is full, or anything else that fails on the way, leaves no trace.
func TestInstallFails(t *testing.T) {
	e, commit := small()
	s := newStore(t, Config{})
	r, err := s.check(parcel{Spore: signed(t, commit, smallFiles(), nil).Raw}, greeter, "")
	if err != nil {
		t.Fatal(err)
	}
	blocker := s.cellDir(greeter) // a file where a folder should be
	write(t, blocker, "")
	f := fetch{store: s, cell: greeter, report: func(Step) {}}
	get := func(dir string) error { return receive(bytes.NewReader(e.pack()), r.Spore, s.conf.Limits, dir) }
	if _, err := f.copy(t.Context(), r, "test", get); err == nil {
		t.Fatal("installed over a file")
	}
	if len(s.Releases()) != 0 {
		t.Error("a release that is not there is listed")
	}
	if _, ok := s.Head(greeter); ok {
		t.Error("the head rose")
	}
	if err := os.Remove(blocker); err != nil {
		t.Fatal(err)
	}
	if _, err := f.copy(t.Context(), r, "test", get); err != nil {
		t.Error("once there is room:", err)
	}
}
