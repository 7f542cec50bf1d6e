package cell

import (
	"context"
	"fmt"
	"sync"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/identity"
)

// Limits of calling.
const (
	maxCells    = 256              // cells that one process is connected with
	dialTimeout = 30 * time.Second // for finding a cell, whoever waits for it

	leaveTimeout = time.Minute // for the calls in flight to a replica that drains
)

// Call calls the method that target names ("greeter/hello",
// "greeter@z6Mk…/hello") and reads the answer into an Out. in travels as CBOR,
// a []byte as it is. A call that surely was not executed because a connection
// had ended is tried once more. The error has an [*Error] in its chain.
func Call[Out any](ctx context.Context, target string, in any) (Out, error) {
	var out Out
	fail := func(err error) (Out, error) {
		var none Out
		return none, &callError{target, frame.AsError(err)}
	}
	ref, _, err := identity.ParseMethod(target)
	if err != nil {
		return fail(Errorf(Invalid, "%w", err))
	}
	codec, body, err := encode(frame.CBOR, in)
	if err != nil {
		return fail(Errorf(Invalid, "write request: %w", err))
	}
	resp, err := outward.call(ctx, ref.String(), frame.Request{Target: target, Codec: codec, Body: body})
	if err != nil {
		return fail(err)
	}
	if err := decode(resp.Codec, resp.Body, &out); err != nil {
		return fail(Errorf(Invalid, "read response: %w", err))
	}
	return out, nil
}

// outward carries the calls of this process.
var outward = &synapse{dial: dialNode, shared: true}

// synapse holds the connections to the cells that a process calls.
type synapse struct {
	mu     sync.Mutex // guards all below
	dial   func(ctx context.Context, cell string) (*frame.Conn, error)
	shared bool // one connection leads to all cells
	conns  map[string]*contact
}

// contact is a connection, or one in the making.
type contact struct {
	ready chan struct{} // closed when the two below are set
	conn  *frame.Conn
	err   error
}

// become makes all further calls go through the node of this replica.
func (s *synapse) become(dial func(ctx context.Context, cell string) (*frame.Conn, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dial, s.shared, s.conns = dial, false, nil
}

func (s *synapse) call(ctx context.Context, cell string, r frame.Request) (frame.Response, error) {
	for again := true; ; again = false {
		c, err := s.contact(ctx, cell)
		if err != nil {
			return frame.Response{}, err
		}
		resp, err := c.conn.Call(ctx, r)
		switch code := CodeOf(err); {
		case code == Draining:
			s.leave(cell, c)
		case code == NotSent: // where the connection has ended, contact makes a new one
		default:
			return resp, err
		}
		if !again {
			return resp, err
		}
	}
}

// leave drops the connection to a replica that takes nothing new. The replica
// closes it when the calls in flight are done; one that does not is left to
// itself after a while. The connection to the node stays: it leads to others, too.
func (s *synapse) leave(cell string, c *contact) {
	if s.forget(cell, c) {
		time.AfterFunc(leaveTimeout, func() { c.conn.Close() })
	}
}

// contact returns a living connection that leads to cell.
func (s *synapse) contact(ctx context.Context, cell string) (*contact, error) {
	s.mu.Lock()
	if s.shared {
		cell = ""
	}
	c := s.conns[cell]
	if c == nil || c.dead() {
		if err := s.makeRoomLocked(); err != nil {
			s.mu.Unlock()
			return nil, err
		}
		c = &contact{ready: make(chan struct{})}
		if s.conns == nil {
			s.conns = make(map[string]*contact)
		}
		s.conns[cell] = c
		go s.open(c, cell, s.dial)
	}
	s.mu.Unlock()
	select {
	case <-c.ready:
		return c, c.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// open dials for all who wait, whichever of them gives up.
func (s *synapse) open(c *contact, cell string, dial func(ctx context.Context, cell string) (*frame.Conn, error)) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	if c.conn, c.err = dial(ctx, cell); c.err != nil {
		s.forget(cell, c)
	}
	close(c.ready)
}

// dead reports whether the connection has been made and has ended.
func (c *contact) dead() bool {
	select {
	case <-c.ready:
		return c.err != nil || c.conn.Err() != nil
	default:
		return false
	}
}

// makeRoomLocked keeps the number of connections within maxCells.
func (s *synapse) makeRoomLocked() error {
	if len(s.conns) < maxCells {
		return nil
	}
	for cell, c := range s.conns {
		if c.dead() || c.idle() {
			delete(s.conns, cell)
			if c.conn != nil {
				go c.conn.Close()
			}
			return nil
		}
	}
	return &Error{Code: NotSent, Message: fmt.Sprintf("calls to %d cells are in flight, no more are allowed", maxCells)}
}

// idle reports whether the connection has been made and nobody waits on it.
func (c *contact) idle() bool {
	select {
	case <-c.ready:
		return c.conn != nil && c.conn.Inflight() == 0
	default:
		return false
	}
}

// forget makes the next call open a new connection, unless that is the one to
// the node and all is well with it.
func (s *synapse) forget(cell string, c *contact) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shared && c.err == nil || s.conns[cell] != c {
		return false
	}
	delete(s.conns, cell)
	return true
}
