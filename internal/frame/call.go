package frame

import (
	"context"
	"sync"
	"time"
)

// call is one call of this end until its response has come.
type call struct {
	done chan struct{} // receives once the two below are set
	resp Response
	err  error
}

// maxFree is how many ended calls a connection keeps for the next ones.
const maxFree = 64

// caller holds the calls of this end.
type caller struct {
	mu    sync.Mutex // guards all below
	calls map[uint64]*call
	free  []*call // ended; not shared among connections, since one of a synctest bubble must stay there
	last  uint64  // number of the newest call
	limit int
	leave bool  // the peer takes no new calls
	lost  error // the connection ended
}

// add makes a call and its number.
func (c *caller) add() (*call, uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.lost != nil:
		return nil, 0, errorf(NotSent, "the connection is closed: %v", c.lost)
	case c.leave:
		return nil, 0, errorf(Draining, "the peer takes no new calls")
	case len(c.calls) >= c.limit:
		return nil, 0, errorf(Overloaded, "%d calls are in flight on this connection, no more are allowed", c.limit)
	}
	var p *call
	if n := len(c.free); n > 0 {
		p, c.free = c.free[n-1], c.free[:n-1]
	} else {
		p = &call{done: make(chan struct{}, 1)}
	}
	c.last++
	c.calls[c.last] = p
	return p, c.last, nil
}

// release takes the result out of a call that has been delivered.
func (c *caller) release(p *call) (Response, error) {
	resp, err := p.resp, p.err
	p.resp, p.err = Response{}, nil
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.free) < maxFree {
		c.free = append(c.free, p)
	}
	return resp, err
}

// remove gives the call up, unless its response is being delivered already.
func (c *caller) remove(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, waiting := c.calls[id]
	delete(c.calls, id)
	return waiting
}

// end makes no more calls: the peer takes none.
func (c *caller) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave = true
}

// over reports whether there are no calls and will be none.
func (c *caller) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leave && len(c.calls) == 0
}

func (c *caller) waiting(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.calls[id]
	return ok
}

// deliver ends a call; a call that nobody waits for is ignored.
func (c *caller) deliver(id uint64, resp Response, err error) {
	c.mu.Lock()
	p := c.calls[id]
	delete(c.calls, id)
	c.mu.Unlock()
	if p != nil {
		p.resp, p.err = resp, err
		p.done <- struct{}{}
	}
}

// fail ends all calls and refuses new ones.
func (c *caller) fail(err error) {
	c.mu.Lock()
	calls := c.calls
	c.calls, c.lost = nil, err
	c.mu.Unlock()
	for _, p := range calls {
		p.err = errLost
		p.done <- struct{}{}
	}
}

func (c *caller) inflight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls)
}

func (c *caller) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// errLost marks a call that was waiting when the connection ended.
var errLost = errorf(Unavailable, "the connection was lost")

// Call sends r and waits for the response, for ctx or for the end of the
// connection. The body may be reused as soon as Call returns; that of the
// response belongs to the caller. Every error is an [*Error]: NotSent where
// the request surely was not executed, Unavailable where nobody can know.
func (c *Conn) Call(ctx context.Context, r Request) (Response, error) {
	switch {
	case len(r.Target) > MaxMeta:
		return Response{}, errorf(TooLarge, "target of %d bytes, %d are allowed", len(r.Target), MaxMeta)
	case len(r.Body) > c.cfg.MaxBody:
		return Response{}, errorf(TooLarge, "request of %d bytes, %d are allowed", len(r.Body), c.cfg.MaxBody)
	}
	if err := ctx.Err(); err != nil {
		return Response{}, AsError(err)
	}
	h := header{kind: kindRequest, codec: r.Codec}
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		if left <= 0 {
			return Response{}, AsError(context.DeadlineExceeded)
		}
		h.remaining = uint64(max(left/time.Microsecond, 1))
	}

	p, id, err := c.calls.add()
	if err != nil {
		return Response{}, err
	}
	h.call = id
	batch, queued := c.out.put(ctx.Done(), h, r.Target, r.Body)
	if queued {
		select {
		case <-p.done:
			return c.finish(p, batch, true)
		case <-ctx.Done():
		}
	}
	if !c.calls.remove(h.call) { // the response, or the end, is just being delivered
		<-p.done
		return c.finish(p, batch, queued)
	}
	if queued {
		c.out.post(header{kind: kindCancel, call: h.call})
	}
	if c.useless() {
		c.fail(errLeft)
	}
	if err := ctx.Err(); err != nil {
		return Response{}, AsError(err)
	}
	return Response{}, errorf(NotSent, "the connection was closed")
}

// finish takes the result out of a call that was delivered.
func (c *Conn) finish(p *call, batch uint64, queued bool) (Response, error) {
	resp, err := c.calls.release(p)
	if err != errLost {
		return resp, err
	}
	if !queued || !c.out.written(batch) {
		return Response{}, errorf(NotSent, "the connection was lost before the request was sent: %v", c.calls.reason())
	}
	return Response{}, errorf(Unavailable, "the connection was lost, the outcome is unknown: %v", c.calls.reason())
}
