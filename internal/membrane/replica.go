package membrane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/ops"
)

// Limits of a replica.
const (
	MaxConns    = 1024 // connections open at once, to and from others
	MaxConnects = 64   // requests for a connection in progress at once
)

// ErrNode says that the node is gone, and with it all that a replica can do.
var ErrNode = errors.New("the node is gone")

// Replica is the replica's side of the membrane.
type Replica struct {
	link    Link
	handler frame.Handler
	times   *frame.Times // of the calls that it serves
	asked   waiters[connected]
	running sync.WaitGroup // goroutines other than handlers
	done    chan struct{}  // closed when the end has begun

	mu       sync.Mutex           // guards all below
	conns    map[*frame.Conn]bool // true: others call on it
	served   uint64               // on connections that have ended
	shed     uint64               // on these, too
	draining bool
	ended    bool
	err      error
}

type connected struct {
	ops.Connected
	end net.Conn // nil where Code is not 0
}

// Serve tells the node that the replica is ready, and from then on serves with
// h every connection that the node hands over. methods are the names that h
// knows. It goes on until the node says stop or drain, the node is gone, or ctx ends.
func Serve(ctx context.Context, link Link, methods []string, h frame.Handler) (*Replica, error) {
	r := &Replica{
		link: link, handler: h, times: frame.NewTimes(), done: make(chan struct{}),
		asked: waiters[connected]{limit: MaxConnects},
		conns: make(map[*frame.Conn]bool),
	}
	if err := send(link, ops.Ready{Version: sdkVersion(), Methods: methods}); err != nil {
		link.Close()
		return nil, fmt.Errorf("say ready: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { r.finish(nil) })
	r.running.Go(func() {
		defer stop()
		r.finish(r.run())
	})
	return r, nil
}

// Wait returns when all has ended: nil after a stop, a drain or the end of
// ctx; otherwise why, such as [ErrNode]. Handlers may still run, with their
// contexts ended, except after a drain that had time enough.
func (r *Replica) Wait() error {
	r.running.Wait()
	return r.err
}

// Connect asks the node for a connection to a cell. Errors are *frame.Error
// with the node's reason.
func (r *Replica) Connect(ctx context.Context, target string) (*frame.Conn, error) {
	seq, answer, ok := r.asked.ask()
	if !ok {
		return nil, &frame.Error{Code: frame.Overloaded, Message: fmt.Sprintf("connect %s: %d requests for a connection are in progress, no more are allowed", target, MaxConnects)}
	}
	if err := send(r.link, ops.Connect{Seq: seq, Target: target}); err != nil {
		r.forget(seq, answer)
		return nil, &frame.Error{Code: frame.NotSent, Message: fmt.Sprintf("connect %s: %v", target, err)}
	}
	select {
	case a := <-answer:
		return r.accept(target, a)
	case <-ctx.Done():
		r.forget(seq, answer)
		return nil, frame.AsError(fmt.Errorf("connect %s: %w", target, ctx.Err()))
	case <-r.done:
		r.forget(seq, answer)
		return nil, &frame.Error{Code: frame.NotSent, Message: fmt.Sprintf("connect %s: the replica ends", target)}
	}
}

func (r *Replica) accept(target string, a connected) (*frame.Conn, error) {
	if a.end == nil {
		return nil, &frame.Error{Code: frame.Code(a.Code), Message: a.Message, Hint: a.Hint}
	}
	conn := r.open(a.end, false)
	if conn == nil {
		return nil, &frame.Error{Code: frame.Overloaded, Message: fmt.Sprintf("connect %s: %d connections are open, no more are allowed", target, MaxConns)}
	}
	return conn, nil
}

// forget gives a connection up that may be arriving just now.
func (r *Replica) forget(seq uint64, answer <-chan connected) {
	if !r.asked.forget(seq) {
		if a := <-answer; a.end != nil {
			a.end.Close()
		}
	}
}

// errStop is the node's wish that the replica ends at once.
var errStop = errors.New("stopped")

// run obeys the node. It returns nil when told to stop.
func (r *Replica) run() error {
	for {
		msg, ends, err := r.link.Recv()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNode, err)
		}
		var end net.Conn
		if len(ends) > 0 {
			end = ends[0]
		}
		used, err := r.obey(msg, end)
		if !used {
			closeAll(ends)
		}
		switch {
		case errors.Is(err, errStop):
			return nil
		case err != nil && !errors.Is(err, ops.ErrUnknown):
			return err
		}
	}
}

