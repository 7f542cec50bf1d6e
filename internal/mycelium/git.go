package mycelium

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrNoGit says that there is no git command, which publishing, mirrors and folders need.
var ErrNoGit = errors.New("there is no git command")

const (
	gitOutput = 1 << 20         // bytes kept of what git prints
	gitWait   = 2 * time.Second // how long a killed git may hold on to its output
)

// sealed are settings under which git neither runs nor asks anything on behalf
// of a repository.
var sealed = []string{
	"core.hooksPath=/dev/null", "core.fsmonitor=false", "core.symlinks=false", "core.protectNTFS=true", "core.protectHFS=true",
	"core.bigFileThreshold=1m", "core.alternateRefsCommand=", "credential.helper=", "submodule.recurse=false", "fetch.recurseSubmodules=no",
	"safe.directory=*", "transfer.fsckObjects=true", "transfer.bundleURI=false", "fetch.unpackLimit=1", "gc.auto=0", "maintenance.auto=false",
}

// git runs the git command.
type git struct{ program string }

// command prepares git in dir, killed with all that it started when ctx ends,
// and by itself where the node is killed. With own it sees the settings of the
// user, as git does in a repository of his.
func (g git) command(ctx context.Context, dir string, own bool, args ...string) (*exec.Cmd, error) {
	path, err := exec.LookPath(g.program)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoGit, err)
	}
	settings := []string{"core.hooksPath=/dev/null", "core.fsmonitor=false"}
	if !own {
		settings = sealed
	}
	var all []string
	for _, s := range settings {
		all = append(all, "-c", s)
	}
	cmd := exec.CommandContext(ctx, path, append(all, args...)...)
	cmd.Dir = dir
	cmd.Env = []string{"GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true", "GIT_NO_REPLACE_OBJECTS=1", "GIT_OPTIONAL_LOCKS=0", "GIT_NO_LAZY_FETCH=1", "LC_ALL=C",
		"GIT_ALLOW_PROTOCOL=none"} // mirrors say which
	if own {
		for _, v := range os.Environ() {
			if !strings.HasPrefix(v, "GIT_") && !strings.HasPrefix(v, "LC_") {
				cmd.Env = append(cmd.Env, v)
			}
		}
	} else {
		cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_ATTR_NOSYSTEM=1")
		for _, v := range []string{"HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
			if s, set := os.LookupEnv(v); set {
				cmd.Env = append(cmd.Env, v+"="+s)
			}
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithNode(cmd.SysProcAttr)
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			err = os.ErrProcessDone
		}
		return err
	}
	cmd.WaitDelay = gitWait
	return cmd, nil
}

// run returns what git prints. Errors hold what it complained of.
func (g git) run(ctx context.Context, dir string, own bool, stdin []byte, args ...string) (string, error) {
	cmd, err := g.command(ctx, dir, own, args...)
	if err != nil {
		return "", err
	}
	return runGit(ctx, cmd, stdin, args[0])
}

func runGit(ctx context.Context, cmd *exec.Cmd, stdin []byte, verb string) (string, error) {
	out, complaint := limited{left: gitOutput}, limited{left: 4096}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &complaint
	runtime.LockOSThread()
	err := cmd.Run()
	runtime.UnlockOSThread()
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("git %s: %w", verb, context.Cause(ctx))
	case err != nil:
		return "", fmt.Errorf("git %s: %w: %s", verb, err, strings.TrimSpace(complaint.String()))
	case out.left == 0:
		return "", fmt.Errorf("git %s: %w: it prints more than %d bytes", verb, ErrTooBig, gitOutput)
	}
	return out.String(), nil
}

// limited keeps the first bytes written to it.
type limited struct {
	bytes.Buffer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(l.left, len(b))
	l.left -= n
	l.Buffer.Write(b[:n])
	return len(b), nil
}

// batch is a running git cat-file, which hands out the objects of a repository.
type batch struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	body   *io.LimitedReader // of the object under way, with a newline behind it
	cancel context.CancelFunc
}

// newBatch starts git cat-file in a repository; close it in the same goroutine.
func (g git) newBatch(ctx context.Context, dir string) (*batch, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd, err := g.command(ctx, dir, false, "cat-file", "--batch")
	if err != nil {
		cancel()
		return nil, err
	}
	b := &batch{cmd: cmd, cancel: cancel}
	out, err := cmd.StdoutPipe()
	if err == nil {
		b.in, err = cmd.StdinPipe()
	}
	runtime.LockOSThread()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("git cat-file: %w", err)
	}
	b.out = bufio.NewReaderSize(out, 64<<10)
	return b, nil
}

func (b *batch) close() {
	b.cancel()
	_ = b.in.Close()
	_ = b.cmd.Wait()
	runtime.UnlockOSThread()
}

// next implements objects.
func (b *batch) next(id objectID, k kind) (int64, io.Reader, error) {
	return b.named(id.String(), k.String())
}

// named begins an object by any name that git knows.
func (b *batch) named(name, want string) (int64, io.Reader, error) {
	if b.body != nil {
		if _, err := io.Copy(io.Discard, b.body); err != nil {
			return 0, nil, err
		}
	}
	if _, err := io.WriteString(b.in, name+"\n"); err != nil {
		return 0, nil, fmt.Errorf("git cat-file: %w", err)
	}
	line, err := b.out.ReadString('\n')
	if err != nil {
		return 0, nil, fmt.Errorf("git cat-file: %w", err)
	}
	f := strings.Fields(line)
	if len(f) != 3 || f[1] != want {
		return 0, nil, fmt.Errorf("%w: git has no %s %s", ErrContent, want, name)
	}
	size, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil || size < 0 {
		return 0, nil, fmt.Errorf("git cat-file: %q", line)
	}
	b.body = &io.LimitedReader{R: b.out, N: size + 1}
	return size, io.LimitReader(b.body, size), nil
}
