package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// program builds the real program once: children of the demo and of the
// documents are started by its path.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cell-bin-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "cell")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build cell: %w: %s", err, out)
	}
	return path, nil
})

// runDemo runs the demo and returns its exit code and all that it printed.
func runDemo(t *testing.T, args ...string) (int, string) {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, path, append([]string{"demo"}, args...)...)
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), string(out)
}

// How the demo says whether it could count packets.
const (
	countedText    = "packets to port 53: 0"
	notCountedText = "packets were not counted: "
)

func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the whole demo")
	}
	for _, c := range []struct {
		name string
		args []string
		want []string // each is one of several
	}{
		{"as it is", nil, []string{countedText + "|" + notCountedText}},
		{"where much is refused", []string{"--no-multicast", "--no-namespace"}, []string{"refuses multicast", notCountedText}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			code, out := runDemo(t, c.args...)
			if code != 0 || !strings.Contains(out, fmt.Sprintf("all %d steps held", len(demoSteps))) {
				t.Errorf("demo %v: exit code %d\n%s", c.args, code, out)
			}
			for _, w := range c.want {
				if !slices.ContainsFunc(strings.Split(w, "|"), func(text string) bool { return strings.Contains(out, text) }) {
					t.Errorf("demo %v does not say %q:\n%s", c.args, w, out)
				}
			}
		})
	}
}

// A demo that cannot fail shows nothing: every step is broken in turn.
func TestDemoBreaks(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the demo once for every step")
	}
	for i, s := range demoSteps {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			t.Parallel() // most of it is waiting
			code, out := runDemo(t, "--break", fmt.Sprint(i+1))
			if want := fmt.Sprintf("cell: error: step %d (%s) failed: ", i+1, s.title); code != 1 || !strings.Contains(out, want) {
				t.Errorf("--break %d: exit code %d, want 1 and %q\n%s", i+1, code, want, out)
			}
		})
	}
	for _, n := range []int{0, -1, len(demoSteps) + 1} {
		if code, out := runDemo(t, "--break", fmt.Sprint(n)); code != 2 {
			t.Errorf("--break %d: exit code %d, want 2\n%s", n, code, out)
		}
	}
}

// A demo that is not watched to its end ends its nodes and removes its folder.
func TestDemoLeavesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the demo's nodes")
	}
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	for name, leave := range map[string]func(*exec.Cmd, io.Closer) error{
		"interrupted":   func(c *exec.Cmd, _ io.Closer) error { return c.Process.Signal(os.Interrupt) },
		"nobody reads":  func(_ *exec.Cmd, out io.Closer) error { return out.Close() },
		"no namespaces": func(c *exec.Cmd, _ io.Closer) error { return c.Process.Signal(os.Interrupt) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, err := os.MkdirTemp("", "cell-left-")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			c := exec.Command(path, "demo")
			if name == "no namespaces" {
				c.Args = append(c.Args, "--no-namespace")
			}
			c.Env = append(os.Environ(), "TMPDIR="+dir)
			out, err := c.StdoutPipe()
			if err == nil {
				err = c.Start()
			}
			if err == nil {
				_, err = out.Read(make([]byte, 1)) // the nodes are up
			}
			if err == nil {
				err = leave(c, out)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, out) // until the demo has ended
			_ = c.Wait()
			if code := c.ProcessState.ExitCode(); code != 130 {
				t.Errorf("exit code %d, want 130", code)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}
