package axon

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/identity"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	msmux "github.com/multiformats/go-multistream"
)

// spread is how many calls a lane has in flight before another one is opened:
// fewer lanes write more frames at a time, more lanes wait less for each other.
const spread = 8

// openings is how often a call waits for a lane that then proves dead.
const openings = 3

// protected is the mark that keeps the connection manager from closing the
// connections that lanes are on.
const protected = "axon"

// remote is a node that this one calls.
type remote struct {
	axon  *Axon
	key   identity.Key
	id    peer.ID
	calls int // under way; guarded by axon.mu

	mu      sync.Mutex // guards what follows; may be taken while axon.mu is held
	lanes   []*lane
	opening *opening  // of the next lane, nil when none is being opened
	watched bool      // by a goroutine of watch
	heard   time.Time // when an answer last came
}

// lane is a stream to a node with requests on it.
type lane struct {
	axon    *Axon
	conn    *frame.Conn
	stream  *outward  // that conn is on
	relayed bool      // goes over a relay
	users   int       // calls under way; guarded by remote.mu
	used    time.Time // when the last call ended; guarded by remote.mu
	handed  int64     // what stream.written will be when the requests are, if relayed; guarded by remote.mu
}

// opening is an attempt to open a lane, for everyone who waits for it.
type opening struct {
	done chan struct{}
	err  error // set before done is closed
}

// pick returns the lane with the fewest calls in flight, for put to give back.
// It waits only where there is none, or none but superseded ones.
func (p *remote) pick(ctx context.Context, addrs [][]byte) (*lane, error) {
	for range openings {
		l, next := p.choose(addrs, false)
		if l != nil {
			return l, nil
		}
		select {
		case <-next.done:
			if next.err != nil {
				if l, _ := p.choose(addrs, true); l != nil {
					return l, nil // better than nothing
				}
				return nil, refuse(frame.NotSent, "%v", next.err)
			}
		case <-ctx.Done():
			return nil, frame.AsError(context.Cause(ctx))
		}
	}
	return nil, refuse(frame.NotSent, "the node ends every lane at once")
}

// choose returns a lane, or what is being opened. Lanes over a relay count only
// while there is no direct connection, unless old ones will do.
func (p *remote) choose(addrs [][]byte, old bool) (*lane, *opening) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.buryLocked()
	var best *lane
	open := 0
	for _, l := range p.lanes {
		if !old && l.superseded() {
			continue
		}
		open++
		if best == nil || l.users < best.users {
			best = l
		}
	}
	if !old && (best == nil || best.users >= spread && open < p.axon.cfg.Lanes) && p.opening == nil {
		p.openLocked(addrs)
	}
	if best != nil {
		best.users++
		p.watchLocked()
	}
	return best, p.opening
}

// put gives a lane back that pick returned, and notes whether an answer came.
func (p *remote) put(l *lane, now time.Time, answered bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.users--
	l.used = now
	if answered {
		p.heard = now
	}
	if l.relayed {
		if l.users == 0 {
			l.handed = l.stream.written.Load()
		}
		p.retireLocked()
	}
}

// retireLocked closes the lanes over a relay that have no calls any more, where
// there is one over a direct connection. A call is under way, so the axon still
// waits for its work.
func (p *remote) retireLocked() {
	var old []*lane
	for _, l := range p.lanes {
		if l.users == 0 && l.superseded() {
			old = append(old, l)
		}
	}
	if len(old) == 0 || !slices.ContainsFunc(p.lanes, func(l *lane) bool { return !l.superseded() && l.conn.Err() == nil }) {
		return
	}
	p.lanes = slices.DeleteFunc(p.lanes, func(l *lane) bool { return slices.Contains(old, l) })
	for _, l := range old {
		p.axon.work.Go(func() { l.conn.Close() })
	}
}

// empty reports whether there is neither a lane nor one about to be.
func (p *remote) empty() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.buryLocked()
	return len(p.lanes) == 0 && p.opening == nil
}

// buryLocked forgets dead lanes.
func (p *remote) buryLocked() {
	had := len(p.lanes) > 0
	p.lanes = slices.DeleteFunc(p.lanes, func(l *lane) bool { return l.conn.Err() != nil })
	if had && len(p.lanes) == 0 {
		p.axon.host.ConnManager().Unprotect(p.id, protected)
	}
}

