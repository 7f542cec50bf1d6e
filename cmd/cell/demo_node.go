package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/node"
)

// demoNode is a node of the demo: a process of its own with a home of its own.
type demoNode struct {
	name     string
	home     home.Home
	root     string // CELL_HOME
	registry string // where it would fetch modules that it does not bring along
	exe      string
	cmd      *exec.Cmd
	exited   chan struct{} // closed when the process has ended
	stderr   bytes.Buffer  // complete once exited is closed
	status   node.Status
	client   *node.Client
}

// stopTime is how long a node has to end in good order.
const stopTime = 8 * time.Second

// startNode starts `cell up` and waits until it says that it listens.
func (d *demo) startNode(ctx context.Context, name string, flags ...string) (*demoNode, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	n := &demoNode{name: name, root: filepath.Join(d.dir, name), registry: "http://" + d.origin.address(), exe: exe, exited: make(chan struct{})}
	if n.home, err = home.At(n.root); err != nil {
		return nil, err
	}
	if err := n.home.Make(); err != nil {
		return nil, err
	}
	args := append([]string{"up", "--json", "--network", d.network, "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"}, flags...)
	n.cmd = n.command(args...)
	n.cmd.Stderr = &n.stderr
	dieWithDemo(n.cmd.SysProcAttr)
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start node %s: %w", name, err)
	}
	if err := n.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start node %s: %w", name, err)
	}
	up := make(chan error, 1)
	go func() {
		up <- json.NewDecoder(out).Decode(&n.status) // the first line, once it listens
		_ = n.cmd.Wait()
		close(n.exited)
	}()
	select {
	case err = <-up:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		n.end()
		return nil, fmt.Errorf("node %s did not come up: %s", name, strings.TrimSpace(n.stderr.String()))
	}
	if n.client, err = node.Dial(n.home); err != nil {
		n.end()
		return nil, err
	}
	return n, nil
}

// command is a cell command with this node's home.
func (n *demoNode) command(args ...string) *exec.Cmd {
	c := exec.Command(n.exe, args...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "CELL_") { // the caller's own node is none of the demo's business
			c.Env = append(c.Env, kv)
		}
	}
	c.Dir = filepath.Dir(n.root)
	c.Env = append(c.Env, "CELL_HOME="+n.root, "GOPROXY="+n.registry, "TMPDIR="+c.Dir) // what a killed command leaves goes with the demo's folder
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}                                // Ctrl-C is for the demo to pass on
	return c
}

// outcome is how a command ended.
type outcome struct {
	exit           int
	stdout, stderr string
	took           time.Duration
}

// cell runs a command as a user of this node would, in the demo's folder.
func (n *demoNode) cell(ctx context.Context, args ...string) (outcome, error) {
	c := n.command(args...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	begin := time.Now()
	if err := c.Start(); err != nil {
		return outcome{}, fmt.Errorf("run cell %s: %w", args[0], err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Process.Kill() })
	defer stop()
	err := c.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return outcome{}, fmt.Errorf("run cell %s: %w", args[0], err)
	}
	return outcome{c.ProcessState.ExitCode(), strings.TrimSpace(stdout.String()), strings.TrimSpace(stderr.String()), time.Since(begin)}, nil
}

// wait returns the first event after a sequence number that matches.
func (n *demoNode) wait(ctx context.Context, after uint64, match func(journal.Event) bool) (journal.Event, error) {
	for e, err := range n.client.Events(ctx, after, true) {
		if err != nil {
			return e, fmt.Errorf("wait for node %s: %w", n.name, err)
		}
		if match(e) {
			return e, nil
		}
	}
	return journal.Event{}, fmt.Errorf("wait for node %s: its journal ended", n.name)
}

// last is the sequence number of the newest event.
func (n *demoNode) last(ctx context.Context) (seq uint64) {
	for e, err := range n.client.Events(ctx, 0, false) {
		if err == nil {
			seq = e.Seq
		}
	}
	return seq
}

// stop ends the node in good order, and by force where it does not.
func (n *demoNode) stop() error {
	if n.client != nil {
		n.client.Close()
	}
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.exited:
		return nil
	case <-time.After(stopTime):
		n.end()
		return fmt.Errorf("node %s did not end within %s", n.name, duration(stopTime))
	}
}

func (n *demoNode) end() {
	_ = n.cmd.Process.Kill()
	<-n.exited
}

// freeUDPPort finds a port that nobody uses now.
func freeUDPPort() (int, error) {
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer c.Close()
	_, port, err := net.SplitHostPort(c.LocalAddr().String())
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	return strconv.Atoi(port)
}
