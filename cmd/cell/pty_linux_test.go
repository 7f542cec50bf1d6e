package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/node"
	"golang.org/x/sys/unix"
)

// screen is a terminal on which a command runs.
type screen struct {
	t       *testing.T
	control *os.File
	cmd     *exec.Cmd

	mu   sync.Mutex
	text bytes.Buffer // guarded by mu: all that was printed
	news chan struct{}
}

// onTerminal starts cell on a terminal of 60 by 20 characters.
func onTerminal(t *testing.T, h home.Home, env string, args ...string) *screen {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { control.Close() })
	fd := int(control.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 20, Col: 60}); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	defer tty.Close()
	s := &screen{t: t, control: control, cmd: exec.Command("cell", args...), news: make(chan struct{}, 1)}
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = tty, tty, tty
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	s.cmd.Env = append(os.Environ(), "CELL_HOME="+filepath.Dir(h.Config), "NO_COLOR=", "TERM=xterm", "GORACE=atexit_sleep_ms=0", env)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cmd.Process.Kill(); s.cmd.Wait() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := control.Read(buf)
			s.mu.Lock()
			s.text.Write(buf[:n])
			s.mu.Unlock()
			select {
			case s.news <- struct{}{}:
			default:
			}
			if err != nil { // nobody has the terminal open any more
				close(s.news)
				return
			}
		}
	}()
	return s
}

// shows waits until a text has been printed n times.
func (s *screen) shows(text string, n int) {
	s.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		all := s.text.String()
		s.mu.Unlock()
		if strings.Count(all, text) >= n {
			return
		}
		select {
		case _, ok := <-s.news:
			if !ok && strings.Count(all, text) < n {
				s.t.Fatalf("ended without %q:\n%q", text, all)
			}
		case <-deadline:
			s.t.Fatalf("no %q in time:\n%q", text, all)
		}
	}
}

func (s *screen) types(text string) {
	s.t.Helper()
	if _, err := s.control.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// ends waits for the command and returns all that it printed.
func (s *screen) ends(code int) string {
	s.t.Helper()
	for range s.news {
	}
	s.cmd.Wait()
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("exit code %d, want %d", got, code)
	}
	return s.text.String()
}

func TestGrowAsksOnTerminal(t *testing.T) {
	h := aliceHome(t)
	s := onTerminal(t, h, "", "grow", "greeter")
	s.shows("[y/N] ", 1)
	s.types("\n")
	if out := s.ends(node.ExitRefused); !strings.Contains(out, "the author is not trusted") {
		t.Errorf("printed %q", out)
	}
	s = onTerminal(t, h, "", "grow", "greeter")
	s.shows("[y/N] ", 1)
	s.types("\x03")
	s.ends(node.ExitInterrupted)
	s = onTerminal(t, h, "", "grow", "greeter")
	s.shows("[y/N] ", 1)
	s.types("y\n")
	s.shows("or nothing: ", 1)
	s.types("alice\n")
	if out := s.ends(node.ExitOK); !strings.Contains(out, "greeter-1 greeter@z6Mk") {
		t.Errorf("printed %q", out)
	}
	if text, err := os.ReadFile(node.SettingsPath(h)); err != nil || !strings.Contains(string(text), "alice") {
		t.Errorf("settings: %s, %v", text, err)
	}
}

func TestTopOnTerminal(t *testing.T) {
	var mu sync.Mutex
	asked := 0
	h := fakeHome(t, func(_ home.Home, w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		asked++
		c := node.CellStatus{Cell: "greeter@" + alice.String(), Want: asked, Decision: strings.Repeat("long ", 50)}
		mu.Unlock()
		for range 30 {
			c.Replicas = append(c.Replicas, node.ReplicaLoad{Node: alice, State: node.ReplicaAlive})
		}
		json.NewEncoder(w).Encode(node.CellList{Cells: []node.CellStatus{c}})
	})
	s := onTerminal(t, h, "", "top")
	s.shows("0 live of 2", 1)
	s.shows("\x1b[?7h", 2) // drawn twice, to the end: Ctrl-C makes a terminal drop what it has not shown yet
	s.types("\x03")
	out := s.ends(node.ExitInterrupted)
	if strings.Count(out, "\x1b[2J") != 1 || strings.Count(out, "\x1b[H") != strings.Count(out, "\x1b[J") || !strings.Contains(out, bold) || !strings.Contains(out, "more lines") {
		t.Errorf("printed %q", out)
	}
	s = onTerminal(t, h, "NO_COLOR=1", "top")
	s.shows("\x1b[?7h", 1)
	s.types("\x03")
	if out := s.ends(node.ExitInterrupted); strings.Contains(out, bold) {
		t.Errorf("coloured: %q", out)
	}
	for _, once := range []*screen{onTerminal(t, h, "TERM=dumb", "top"), onTerminal(t, h, "", "top", "--once")} {
		once.shows("MEMORY", 1)
		if out := once.ends(node.ExitOK); strings.Contains(out, "\x1b") {
			t.Errorf("moves: %q", out)
		}
	}
}
