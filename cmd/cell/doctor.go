package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// doctorTimeout bounds every check.
const doctorTimeout = 10 * time.Second

func (a *app) doctorCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check this host and its node",
		Long: `Checks this host and, where it runs, its node. Each check says ok, warn or fail, what
was seen, and what to do. Exit code 1 where a check failed.`,
		Args: takes(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), doctorTimeout)
			defer cancel()
			checks := a.diagnose(ctx)
			failed := 0
			for _, ch := range checks {
				if ch.Status == node.CheckFail {
					failed++
				}
			}
			if a.json {
				if err := a.term.json(node.CheckList{Checks: checks}); err != nil {
					return err
				}
			} else {
				for _, ch := range checks {
					a.term.print("%-4s  %-14s  %s\n", ch.Status, clean(ch.Name), clean(ch.Evidence))
					if ch.Status != node.CheckOK && ch.Remedy != "" {
						a.term.print("%22s%s\n", "", "→ "+clean(ch.Remedy))
					}
				}
			}
			if failed > 0 {
				return node.NewError(node.CodeFailed, fmt.Sprintf("%d of %d checks failed", failed, len(checks)), "")
			}
			return c.Context().Err()
		},
	}
	a.jsonFlag(c, `print {"checks":[{"name","status","evidence","remedy"}]}`)
	return c
}

// diagnose runs all checks at once and returns them in a fixed order.
func (a *app) diagnose(ctx context.Context) []node.Check {
	h, err := a.home()
	if err != nil {
		return []node.Check{{Name: "home", Status: node.CheckFail, Evidence: err.Error(), Remedy: "set CELL_HOME to a folder of yours"}}
	}
	local := []func(context.Context, home.Home) []node.Check{
		a.checkSettings, checkHome, checkKeys, checkSocket, checkClock, checkDisk, checkGo, checkGit, checkSandbox, checkMulticast, checkNode,
	}
	results := make([][]node.Check, len(local))
	var wg sync.WaitGroup
	for i, check := range local {
		wg.Go(func() { results[i] = check(ctx, h) })
	}
	wg.Wait()
	var all []node.Check
	for _, r := range results {
		all = append(all, r...)
	}
	return all
}

func ok(name, format string, args ...any) []node.Check {
	return []node.Check{{Name: name, Status: node.CheckOK, Evidence: fmt.Sprintf(format, args...)}}
}

func bad(status, name, evidence, remedy string) []node.Check {
	return []node.Check{{Name: name, Status: status, Evidence: evidence, Remedy: remedy}}
}

func (a *app) checkSettings(_ context.Context, h home.Home) []node.Check {
	s, err := node.LoadSettings(h, a.getenv)
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return bad(node.CheckFail, "settings", first, "mend that line, or see: cell config")
	}
	return ok("settings", "network %s, mode %s", s.Network, s.Mode)
}

func checkHome(_ context.Context, h home.Home) []node.Check {
	for _, dir := range []string{h.Config, h.State, h.Cache, h.Runtime} {
		for ; ; dir = filepath.Dir(dir) { // what is not there yet must be possible to make
			_, err := os.Stat(dir)
			if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
				continue
			}
			if err == nil {
				err = unix.Access(dir, unix.W_OK|unix.X_OK)
			}
			if err != nil {
				return bad(node.CheckFail, "home", dir+": "+err.Error(), "give this user the folder, or set CELL_HOME to another")
			}
			break
		}
	}
	return ok("home", "%s", h.Config)
}

func checkKeys(_ context.Context, h home.Home) []node.Check {
	var have []string
	for _, role := range []string{node.RoleNode, node.RoleAuthor, node.RoleColony} {
		_, err := identity.LoadPrivate(h.Key(role))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, identity.ErrKeyMode):
			return bad(node.CheckFail, "keys", err.Error(), "chmod 600 "+h.Key(role))
		case err != nil:
			return bad(node.CheckFail, "keys", err.Error(), "put back a copy, or remove the file and run: cell init")
		default:
			have = append(have, role)
		}
	}
	if len(have) == 0 {
		return bad(node.CheckWarn, "keys", "none yet", "cell init")
	}
	return ok("keys", "%s, readable by you only", strings.Join(have, ", "))
}

func checkSocket(_ context.Context, h home.Home) []node.Check {
	if err := h.CheckSocket(); err != nil {
		return bad(node.CheckFail, "socket", err.Error(), "set CELL_HOME to a shorter folder")
	}
	return ok("socket", "%s (%d of %d bytes)", h.Socket(), len(h.Socket()), home.MaxSocketPath)
}

