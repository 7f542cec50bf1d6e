package faults_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/node"
)

// secrets reads every key and certificate of a home.
func (s *site) secrets() map[string][]byte {
	s.t.Helper()
	all := make(map[string][]byte)
	err := filepath.WalkDir(s.home.Config, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		all[path], err = os.ReadFile(path)
		return err
	})
	if err != nil || len(all) < 5 {
		s.t.Fatalf("%d keys and certificates, %v", len(all), err)
	}
	return all
}

// journalFile is the newest file of the journal.
func (s *site) journalFile() string {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.journalDir(), "*.ndjson"))
	if err != nil || len(files) == 0 {
		s.t.Fatalf("no journal: %v", err)
	}
	return files[len(files)-1]
}

// ended waits until none of the processes runs, and fails the test otherwise.
func ended(t *testing.T, limit time.Duration, ps []process) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for _, p := range ps {
		for p.runs() {
			if time.Now().After(deadline) {
				t.Errorf("process %v still runs", p)
				_ = syscall.Kill(p.pid, syscall.SIGKILL)
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// A node that is killed loses no key, no certificate and no line of its
// journal, leaves no process behind, and starts again on the same home with the
// cells that it ran.
func TestKillNode(t *testing.T) {
	needsGo(t)
	killNode(t)
}

// The same where programs get no sandbox, as in a container that allows no
// namespaces: there a keeper ends them instead of the kernel.
func TestKillNodeWithoutSandbox(t *testing.T) {
	needsGo(t)
	if !inside(t, 0) {
		return
	}
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		t.Skipf("namespaces cannot be forbidden here: %v", err)
	}
	killNode(t)
}

// stubborn is a program that goes on when its node is gone: what serves is a
// child of it.
const stubborn = `package main

import (
	"os"
	"os/exec"
	"time"
)

func init() {
	if os.Getenv("CHILD") != "" {
		return
	}
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), "CHILD=1")
	c.ExtraFiles = []*os.File{os.NewFile(3, "link")}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		panic(err)
	}
	for {
		time.Sleep(time.Hour)
	}
}
`

func killNode(t *testing.T) {
	s := newSite(t)
	s.must("new", "greeter")
	for file, text := range map[string]string{
		"cmd/greeter/stubborn.go": stubborn,
		"Cell.toml":               "[cell]\nname = \"greeter\"\n[run]\ndrain = \"300ms\"\n",
	} {
		if err := os.WriteFile(filepath.Join(s.dir, "greeter", file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var told []journal.Event // whatever anybody has been told
	var before map[string][]byte
	for life := range 4 {
		d := s.up()
		if d.took > 5*time.Second {
			t.Errorf("life %d: up after %v", life, d.took)
		}
		now := s.events()
		for i, e := range told {
			if i >= len(now) || now[i].ID() != e.ID() || now[i].Text != e.Text || now[i].Time != e.Time {
				t.Fatalf("life %d: event %d was %+v, is %+v", life, i, e, now[min(i, len(now)-1)])
			}
		}
		for i, e := range now {
			if e.Seq != uint64(i)+1 {
				t.Fatalf("life %d: event %d has number %d", life, i, e.Seq)
			}
		}
		cut := s.events(journal.Cut)
		if len(cut) != life {
			t.Errorf("life %d: %d events of torn lines: %+v", life, len(cut), cut)
		}
		for i, e := range cut {
			if want := fmt.Sprintf("cut %d bytes", i+1); !strings.Contains(e.Text, want) {
				t.Errorf("life %d: %q, want %q", life, e.Text, want)
			}
		}
		if after := s.secrets(); before == nil {
			before = after
		} else {
			for path, b := range after {
				if !bytes.Equal(before[path], b) {
					t.Errorf("life %d: %s has changed", life, path)
				}
			}
			if len(after) != len(before) {
				t.Errorf("life %d: %d keys and certificates, %d before", life, len(after), len(before))
			}
		}

		r := s.greeter()
		s.greet("greeter/hello")
		s.greeter() // drains the first one; the second is what is left
		if p, _, gone := stat(r.PID); !gone && p.runs() {
			t.Errorf("life %d: the replaced replica runs", life)
		}
		tree := descendants(t, d.cmd.Process.Pid)
		if len(tree) == 0 {
			t.Fatal("a node with a replica has no processes")
		}
		told = s.events()
		d.kill()
		ended(t, 5*time.Second, tree)

		// A death in the middle of a line: cut the file where the next would be.
		f, err := os.OpenFile(s.journalFile(), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf(`{"node":%q,"seq":`, told[0].Node)
		if _, err := f.WriteString(line[:life+1]); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if _, err := os.Stat(s.home.Socket()); err != nil {
			t.Errorf("a killed node leaves its socket: %v", err)
		}
		s.cell("ps").wants(t, node.ExitNotRunning, "not running", "cell up")
		if n := len(s.events()); n < len(told) {
			t.Errorf("life %d: %d events without a node, %d with one", life, n, len(told))
		}
		offline := s.must("events", "--json")
		if n := strings.Count(offline.stdout, "\n"); n < len(told) {
			t.Errorf("life %d: cell events without a node shows %d events of %d", life, n, len(told))
		}
	}
	s.up() // and it goes on, with what it ran
	eventually(t, 15*time.Second, "the greeter answers unasked", func() bool {
		return strings.Contains(s.cell("call", "greeter/hello", `{"Name":"Ada"}`).stdout, `"hello Ada"`)
	})
}

// A node killed as often as it starts, at any moment of it, comes up the next
// time with the same keys.
func TestKillNodeWhileItStarts(t *testing.T) {
	s := newSite(t)
	var keys string
	for i := range 24 {
		c := s.begin("up", "--json")
		time.Sleep(time.Duration(i) * 4 * time.Millisecond) // a fault comes when it likes
		_ = c.Process.Kill()
		_ = c.Wait()
		if r, err := node.LoadKeys(s.home); err == nil && !r.Author.IsZero() && !r.Colony.IsZero() {
			now := r.Node.Public().String() + r.Author.Public().String() + r.Colony.Public().String()
			if keys != "" && now != keys {
				t.Fatalf("start %d: other keys", i)
			}
			keys = now
		} else if keys != "" {
			t.Fatalf("start %d: keys were lost: %v", i, err)
		}
	}
	d := s.up()
	for i, e := range s.events() {
		if e.Seq != uint64(i)+1 || e.Node != d.status.Node.String() {
			t.Fatalf("event %d: %+v", i, e)
		}
	}
	if refused := s.events(journal.Refuse); len(refused) > 0 {
		t.Errorf("a certificate was torn: %+v", refused)
	}
	for _, dir := range []string{s.home.Config, filepath.Join(s.home.Config, "certs", string(s.net))} {
		if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 24 {
			t.Errorf("%d unfinished files in %s", len(left), dir)
		}
	}
}

// A node that is killed while it builds leaves neither the compiler running nor
// half a program behind, and builds it the next time.
func TestKillNodeWhileItBuilds(t *testing.T) {
	needsGo(t)
	s := newSite(t)
	s.must("new", "greeter")
	for attempt := range 2 { // with a cache of its own, so that there is much to compile
		d := s.up()
		run := s.begin("run", "greeter")
		var compilers []process
		eventually(t, 20*time.Second, "a compiler", func() bool {
			compilers = descendants(t, d.cmd.Process.Pid)
			for _, p := range compilers {
				if strings.Contains(p.String(), "compile") {
					return true
				}
			}
			return false
		})
		d.kill()
		if err := run.Wait(); run.ProcessState.ExitCode() != node.ExitNotRunning {
			t.Errorf("attempt %d: cell run ended with %v", attempt, err)
		}
		ended(t, 5*time.Second, compilers)
	}
	d := s.up()
	for _, dir := range []string{filepath.Join(s.home.Cache, "build", "tmp"), s.dir} {
		left, _ := filepath.Glob(filepath.Join(dir, "*build*"))
		if len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	if done, _ := filepath.Glob(filepath.Join(s.home.Cache, "build", "bin", "*")); len(done) > 0 {
		t.Errorf("half a build counts as one: %v", done)
	}
	s.must("run", "greeter")
	s.greet("greeter/hello")
	d.alive()
}
