package celltest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"cell.network/cell/internal/capsid"
	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/membrane"
	"cell.network/cell/internal/ribosome"
	"cell.network/cell/internal/sim"
)

// programs stands in for the compiler and the operating system: a program is a
// handler, a process a set of goroutines.
type programs struct {
	mu      sync.Mutex
	handler map[string]frame.Handler // by name of the cell; guarded by mu
	pid     atomic.Int64
}

func (p *programs) set(name string, h frame.Handler) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.handler == nil {
		p.handler = make(map[string]frame.Handler)
	}
	p.handler[name] = h
}

// Build implements [ribosome.Builder].
func (p *programs) Build(_ context.Context, s ribosome.Source, _ io.Writer) (ribosome.Artefact, error) {
	return ribosome.Artefact{Path: string(s.Name), Key: string(s.Name), Toolchain: "none"}, nil
}

// Start implements [capsid.Starter].
func (p *programs) Start(_ context.Context, s capsid.Spec) (capsid.Proc, error) {
	p.mu.Lock()
	h := p.handler[s.Path]
	p.mu.Unlock()
	if h == nil {
		return nil, fmt.Errorf("no program %q", s.Path)
	}
	outer, inner := membrane.MemLink()
	ctx, cancel := context.WithCancel(context.Background())
	x := &process{link: outer, pid: int(p.pid.Add(1)), kill: cancel, done: make(chan struct{})}
	r, err := membrane.Serve(ctx, inner, nil, h)
	if err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer close(x.done)
		err := r.Wait()
		if ctx.Err() != nil {
			err = errors.New("signal: killed")
		}
		x.exit = err
		_ = inner.Close()
		cancel()
	}()
	return x, nil
}

// process implements [capsid.Proc].
type process struct {
	link membrane.Link
	pid  int
	kill context.CancelFunc
	done chan struct{}
	exit error // valid once done is closed
}

func (x *process) Link() membrane.Link { return x.link }
func (x *process) PID() int            { return x.pid }
func (x *process) Enforced() []string  { return nil }
func (x *process) NotEnforced() []string {
	return []string{"it is a simulation"}
}

func (x *process) Wait() error {
	<-x.done
	return x.exit
}

func (x *process) Kill() error {
	x.kill()
	return nil
}

func pair() (net.Conn, net.Conn, error) {
	a, b := sim.Pipe()
	return a, b, nil
}
