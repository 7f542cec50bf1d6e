package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/bench/report"
)

// setup is what all scenes of a run have in common.
type setup struct {
	Nodes int
	Short bool
	Seed  uint64
}

// pick returns the first where the run is short, else the second.
func pick[T any](s setup, short, full T) T {
	if s.Short {
		return short
	}
	return full
}

// outcome is what a scene has measured.
type outcome struct {
	Figures map[string]figure
	Error   string        // why the scene ended early, or ""
	Virtual time.Duration // that passed in the scene
	Wall    time.Duration // that it took
	CPU     time.Duration // of the process
	Memory  int64         // bytes of the process at most
}

// scene measures something inside a bubble of virtual time. What it has put
// into figures before it fails counts.
type scene func(s setup, figures map[string]figure) error

// memoryLimit makes the collector of garbage work harder from there on: a
// thousand nodes would take twice what they need.
const memoryLimit = "GOMEMLIMIT=9GiB"

const sceneArg = "scene" // first argument of a child; the scene's name and the setup follow

// perform plays a scene in a child process and returns what it measured. A
// scene has a process for itself so that its memory and its CPU time are its
// own and so that one that hangs or panics spoils only its rows.
func perform(ctx context.Context, name string, s setup) outcome {
	text, err := json.Marshal(s)
	if err != nil {
		return outcome{Error: err.Error()}
	}
	self, err := os.Executable()
	if err != nil {
		return outcome{Error: err.Error()}
	}
	read, write, err := os.Pipe()
	if err != nil {
		return outcome{Error: err.Error()}
	}
	defer read.Close()
	c := exec.CommandContext(ctx, self, sceneArg, name, string(text))
	c.Stderr, c.ExtraFiles = os.Stderr, []*os.File{write}  // its stdout is package testing's
	c.Env = append([]string{memoryLimit}, os.Environ()...) // the environment's own counts
	c.Env = append(c.Env, "QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING=true")
	began := time.Now()
	err = c.Start()
	_ = write.Close()
	if err != nil {
		return outcome{Error: err.Error()}
	}
	var o outcome
	heard := json.NewDecoder(read).Decode(&o)
	if err = errors.Join(heard, c.Wait()); err != nil && o.Error == "" {
		o.Error = err.Error()
	}
	o.Wall = time.Since(began)
	if u, ok := c.ProcessState.SysUsage().(*syscall.Rusage); ok {
		o.Memory = u.Maxrss * pickOS(int64(1), 1024)
	}
	o.CPU = c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	return o
}

// pickOS returns the first on macOS, which counts in other units, else the second.
func pickOS[T any](darwin, other T) T {
	if runtime.GOOS == "darwin" {
		return darwin
	}
	return other
}

// playScene plays the scene that this process was started for and does not
// return; in the process that started it all it reports false at once.
//
// Virtual time needs a *testing.T, which only package testing makes.
// testing.Main is what it keeps for programs that imitate go test.
func playScene() bool {
	if len(os.Args) != 4 || os.Args[1] != sceneArg {
		return false
	}
	name, text := os.Args[2], os.Args[3]
	os.Args = os.Args[:1] // flags of package testing: none
	out := os.NewFile(3, "outcome")
	var s setup
	play := scenes[name]
	if err := json.Unmarshal([]byte(text), &s); err != nil || play == nil {
		fmt.Fprintln(os.Stderr, "discovery: no such scene:", name)
		os.Exit(2)
	}
	testing.Main(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: name, F: func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := outcome{Figures: make(map[string]figure)}
			began := time.Now()
			if err := play(s, o.Figures); err != nil {
				o.Error = err.Error()
			}
			o.Virtual = time.Since(began)
			if err := json.NewEncoder(out).Encode(o); err != nil {
				t.Error(err)
			}
			_ = out.Close()
		})
	}}}, nil, nil)
	return true
}

// phase tells whoever waits for a long scene how far it has come.
func phase(s setup, what string) {
	if !s.Short {
		fmt.Fprintf(os.Stderr, "    %s after %.0f s of CPU\n", what, used().Seconds())
	}
}

// used is the CPU time that the process has used; in a bubble, too.
func used() time.Duration { return report.CPU() }
