package node

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cell.network/cell/internal/capsid"
	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/membrane"
	"cell.network/cell/internal/ribosome"
	"cell.network/cell/internal/sim"
)

type versions struct {
	mu      sync.Mutex
	version string // what Build makes
	delay   map[string]time.Duration
	fail    map[string]bool
	pid     atomic.Int64
	started []string
}

func (p *versions) Build(_ context.Context, s ribosome.Source, _ io.Writer) (ribosome.Artefact, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return ribosome.Artefact{Path: p.version, Key: p.version, Toolchain: "none"}, nil
}

func (p *versions) Start(ctx context.Context, s capsid.Spec) (capsid.Proc, error) {
	p.mu.Lock()
	d, f := p.delay[s.Path], p.fail[s.Path]
	p.started = append(p.started, s.Path)
	p.mu.Unlock()
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if f {
		return nil, errors.New("no such program")
	}
	outer, inner := membrane.MemLink()
	c, cancel := context.WithCancel(context.Background())
	x := &versionProc{link: outer, pid: int(p.pid.Add(1)), kill: cancel, done: make(chan struct{})}
	r, err := membrane.Serve(c, inner, nil, func(ctx context.Context, q frame.Request) (frame.Response, error) {
		return frame.Response{Codec: q.Codec, Body: []byte(s.Path)}, nil
	})
	if err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer close(x.done)
		err := r.Wait()
		if c.Err() != nil {
			err = errors.New("killed")
		}
		x.exit = err
		_ = inner.Close()
		cancel()
	}()
	return x, nil
}

type versionProc struct {
	link membrane.Link
	pid  int
	kill context.CancelFunc
	done chan struct{}
	exit error
}

func (x *versionProc) Link() membrane.Link   { return x.link }
func (x *versionProc) PID() int              { return x.pid }
func (x *versionProc) Enforced() []string    { return nil }
func (x *versionProc) NotEnforced() []string { return nil }
func (x *versionProc) Wait() error           { <-x.done; return x.exit }
func (x *versionProc) Kill() error           { x.kill(); return nil }
func (x *versionProc) Terminate() error      { return x.Kill() }
func (x *versionProc) Rung() capsid.Rung     { return capsid.RungNone }

func machineWith(t *testing.T, k KeyRing, p *versions) *Node {
	t.Helper()
	return runMachine(t, k, Config{Starter: p, Builder: p,
		Pair: func() (net.Conn, net.Conn, error) { a, b := sim.Pipe(); return a, b, nil }})
}

// decisions returns when so many more were taken for a cell.
func decisions(n *Node, s *service, count int) {
	for range count {
		n.mu.Lock()
		next := s.decided
		n.mu.Unlock()
		<-next
	}
}

func source(t *testing.T, scaling string) string {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ManifestFile), []byte("[cell]\nname = \"greeter\"\n[scaling]\n"+scaling), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A birth of the old program that is under way when a new one is run is given up.
func TestRunReplacesWhatIsBeingBorn(t *testing.T) {
	t.Parallel()
	k := ring(7)
	p := &versions{version: "old", delay: map[string]time.Duration{}}
	n := machineWith(t, k, p)
	dir := source(t, "min_replicas = 2\nmax_replicas = 4\n")
	none := func(Progress) {}
	if _, err := n.RunCell(context.Background(), dir, none); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	p.delay["old"], p.version = 4*time.Second, "new" // a slow start
	p.mu.Unlock()
	cell := identity.Cell{Author: k.Author.Public(), Name: "greeter"}
	s := n.service(cell)
	for { // until the second one is claimed
		n.mu.Lock()
		c := len(s.claims)
		n.mu.Unlock()
		if c > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := n.RunCell(context.Background(), dir, none); err != nil {
		t.Fatal(err)
	}
	decisions(n, s, 10) // the slow start would have ended by then
	got := map[string]int{}
	for range 40 {
		n.mu.Lock()
		rs := append([]*replica(nil), s.replicas...)
		n.mu.Unlock()
		for _, r := range rs {
			res, err := r.trunk.Call(context.Background(), frame.Request{Target: cell.String() + "/x"})
			if err == nil {
				got[string(res.Body)]++
			}
		}
	}
	t.Log(got, p.started)
	if got["old"] > 0 {
		t.Error("after `cell run` of the new program, the old one still serves")
	}
}

// A run that fails undoes neither a stop nor a drain: nothing starts, not even
// the program of before.
func TestFailedRunUndoesNothing(t *testing.T) {
	for name, end := range map[string]func(*Node, identity.Cell) error{
		"drained": func(n *Node, c identity.Cell) error {
			return n.Drain(context.Background(), string(c.Name), false, func(Progress) {})
		},
		"stopped": func(n *Node, c identity.Cell) error {
			_, err := n.StopCell(context.Background(), c)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := ring(7)
			p := &versions{version: "old", fail: map[string]bool{"new": true}}
			n := machineWith(t, k, p)
			dir := source(t, "min_replicas = 1\nmax_replicas = 4\n")
			none := func(Progress) {}
			if _, err := n.RunCell(context.Background(), dir, none); err != nil {
				t.Fatal(err)
			}
			cell := identity.Cell{Author: k.Author.Public(), Name: "greeter"}
			if err := end(n, cell); err != nil {
				t.Fatal(err)
			}
			p.mu.Lock()
			p.version = "new"
			p.mu.Unlock()
			if _, err := n.RunCell(context.Background(), dir, none); err == nil {
				t.Fatal("a program that does not start has run")
			}
			decisions(n, n.service(cell), 8)
			if rs := n.Replicas(); len(rs) > 0 && rs[0].State != ReplicaExited {
				t.Errorf("it runs again: %+v", rs[0])
			}
		})
	}
}
