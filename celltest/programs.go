package celltest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"cell.network/cell/internal/capsid"
	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/membrane"
	"cell.network/cell/internal/node"
	"cell.network/cell/internal/ribosome"
	"cell.network/cell/internal/sim"
)

// programs stands in for the compiler and the operating system: a program is a
// handler, a process a set of goroutines.
type programs struct {
	mu      sync.Mutex
	handler map[string]frame.Handler // by name of the cell; guarded by mu
	running map[int]*process         // by pid; guarded by mu
	pid     atomic.Int64
}

// processKey finds the process that a handler runs in.
type processKey struct{}

// Work has a handler need d of CPU, of which its process gets so many cores, 1 at
// most: it takes turns with the other requests of the process, and d/cores of
// virtual time passes. It returns early when ctx ends.
func Work(ctx context.Context, d time.Duration, cores float64) error {
	x, ok := ctx.Value(processKey{}).(*process)
	if !ok {
		return errors.New("work: this is no handler of a simulated program")
	}
	select {
	case x.core <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-x.core }()
	begin := time.Now()
	select {
	case <-time.After(time.Duration(float64(d) / cores)):
	case <-ctx.Done():
	}
	x.used.Add(int64(float64(time.Since(begin)) * cores))
	return context.Cause(ctx)
}

// meter implements [node.Meter] for the replicas of one simulated host.
type meter struct{ *programs }

// Sample returns the CPU that the process got by [Work].
func (m meter) Sample(pid int) (node.Usage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.running[pid]
	if x == nil {
		return node.Usage{}, node.ErrNotMeasured
	}
	return node.Usage{CPU: time.Duration(x.used.Load()), Memory: 16 << 20}, nil
}

// Machine is the same for every simulated host.
func (meter) Machine() (node.Machine, error) {
	return node.Machine{Cores: 16, CPUFree: 1, Memory: 16 << 30, MemoryFree: 16 << 30}, nil
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
	x := &process{link: outer, pid: int(p.pid.Add(1)), kill: cancel, done: make(chan struct{}), core: make(chan struct{}, 1)}
	r, err := membrane.Serve(ctx, inner, nil, func(ctx context.Context, q frame.Request) (frame.Response, error) {
		return h(context.WithValue(ctx, processKey{}, x), q)
	})
	if err != nil {
		cancel()
		return nil, err
	}
	p.mu.Lock()
	if p.running == nil {
		p.running = make(map[int]*process)
	}
	p.running[x.pid] = x
	p.mu.Unlock()
	go func() {
		defer close(x.done)
		defer func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.running, x.pid)
		}()
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
	exit error         // valid once done is closed
	core chan struct{} // taken by who works
	used atomic.Int64  // nanoseconds of CPU
}

func (x *process) Link() membrane.Link { return x.link }
func (x *process) PID() int            { return x.pid }
func (x *process) Rung() capsid.Rung   { return capsid.RungNone }
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

// Terminate is as [process.Kill]: a simulated program has no handler.
func (x *process) Terminate() error { return x.Kill() }

func pair() (net.Conn, net.Conn, error) {
	a, b := sim.Pipe()
	return a, b, nil
}