// built is a time that every right clock is past.
var built = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

func checkClock(_ context.Context, h home.Home) []node.Check {
	now := time.Now()
	if now.Before(built) {
		return bad(node.CheckFail, "clock", "it says "+now.UTC().Format(time.RFC3339), "set the clock: others refuse records that are minutes off")
	}
	newest := built // of the files that the node wrote: a clock that went back shows
	filepath.WalkDir(h.State, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil && info.ModTime().After(newest) {
				newest = info.ModTime()
			}
		}
		return nil
	})
	if back := newest.Sub(now); back > time.Minute {
		return bad(node.CheckWarn, "clock", "it is "+duration(back)+" before the last change of a file of the node", "let the system keep the time (NTP): others refuse records that are 5 minutes off")
	}
	return ok("clock", "%s; not compared with other clocks", now.UTC().Format(time.RFC3339))
}

// A build needs the go build cache and a node its journal.
const (
	diskFail = 64 << 20
	diskWarn = 1 << 30
)

func checkDisk(_ context.Context, h home.Home) []node.Check {
	dir := h.Cache
	for dir != filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return bad(node.CheckWarn, "disk", dir+": "+err.Error(), "")
	}
	free := uint64(st.Bavail) * uint64(st.Bsize)
	evidence := fmt.Sprintf("%.1f GB free for %s", float64(free)/1e9, dir)
	switch {
	case free < diskFail:
		return bad(node.CheckFail, "disk", evidence, "make room: builds and the journal would fail")
	case free < diskWarn:
		return bad(node.CheckWarn, "disk", evidence, "make room, or empty "+h.Cache+", which is safe to delete")
	}
	return ok("disk", "%s", evidence)
}

func checkGo(ctx context.Context, _ home.Home) []node.Check {
	out, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if err != nil {
		return bad(node.CheckWarn, "go", "no go program: "+err.Error(), "install Go "+strings.TrimPrefix(runtime.Version(), "go")+" or newer from https://go.dev/dl to build cells here")
	}
	return ok("go", "%s", strings.TrimSpace(string(out)))
}

func checkGit(ctx context.Context, _ home.Home) []node.Check {
	out, err := exec.CommandContext(ctx, "git", "--version").Output()
	if err != nil {
		return bad(node.CheckWarn, "git", "no git program: "+err.Error(), "install git to publish cells")
	}
	return ok("git", "%s", strings.TrimPrefix(strings.TrimSpace(string(out)), "git version "))
}

// checkMulticast sends a packet to itself over each interface.
func checkMulticast(ctx context.Context, _ home.Home) []node.Check {
	interfaces, err := net.Interfaces()
	if err != nil {
		return bad(node.CheckWarn, "multicast", "list interfaces: "+err.Error(), "")
	}
	var checks []node.Check
	for _, ifi := range interfaces {
		if ifi.Flags&net.FlagUp == 0 || ifi.Flags&(net.FlagMulticast|net.FlagLoopback) == 0 {
			continue
		}
		name := "multicast " + ifi.Name
		took, err := echo(ctx, &ifi)
		if err != nil {
			checks = append(checks, bad(node.CheckWarn, name, err.Error(), "nodes beyond it are found through the DHT only, or name them: cell up --lan-directed HOST:9067")...)
			continue
		}
		checks = append(checks, ok(name, "heard its own packet after %s", duration(took))...)
	}
	if len(checks) == 0 {
		return bad(node.CheckWarn, "multicast", "no interface is up", "connect this host, or name others: cell up --lan-directed HOST:9067")
	}
	return checks
}

func checkNode(ctx context.Context, h home.Home) []node.Check {
	client, err := node.Dial(h)
	if errors.Is(err, node.ErrNotRunning) {
		return bad(node.CheckWarn, "node", "not running", "cell up")
	}
	if err != nil {
		return bad(node.CheckFail, "node", err.Error(), describe(err).Hint)
	}
	defer client.Close()
	s, err := client.Status(ctx)
	if err != nil {
		return bad(node.CheckFail, "node", err.Error(), describe(err).Hint)
	}
	checks := ok("node", "%s, process %d, up for %s", s.Node.Short(), s.PID, age(s.Started))
	if s.Version != node.Version() {
		checks = bad(node.CheckWarn, "node", "it is of version "+s.Version+", this program of "+node.Version(), "restart it: cell down, then cell up")
	}
	own, err := client.Doctor(ctx)
	if err != nil {
		return append(checks, bad(node.CheckFail, "node's checks", err.Error(), describe(err).Hint)...)
	}
	return append(checks, own...)
}
