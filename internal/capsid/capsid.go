// Package capsid starts programs as child processes, as far from the rest of
// the machine as the system allows, and ends them with everything that they
// started.
//
// On Linux, where user namespaces are to be had, a program gets a root of its
// own that holds nothing but /tmp, /proc and three devices, no network, no
// capabilities and process number 1: when it ends, all that it started ends,
// and when its node is killed, it is killed too. Where they are not to be had a
// keeper, a small process between node and program, does the ending, and
// nothing is hidden from the program. Elsewhere a process group has to do.
// [Proc.Enforced] and [Proc.NotEnforced] say what holds for each program.
//
// Both stages between node and program are the node's own executable, run
// again: main must call [Init] before anything else.
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

// Defaults of [Limits].
const (
	DefaultProcs   = 512
	DefaultFiles   = 1024
	DefaultScratch = 64 << 20
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

// Limits bound what a program uses. A zero field takes its default.
type Limits struct {
	Memory  int64 // bytes; a Go program is told to keep to it, and each process is refused much more; default: no limit
	Procs   int   // processes and threads at once; default [DefaultProcs]; in a sandbox only
	Files   int   // open descriptors of each process; default [DefaultFiles]
	Scratch int64 // bytes under /tmp, which are memory; default [DefaultScratch]; in a sandbox only
}

func (l Limits) withDefaults() Limits {
	if l.Procs == 0 {
		l.Procs = DefaultProcs
	}
	if l.Files == 0 {
		l.Files = DefaultFiles
	}
	if l.Scratch == 0 {
		l.Scratch = DefaultScratch
	}
	return l
}

// Spec says what to start.
type Spec struct {
	Path      string    // the program, an absolute path
	Args      []string  // arguments after the program's name
	Env       []string  // the whole environment, KEY=value; nothing is inherited
	Log       io.Writer // takes standard output and error, one Write at a time; nil discards them
	Limits    Limits
	Isolation Isolation
}

// Proc is a running program with all that it started.
type Proc interface {
	// Link leads to descriptor 3 of the program. Whoever called Start closes it.
	Link() membrane.Link
	// PID is the process that stands for the program: itself in a sandbox, its keeper otherwise.
	PID() int
	// Wait returns when the whole tree has ended and its output has been
	// written: nil for exit status 0, else an error such as "exit status 3" or
	// "signal: killed". Any number of callers may wait.
	Wait() error
	// Kill ends the whole tree at once. It does not wait, and is no error
	// after the end.
	Kill() error
	// Enforced and NotEnforced say in plain words what the program can and
	// cannot be kept from.
	Enforced() []string
	NotEnforced() []string
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
	dir    string
	thread thread

	probeOnce sync.Once
	probed    error // why there is no sandbox here; written by probeOnce

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
	if set := func(v string) bool { return strings.HasPrefix(v, "GOMEMLIMIT=") }; s.Limits.Memory > 0 && !slices.ContainsFunc(s.Env, set) {
		s.Env = append(slices.Clone(s.Env), fmt.Sprintf("GOMEMLIMIT=%d", s.Limits.Memory))
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