// obey acts on one message; used tells whether the connection that came along,
// if any, has found an owner.
func (r *Replica) obey(msg []byte, end net.Conn) (used bool, err error) {
	m, err := ops.Parse(msg)
	if err != nil {
		return false, err
	}
	switch m := m.(type) {
	case ops.Serve:
		if end == nil {
			return false, fmt.Errorf("%w: serve without a connection", ErrLink)
		}
		r.open(end, true)
		return true, nil
	case ops.Connected:
		if (m.Code == 0) != (end != nil) {
			return false, fmt.Errorf("%w: connected with code %d and connection: %v", ErrLink, m.Code, end != nil)
		}
		return r.asked.answer(m.Seq, connected{m, end}), nil
	case ops.Ping:
		if err := send(r.link, ops.Pong{Seq: m.Seq, Stats: r.Stats()}); err != nil {
			return false, fmt.Errorf("%w: %w", ErrNode, err)
		}
		return false, nil
	case ops.Drain:
		r.drain(time.Duration(min(m.Milliseconds, maxDrain)) * time.Millisecond)
		return false, nil
	case ops.Stop:
		return false, errStop
	}
	return false, fmt.Errorf("%w: a node does not send %T", ErrLink, m)
}

// maxDrain bounds the time that a node may give, in milliseconds: a day.
const maxDrain = 24 * 60 * 60 * 1000

// open starts a connection and watches it; nil where no more are allowed.
func (r *Replica) open(end net.Conn, inbound bool) *frame.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || inbound && r.draining || len(r.conns) >= MaxConns {
		end.Close()
		return nil
	}
	var cfg frame.Config
	if inbound {
		cfg.Handler, cfg.Times = r.handler, r.times
	}
	conn := frame.NewConn(end, cfg)
	r.conns[conn] = inbound
	r.running.Go(func() {
		<-conn.Done()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.served += conn.Served()
		r.shed += conn.Shed()
		delete(r.conns, conn)
	})
	return conn
}

// Stats counts what the replica has done and does.
func (r *Replica) Stats() ops.Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := ops.Stats{Served: r.served, Shed: r.shed, P99: uint64(r.times.P99() / time.Microsecond)}
	for conn, inbound := range r.conns {
		if inbound {
			s.Served += conn.Served()
			s.Shed += conn.Shed()
			s.Serving += uint64(conn.Serving())
			s.Connections++
		}
	}
	return s
}

// drain ends the replica when the calls in flight are served, at the latest after d.
func (r *Replica) drain(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining || r.ended {
		return
	}
	r.draining = true
	ctx, cancel := context.WithTimeout(context.Background(), d)
	var drained sync.WaitGroup
	for conn, inbound := range r.conns {
		if inbound {
			drained.Go(func() { conn.Drain(ctx) })
		}
	}
	r.running.Go(func() {
		defer cancel()
		drained.Wait()
		r.finish(nil)
	})
}

// finish begins the end; the first reason stays.
func (r *Replica) finish(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	r.ended, r.err = true, err
	close(r.done)
	r.link.Close()
	for conn := range r.conns {
		r.running.Go(func() { conn.Close() })
	}
}

// send encodes and sends one message.
func send(link Link, m ops.Message, ends ...net.Conn) error {
	b, err := ops.Encode(m)
	if err != nil {
		closeAll(ends)
		return err
	}
	return link.Send(b, ends...)
}

// sdkVersion is the version of this module in the running program.
func sdkVersion() string {
	const module = "cell.network/cell"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == module && m.Version != "" && m.Version != "(devel)" {
			return m.Version
		}
	}
	return "devel"
}
