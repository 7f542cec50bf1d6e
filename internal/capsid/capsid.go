// Package capsid starts programs as child processes, as far from the rest of
// the machine as the system allows, and ends them with everything that they
// started.
//
// On Linux, where user namespaces are to be had, a program gets a root of its
// own that holds nothing but its folders, /proc and three devices, no network,
// no capabilities, and a process 1 that tends it: when the program ends, all
// that it started ends, and when its node is killed, it is killed too. Landlock
// and a filter of system calls refuse the same things a second time. Where
// there are no namespaces they alone do, and a keeper, a small process between
// node and program, does the ending. Control groups hold the limits where the
// node may make some. Elsewhere a process group has to do.
// [Proc.Enforced] and [Proc.NotEnforced] say what holds for each program, and
// [Capsid.Probe] what this system has.
//
// The process between node and program is the node's own executable, run
// again: package stage sees to that by being imported here.
package capsid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cell.network/cell/internal/membrane"
)

// startTimeout is how long a program may take to come into being, where the
// context of Start sets no earlier deadline.
const startTimeout = 20 * time.Second

// ErrClosed is returned by Start after Close.
var ErrClosed = errors.New("capsid is closed")

// Isolation is how far apart a program is kept.
type Isolation uint8

const (
	Auto Isolation = iota // as far as this system allows
	None                  // not at all; it only ends with its node
)

// Spec says what to start.
type Spec struct {
	Path      string    // the program, an absolute path
	Args      []string  // arguments after the program's name
	Env       []string  // the whole environment, KEY=value; nothing is inherited
	Log       io.Writer // takes standard output and error, one Write at a time; nil discards them
	Limits    Limits
	Isolation Isolation
	Data      string // a folder that is the program's, at /cell/data in a sandbox; "": memory, in a sandbox only
	Binds     []Bind // what else of the machine it sees; outside of a sandbox as far as Landlock goes
	Loopback  bool   // a network of its own with 127.0.0.1 and nobody else, instead of none; in a sandbox only
}

// Bind shows a file or folder of the machine, an absolute path, at another
// absolute path of the sandbox.
type Bind struct {
	From, To string
	Write    bool // default: to read and execute only
}

// Proc is a running program with all that it started.
type Proc interface {
	// Link leads to descriptor 3 of the program. Whoever called Start closes it.
	Link() membrane.Link
	// PID is the process that stands for the program: the one between it and the node.
	PID() int
	// Wait returns when the whole tree has ended and its output has been
	// written: nil for exit status 0, else an error such as "exit status 3" or
	// "signal: killed". Any number of callers may wait.
	Wait() error
	// Terminate asks the program to end, by SIGTERM. It does not wait.
	Terminate() error
	// Kill ends the whole tree at once. It does not wait, and is no error
	// after the end.
	Kill() error
	// Enforced and NotEnforced say in plain words what the program can and
	// cannot be kept from.
	Enforced() []string
	NotEnforced() []string
	// Rung is what holds its limits.
	Rung() Rung
}

// Starter starts programs; [Capsid] does it with real processes.
type Starter interface {
	// Start returns when the program runs, or says why it does not. ctx bounds
	// the start, not the life, of the program.
	Start(ctx context.Context, s Spec) (Proc, error)
}

// Config of a [Capsid].
type Config struct {
	// StateDir is where running processes are recorded for [Capsid.Reap]; it is
	// made if need be. Empty: no records.
	StateDir string
}

// Capsid starts programs and knows those that run. It is safe for concurrent use.
type Capsid struct {
	dir     string
	thread  thread
	system  system
	without map[string]bool // guards to leave out, for tests: each attack must succeed without its own

	probeOnce sync.Once
	support   Support // written by probeOnce

	mu      sync.Mutex // guards what follows
	closed  bool
	running map[*proc]struct{}
	starts  sync.WaitGroup // Add under mu, not after closed
}

// New returns a Capsid. Close it to end what it started.
func New(c Config) *Capsid {
	return &Capsid{dir: c.StateDir, thread: newThread(), running: make(map[*proc]struct{})}
}

var _ Starter = (*Capsid)(nil)

// Start is as [Starter] has it.
func (c *Capsid) Start(ctx context.Context, s Spec) (Proc, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, ErrClosed
	}
	c.starts.Add(1)
	c.mu.Unlock()
	defer c.starts.Done()

	if err := checkProgram(s.Path); err != nil {
		return nil, err
	}
	s.Limits = s.Limits.withDefaults()
	for _, hint := range hints(s.Limits) {
		name, _, _ := strings.Cut(hint, "=")
		if !slices.ContainsFunc(s.Env, func(v string) bool { return strings.HasPrefix(v, name+"=") }) {
			s.Env = append(slices.Clone(s.Env), hint)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p, err := c.start(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Path, err)
	}
	c.mu.Lock()
	c.running[p] = struct{}{}
	c.mu.Unlock()
	go func() {
		<-p.done
		c.mu.Lock()
		delete(c.running, p)
		c.mu.Unlock()
	}()
	return p, nil
}

// checkProgram finds the mistakes that the kernel reports without a name.
func checkProgram(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("start program: %q is not an absolute path", path)
	}
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("start %s: there is no such file", path)
	case err != nil:
		return fmt.Errorf("start %s: %w", path, err)
	case st.IsDir():
		return fmt.Errorf("start %s: it is a folder, not a program", path)
	case !st.Mode().IsRegular():
		return fmt.Errorf("start %s: it is not a regular file", path)
	case st.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("start %s: it is not executable (mode %04o)", path, st.Mode().Perm())
	}
	return nil
}

// Close kills every program that still runs, waits for their end and lets go
// of the rest. Links stay with their owners. It is idempotent.
func (c *Capsid) Close() error {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	c.mu.Unlock()
	c.starts.Wait()
	c.mu.Lock()
	ps := make([]*proc, 0, len(c.running))
	for p := range c.running {
		ps = append(ps, p)
	}
	c.mu.Unlock()
	var errs []error
	for _, p := range ps {
		errs = append(errs, p.Kill())
	}
	for _, p := range ps {
		<-p.done
	}
	if first {
		c.thread.stop()
	}
	return errors.Join(errs...)
}