// closeIdle closes the lanes that nobody has used since before, and unused ones
// that are superseded; all if before is zero.
func (p *remote) closeIdle(before time.Time) {
	p.mu.Lock()
	var idle []*lane
	for _, l := range p.lanes {
		if before.IsZero() || l.users == 0 && (l.used.Before(before) || l.superseded()) {
			idle = append(idle, l)
		}
	}
	p.lanes = slices.DeleteFunc(p.lanes, func(l *lane) bool { return slices.Contains(idle, l) })
	if len(idle) > 0 && len(p.lanes) == 0 {
		p.axon.host.ConnManager().Unprotect(p.id, protected)
	}
	p.mu.Unlock()
	for _, l := range idle {
		l.conn.Close()
	}
}

// openLocked begins to open a lane, on behalf of whoever waits and no one in
// particular. A call is under way, so the axon still waits for its work.
func (p *remote) openLocked(addrs [][]byte) {
	o := &opening{done: make(chan struct{})}
	p.opening = o
	p.axon.work.Go(func() {
		l, err := p.open(addrs)
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case err != nil:
			o.err = err
		case p.axon.ctx.Err() != nil:
			o.err = errClosed
			l.conn.Close()
		default:
			p.axon.host.ConnManager().Protect(p.id, protected)
			p.lanes = append(p.lanes, l)
			p.retireLocked()
		}
		p.opening = nil
		close(o.done)
	})
}

var errClosed = errors.New("this node is shutting down")

func (p *remote) open(addrs [][]byte) (*lane, error) {
	ctx, cancel := context.WithTimeout(p.axon.ctx, p.axon.cfg.DialTimeout)
	defer cancel()
	err := p.axon.host.Dial(ctx, p.key, addrs)
	if err != nil {
		return nil, p.unreached(err)
	}
	s, err := p.axon.host.Open(ctx, p.id, p.axon.proto)
	if err != nil {
		return nil, p.unreached(err)
	}
	out := &outward{Stream: s, relayed: s.Conn().Stat().Limited}
	return &lane{axon: p.axon, conn: frame.NewConn(out, frame.Config{}), stream: out, relayed: out.relayed, used: time.Now()}, nil
}

// judge tells a lane that the callee never took from one that was lost.
func (p *remote) judge(l *lane, err error) error {
	cause := l.conn.Err()
	switch frame.AsError(err).Code {
	case frame.NotSent:
		if cause == nil {
			return err
		}
		return l.mourn(refuse(frame.NotSent, "%s before the request was sent", p.lost(cause)))
	case frame.Unavailable:
	default:
		return err
	}
	if cause == nil {
		return err // it is the callee's word
	}
	err = refuse(frame.Unavailable, "%s; whether the request was executed is not known", p.lost(cause))
	var reset *network.StreamError
	switch {
	case errors.Is(cause, msmux.ErrNotSupported[protocol.ID]{}):
		return refuse(frame.Version, "the node does not take requests of this network and version")
	case !errors.As(cause, &reset) || !reset.Remote:
		return l.mourn(err)
	case reset.ErrorCode == network.StreamProtocolNegotiationFailed:
		return refuse(frame.Version, "the node does not take requests of this network and version")
	case reset.ErrorCode == network.StreamResourceLimitExceeded:
		return refuse(frame.Overloaded, "the node has no room for another lane")
	}
	return l.mourn(err)
}

// outward is the caller's end of a lane.
type outward struct {
	network.Stream
	relayed bool
	written atomic.Int64 // bytes, if relayed
}

// Write fails when the peer takes nothing for too long.
func (s *outward) Write(b []byte) (int, error) {
	if err := s.SetWriteDeadline(time.Now().Add(allowance(len(b)))); err != nil {
		return 0, err
	}
	if !s.relayed {
		return s.Stream.Write(b)
	}
	for done := 0; ; {
		n, err := s.Stream.Write(b[done:min(len(b), done+chunk)])
		s.written.Add(int64(n))
		if done += n; err != nil || done == len(b) {
			return done, err
		}
	}
}

// Close gives the lane up at once: nobody waits for what is on it.
func (s *outward) Close() error { return s.Reset() }
