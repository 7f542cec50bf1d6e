// Package axon carries requests between nodes over a few long-lived streams of
// one QUIC connection.
//
// A lane is a stream of protocol /cell/<network>/axon/1 that the caller opens;
// on it go frames as package frame has them, requests one way and responses
// the other. The callee knows the caller by the key that the connection
// proved. A request with an empty target is answered by axon itself with an
// empty body: a ping. A lane that the callee has no room for is reset with
// libp2p's code for an exceeded limit before anything on it is executed. Lanes
// over a relay are given up, when the calls on them have ended, as soon as there
// is a direct connection.
//
// Opening a stream for every request costs seven times the CPU of a frame on a
// lane (BenchmarkEcho, 64 callers, both ends: 55 µs against 7 µs), most of it
// for negotiating what the lane has negotiated once.
package axon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// Handler serves one request of the node from. It is called as
// [frame.Handler] is.
type Handler func(ctx context.Context, from identity.Key, r frame.Request) (frame.Response, error)

// Config of an [Axon]. The zero value calls, and refuses to serve.
type Config struct {
	Handler     Handler       // nil: calls are refused with NoMethod
	Lanes       int           // to one node at most; default 4
	Peers       int           // nodes that are called at a time at most; default 512
	Idle        time.Duration // after which an unused lane is closed; default 1 m
	DialTimeout time.Duration // for a connection and a lane on it; default 5 s
}

func (c *Config) fill() {
	if c.Lanes <= 0 {
		c.Lanes = 4
	}
	if c.Peers <= 0 {
		c.Peers = 512
	}
	if c.Idle <= 0 {
		c.Idle = time.Minute
	}
	if c.DialTimeout <= 0 {
		c.DialTimeout = 5 * time.Second
	}
}

// Axon is a node's end of all lanes. It is safe for concurrent use.
type Axon struct {
	host  *host.Host
	proto protocol.ID
	cfg   Config
	door  *door // for the calls of others
	ctx   context.Context
	stop  context.CancelFunc
	work  sync.WaitGroup // goroutines and calls
	end   sync.Once

	mu      sync.Mutex // guards what follows
	closed  bool
	remotes map[identity.Key]*remote
}

// New starts to serve and makes ready to call.
func New(h *host.Host, network identity.Network, c Config) *Axon {
	c.fill()
	a := &Axon{host: h, proto: host.Protocol(network, "axon/1"), cfg: c, remotes: make(map[identity.Key]*remote)}
	a.ctx, a.stop = context.WithCancel(context.Background())
	a.door = newDoor(a)
	h.SetStreamHandler(a.proto, a.door.accept)
	a.work.Go(a.tidy)
	return a
}

// Call sends a request to a node and waits for its response, for ctx, or for
// the loss of the lane. addrs are binary multiaddrs at which to dial the node
// where there is no connection. Every error is a [*frame.Error]: with NotSent,
// Version or Overloaded it was not executed and may be tried elsewhere; with
// Unavailable nobody can know. While the node is reached over a relay alone, a
// request that is more than a relay passes on is TooLarge, and one that is more
// than the relay has left is NotSent.
func (a *Axon) Call(ctx context.Context, to identity.Key, addrs [][]byte, r frame.Request) (frame.Response, error) {
	resp, _, err := a.call(ctx, to, addrs, r)
	return resp, err
}

// Ping measures the time of a round trip to a node, connection set-up not included.
func (a *Axon) Ping(ctx context.Context, to identity.Key, addrs [][]byte) (time.Duration, error) {
	_, took, err := a.call(ctx, to, addrs, frame.Request{})
	return took, err
}

func (a *Axon) call(ctx context.Context, to identity.Key, addrs [][]byte, r frame.Request) (frame.Response, time.Duration, error) {
	p, err := a.enter(to)
	if err != nil {
		return frame.Response{}, 0, err
	}
	defer a.leave(p)
	for again := true; ; again = false {
		l, err := p.pick(ctx, addrs)
		if err != nil {
			return frame.Response{}, 0, err
		}
		began := time.Now()
		if err := p.admit(l, r); err != nil {
			p.put(l, began, false)
			return frame.Response{}, 0, err
		}
		resp, err := l.conn.Call(ctx, r)
		took := time.Since(began)
		p.put(l, began.Add(took), l.conn.Err() == nil && ctx.Err() == nil)
		if err == nil {
			return resp, took, nil
		}
		err = p.judge(l, err)
		if again && errors.Is(err, errNotSent) && l.conn.Err() != nil && ctx.Err() == nil {
			continue // the lane had died before the request was on it
		}
		return frame.Response{}, took, err
	}
}

var errNotSent = &frame.Error{Code: frame.NotSent}

func refuse(c frame.Code, format string, args ...any) *frame.Error {
	return &frame.Error{Code: c, Message: fmt.Sprintf(format, args...)}
}

// enter returns what is kept of a node to call, which stays until leave.
func (a *Axon) enter(to identity.Key) (*remote, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.remotes[to]
	switch {
	case a.closed:
		return nil, refuse(frame.NotSent, "this node is shutting down")
	case p != nil:
	case to == a.host.Key():
		return nil, refuse(frame.NotSent, "a node does not call itself")
	case len(a.remotes) >= a.cfg.Peers:
		return nil, refuse(frame.Overloaded, "this node talks to %d others already, no more are allowed", len(a.remotes))
	default:
		id, err := host.PeerID(to)
		if err != nil {
			return nil, refuse(frame.NotSent, "call node: %v", err)
		}
		p = &remote{axon: a, key: to, id: id}
		a.remotes[to] = p
	}
	p.calls++
	a.work.Add(1)
	return p, nil
}

func (a *Axon) leave(p *remote) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p.calls--; p.calls == 0 && p.empty() {
		delete(a.remotes, p.key)
	}
	a.work.Done()
}

// tidy closes lanes that have not been used for a while.
func (a *Axon) tidy() {
	tick := time.NewTicker(a.cfg.Idle / 4)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			for _, p := range a.all() {
				p.closeIdle(now.Add(-a.cfg.Idle))
				a.mu.Lock()
				if p.calls == 0 && p.empty() {
					delete(a.remotes, p.key)
				}
				a.mu.Unlock()
			}
			a.door.closeIdle(now.Add(-2 * a.cfg.Idle))
		case <-a.ctx.Done():
			return
		}
	}
}

func (a *Axon) all() []*remote {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]*remote, 0, len(a.remotes))
	for _, p := range a.remotes {
		all = append(all, p)
	}
	return all
}

// Drain refuses new calls of other nodes with Draining and returns when those
// under way have been answered, or with ctx's error. Calls of this node go on.
func (a *Axon) Drain(ctx context.Context) error { return a.door.drain(ctx) }

// Close ends all lanes and calls, and waits for them and for the handlers, whose
// contexts have ended. It may be called again.
func (a *Axon) Close() error {
	a.end.Do(func() {
		a.mu.Lock()
		a.closed = true
		a.mu.Unlock()
		a.host.RemoveStreamHandler(a.proto)
		a.stop()
		a.door.close()
		for _, p := range a.all() {
			p.closeIdle(time.Time{})
		}
		a.work.Wait()
	})
	return nil
}
