package frame

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// answersPerBuffered is how many times MaxBuffered the responses may hold that
// wait because the peer does not read.
const answersPerBuffered = 4

// server runs the handler for the calls of the peer.
type server struct {
	conn   *Conn
	served atomic.Uint64
	shed   atomic.Uint64
	pool   workers

	mu       sync.Mutex // guards all below
	calls    map[uint64]*inbound
	held     int           // bytes of request bodies being served
	answers  int           // bytes of responses that wait to be queued
	draining bool          // refuse new calls
	idle     chan struct{} // closed when calls becomes empty; nil while nobody waits
	err      error         // the connection ended: refuse all
}

// admit decides about a request by its header alone. An *Error refuses this
// call only; any other error ends the connection.
func (s *server) admit(h header) (*inbound, error) {
	cfg := &s.conn.cfg
	switch {
	case cfg.Handler == nil:
		return nil, errorf(NoMethod, "this side of the connection serves nothing")
	case h.body() > cfg.MaxBody:
		return nil, errorf(TooLarge, "request of %d bytes, %d are allowed", h.body(), cfg.MaxBody)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, twice := s.calls[h.call]; twice {
		return nil, fmt.Errorf("%w: two calls with the number %d at once", ErrMalformed, h.call)
	}
	switch {
	case s.err != nil:
		return nil, s.err
	case s.draining:
		return nil, errorf(Draining, "the replica takes no new calls")
	case len(s.calls) >= cfg.MaxInflight:
		return nil, errorf(Overloaded, "%d calls are in flight, no more are allowed", len(s.calls))
	case s.held+h.body() > cfg.MaxBuffered:
		return nil, errorf(Overloaded, "requests in flight hold %d bytes, %d are allowed", s.held+h.body(), cfg.MaxBuffered)
	}
	in := &inbound{server: s, call: h.call, deadline: deadlineIn(h.remaining)}
	s.held += h.body()
	s.calls[h.call] = in
	return in, nil
}

// run serves one call; keep tells its goroutine to wait for another one.
func (in *inbound) run() (keep bool) {
	s, cfg := in.server, &in.server.conn.cfg
	resp, err := cfg.Handler(in, in.request)
	if in.start != 0 {
		cfg.Times.end(in.start)
	}
	e := AsError(err)
	if e == nil && len(resp.Body) > cfg.MaxBody {
		e = errorf(TooLarge, "response of %d bytes, %d are allowed", len(resp.Body), cfg.MaxBody)
	}
	if e != nil {
		resp = Response{}
	}

	s.mu.Lock()
	s.held -= len(in.request.Body)
	if s.answers+len(resp.Body) > answersPerBuffered*cfg.MaxBuffered {
		e = errorf(Unavailable, "the response was dropped: %d bytes of others wait to be read", s.answers)
		resp = Response{}
	}
	s.answers += len(resp.Body)
	gone := in.gone
	s.mu.Unlock()

	switch {
	case gone:
	case e != nil:
		h, message, hint := errorFrame(in.call, e)
		s.conn.out.put(nil, h, hint, message)
	default:
		s.conn.out.put(nil, header{kind: kindResponse, codec: resp.Codec, call: in.call}, "", resp.Body)
	}

	s.served.Add(1)
	s.mu.Lock()
	s.answers -= len(resp.Body)
	s.removeLocked(in)
	keep = s.keepLocked()
	s.mu.Unlock()
	in.end(context.Canceled)
	return keep
}

// drop forgets a call whose body never came.
func (s *server) drop(in *inbound, body int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held -= body
	s.removeLocked(in)
}

func (s *server) removeLocked(in *inbound) {
	delete(s.calls, in.call)
	if len(s.calls) == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// cancel ends the context of a call; an unknown one may have been answered already.
func (s *server) cancel(call uint64) {
	s.mu.Lock()
	in := s.calls[call]
	if in != nil {
		in.gone = true
	}
	s.mu.Unlock()
	if in != nil {
		in.end(context.Canceled)
	}
}

// fail ends the contexts of all calls and refuses new ones.
func (s *server) fail(err error) {
	s.mu.Lock()
	s.err = err
	calls := make([]*inbound, 0, len(s.calls))
	for _, in := range s.calls {
		in.gone = true
		calls = append(calls, in)
	}
	waiting := s.dismissLocked()
	s.mu.Unlock()
	s.dismiss(waiting)
	for _, in := range calls {
		in.end(context.Canceled)
	}
}

// refuse takes no new calls.
func (s *server) refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
}

// drain waits until no call is left.
func (s *server) drain(ctx context.Context) error {
	s.mu.Lock()
	for len(s.calls) > 0 {
		if s.idle == nil {
			s.idle = make(chan struct{})
		}
		idle := s.idle
		s.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
			return ctx.Err()
		}
		s.mu.Lock()
	}
	s.mu.Unlock()
	return nil
}

func (s *server) inflight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

func errorFrame(call uint64, e *Error) (h header, message []byte, hint string) {
	e = e.Clip()
	return header{kind: kindResponse, call: call, code: e.Code}, []byte(e.Message), e.Hint
}
