package faults_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"cell.network/cell/internal/node"
)

func TestPortTaken(t *testing.T) {
	s := newSite(t)
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := fmt.Sprint(taken.LocalAddr().(*net.UDPAddr).Port)
	s.cell("up", "--listen", "/ip4/127.0.0.1/udp/"+port+"/quic-v1").wants(t, node.ExitFailed, "port", port, "hint:", "--listen")

	taken.Close()
	d := s.up("--listen", "/ip4/127.0.0.1/udp/"+port+"/quic-v1") // what has failed leaves nothing behind
	if !strings.Contains(d.status.Listen[0], "/udp/"+port+"/") {
		t.Errorf("listens on %v", d.status.Listen)
	}
}

func TestLANPortTaken(t *testing.T) {
	s := newSite(t)
	for _, network := range []string{"udp4", "udp6"} { // by a program that does not share it
		c, err := net.ListenPacket(network, fmt.Sprintf(":%d", s.port))
		if err != nil {
			t.Skipf("%s: %v", network, err)
		}
		defer c.Close()
	}
	s.cell("up").wants(t, node.ExitFailed, fmt.Sprint(s.port), "hint:", "--lan-port")
	s.up("--no-lan")
}

func TestSocketPathTooLong(t *testing.T) {
	s := newSite(t)
	long := filepath.Join(s.dir, strings.Repeat("x", 100))
	s.env = append(s.env, "CELL_HOME="+long)
	s.cell("up").wants(t, node.ExitFailed, "socket path has", "CELL_HOME")
	s.cell("ps").wants(t, node.ExitFailed, "socket path has", "CELL_HOME")
	if _, err := os.Stat(long); err == nil {
		t.Error("a node that cannot start has made keys")
	}
	if c := s.checks()["socket"]; c.Status != node.CheckFail || !strings.Contains(c.Remedy, "CELL_HOME") {
		t.Errorf("doctor: %+v", c)
	}
}

func TestKeyReadableByOthers(t *testing.T) {
	s := newSite(t)
	s.must("init")
	for _, role := range []string{node.RoleNode, node.RoleAuthor, node.RoleColony} {
		path := s.home.Key(role)
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		s.cell("up").wants(t, node.ExitRefused, path, "0640", "chmod 600 "+path)
		if c := s.checks()["keys"]; c.Status != node.CheckFail || c.Remedy != "chmod 600 "+path {
			t.Errorf("doctor: %+v", c)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.up()
}

func TestSecondNodeOnOneHome(t *testing.T) {
	s := newSite(t)
	d := s.up()
	s.cell("up").wants(t, node.ExitFailed, "a node is up already", fmt.Sprint(d.status.PID), "cell down", "CELL_HOME")
	d.alive()
	s.must("ps") // the first one's socket is where it was

	// Its socket gone, the lock still keeps the second one out.
	if err := os.Remove(s.home.Socket()); err != nil {
		t.Fatal(err)
	}
	s.cell("up").wants(t, node.ExitFailed, "another node runs on this home", fmt.Sprint(d.status.PID), "hint:", "CELL_HOME")
	d.alive()
}

// Of many nodes started at once on an empty home one comes up, and no key is
// made twice.
func TestManyNodesStartAtOnce(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithTimeout(t.Context(), upTime)
	defer cancel()
	var group sync.WaitGroup
	var mu sync.Mutex
	var refused []string
	const starts = 6
	for range starts {
		group.Go(func() {
			c := exec.CommandContext(ctx, program, "up", "--json")
			c.Env, c.Dir = s.env, s.dir
			c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
			var text strings.Builder
			c.Stderr = &text
			_ = c.Run()
			mu.Lock()
			defer mu.Unlock()
			if c.ProcessState.ExitCode() == node.ExitFailed {
				refused = append(refused, text.String())
			}
			if len(refused) == starts-1 {
				cancel()
			}
		})
	}
	group.Wait()
	if len(refused) != starts-1 {
		t.Fatalf("%d of %d were refused: %q", len(refused), starts, refused)
	}
	for _, r := range refused {
		if !strings.Contains(r, "another node runs on this home") && !strings.Contains(r, "a node is up already") {
			t.Errorf("refused with: %s", r)
		}
	}
	up := 0
	for _, e := range s.events() {
		if e.Kind == "node.up" {
			up++
		}
		if e.Node != s.keys().Node.Public().String() {
			t.Errorf("an event of another key: %+v", e)
		}
	}
	if up != 1 {
		t.Errorf("%d nodes came up", up)
	}
}

func TestManifestMistakes(t *testing.T) {
	s := newSite(t)
	d := s.up()
	for name, c := range map[string]struct {
		text string
		line int
		want []string
	}{
		"no TOML":      {"[cell]\nname = greeter\n", 2, []string{"name = greeter"}},
		"torn":         {"[cell]\nname = \"greet", 2, []string{"greet"}},
		"unknown key":  {"[cell]\nname = \"greeter\"\n[scaling]\nmax_replica = 3\n", 4, []string{"unknown key scaling.max_replica", "max_replica = 3"}},
		"unknown part": {"[cell]\nname = \"greeter\"\n[scalling]\n", 3, []string{"scalling"}},
		"wrong type":   {"[cell]\nname = [\"greeter\"]\n", 2, []string{"name = [\"greeter\"]"}},
		"wrong name":   {"[cell]\nname = \"Greeter!\"\n", 2, []string{"Greeter!"}},
		"no name":      {"[cell]\nversion = \"1\"\n", 0, []string{"name"}},
		"out of range": {"[cell]\nname = \"greeter\"\n[scaling]\ncpu_target = 160\n", 4, []string{"cpu_target = 160"}},
	} {
		dir := filepath.Join(s.dir, strings.ReplaceAll(name, " ", "-"))
		file := filepath.Join(dir, "Cell.toml")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		place := file + ":"
		if c.line > 0 {
			place = fmt.Sprintf("%s:%d:", file, c.line)
		}
		t.Run(name, func(t *testing.T) {
			s.cell("run", dir).wants(t, node.ExitUsage, append(c.want, place)...)
		})
		// The node reads it for itself and says the same: nobody relies on the command's look.
		client, err := node.Dial(s.home)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Run(t.Context(), dir, func(node.Progress) {})
		client.Close()
		if api, ok := err.(*node.APIError); !ok || api.Exit != node.ExitUsage || !strings.Contains(api.Message, place) {
			t.Errorf("%s: the node says %v", name, err)
		}
	}
	d.alive()
}
