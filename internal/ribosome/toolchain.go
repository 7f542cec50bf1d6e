package ribosome

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// killWait is how long a cancelled go command may hold on to its output.
const killWait = 2 * time.Second

// passedOn are the settings of the go command that say where modules come from;
// they are the user's. All others would change what is built.
var passedOn = []string{"GOPROXY", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOSUMDB", "GOINSECURE", "GOAUTH", "GOVCS"}

// toolchain is a go command and what it says of itself.
type toolchain struct {
	path     string
	version  string // as in go1.26.8
	settings map[string]string
}

// findToolchain asks the go command afresh each time: it takes 10 ms, and
// toolchains are replaced while nodes run.
func (r *Ribosome) findToolchain(ctx context.Context) (toolchain, error) {
	var t toolchain
	for _, name := range r.goNames {
		if p, err := exec.LookPath(name); err == nil {
			t.path = p
			break
		}
	}
	if t.path == "" {
		return t, ErrNoToolchain
	}
	cmd := r.command(ctx, t, append([]string{"env", "-json", "GOVERSION"}, passedOn...)...)
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local", "GOWORK=off")
	cmd.Dir = r.cache // where no go.mod asks for another toolchain
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	runtime.LockOSThread()
	out, err := cmd.Output()
	runtime.UnlockOSThread()
	if err == nil {
		err = json.Unmarshal(out, &t.settings)
	}
	if err != nil {
		if ctx.Err() != nil {
			return t, context.Cause(ctx)
		}
		return t, fmt.Errorf("%w: %s does not run: %w: %s", ErrNoToolchain, t.path, err, bytes.TrimSpace(stderr.Bytes()))
	}
	t.version = t.settings["GOVERSION"]
	return t, nil
}

// environment is that of a build: the user's, but for all that is Go's.
func (r *Ribosome) environment(t toolchain) []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "GO") && !strings.HasPrefix(v, "CGO_") {
			env = append(env, v)
		}
	}
	for _, k := range passedOn {
		if v := t.settings[k]; v != "" {
			env = append(env, k+"="+v)
		}
	}
	others := r.proxy
	if others == "" {
		others = t.settings["GOPROXY"]
	}
	return append(env, // of two values of a variable the last one counts
		"GOPROXY="+r.proxyURL()+","+others,
		"GOPATH="+filepath.Join(r.cache, "path"), "GOCACHE="+r.goCache, "GOMODCACHE="+r.modCache,
		"GOTMPDIR="+r.tmpDir(), "GOENV=off", "GOWORK=off", "GOTOOLCHAIN=local", "GOFLAGS=-modcacherw", "CGO_ENABLED=0")
}

// proxyURL is the GOPROXY of what the node brings along.
func (r *Ribosome) proxyURL() string { return "file://" + filepath.ToSlash(r.proxyDir()) }

// command prepares a go command that is killed with all that it started when
// ctx ends, and by itself where the node is killed. Run it on a locked thread.
func (r *Ribosome) command(ctx context.Context, t toolchain, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, t.path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithNode(cmd.SysProcAttr)
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			err = os.ErrProcessDone
		}
		return err
	}
	cmd.WaitDelay = killWait
	return cmd
}

// hint says what to do about something that go printed.
func (r *Ribosome) hint(j job, t toolchain, output string) string {
	switch {
	case strings.Contains(output, "GOTOOLCHAIN=local"):
		return "the source asks for a newer Go than the " + t.version + " of this node; install it, or lower the version in go.mod"
	case strings.Contains(output, "missing go.sum entry"), strings.Contains(output, "updates to go.mod needed"), strings.Contains(output, "cannot find module providing package"):
		return "go.mod or go.sum does not fit the source; to mend them: cd " + j.root + " && " + r.tidyCommand()
	case strings.Contains(output, syscall.ENOSPC.Error()), strings.Contains(output, syscall.EDQUOT.Error()):
		return "make room on the disk that holds " + r.cache + "; that folder itself is safe to delete while the node is down"
	case strings.Contains(output, "checksum mismatch"):
		return "a module is not what go.sum says; find out who changed it before you change go.sum"
	}
	return ""
}

// checkSDK refuses a source that pins a version of the SDK which this node has
// not got: the go command would ask others for a path whose domain may belong
// to anybody.
func (r *Ribosome) checkSDK(j job) (hint string, err error) {
	for _, pinned := range j.sdkPinned() {
		zip := filepath.Join(r.proxyDir(), filepath.FromSlash(sdkPath), "@v", filepath.Base(pinned)+".zip")
		if _, err := os.Stat(zip); err != nil {
			return "to move to it: cd " + j.root + " && " + r.moveCommand(),
				fmt.Errorf("%w: go.mod asks for %s %s, this node brings %s", ErrSDK, sdkPath, pinned, r.SDKVersion())
		}
	}
	return "", nil
}

// moveCommand makes a cell use this node's SDK. (go get would first look for
// the SDK that is not to be had.)
func (r *Ribosome) moveCommand() string {
	return "go mod edit -require=" + sdkPath + "@" + r.SDKVersion() + " && " + r.withProxy("go build -mod=mod ./...")
}

func (r *Ribosome) tidyCommand() string { return r.withProxy("go mod tidy") }

// withProxy lets a go command that is run by hand see what the node brings along.
func (r *Ribosome) withProxy(command string) string {
	return "GOPROXY=" + r.proxyURL() + ",$(go env GOPROXY) GONOSUMDB=" + sdkPath + " " + command
}

// sdkPinned are the versions of the SDK in the source's go.mod, as far as they
// come from a proxy at all.
func (j job) sdkPinned() (versions []string) {
	for _, r := range j.goMod.Require {
		if r.Mod.Path == sdkPath && !j.replaced(r.Mod) {
			versions = append(versions, r.Mod.Version)
		}
	}
	for _, r := range j.goMod.Replace { // in the place of whatever
		if r.New.Path == sdkPath && r.New.Version != "" {
			versions = append(versions, r.New.Version)
		}
	}
	return versions
}

func (j job) replaced(m module.Version) bool {
	return slices.ContainsFunc(j.goMod.Replace, func(r *modfile.Replace) bool {
		return r.Old.Path == m.Path && (r.Old.Version == "" || r.Old.Version == m.Version)
	})
}
