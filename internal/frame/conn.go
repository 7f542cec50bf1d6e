package frame

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Sizes of reading.
const (
	readBuffer = 16 << 10 // bytes read ahead
	firstChunk = 64 << 10 // bytes of a body for which memory is taken before they have come
	maxTargets = 64       // targets that a connection remembers, so as not to copy them again
)

// ErrClosed is the reason of a connection that this side closed.
var ErrClosed = errors.New("connection closed")

// Request is what a caller asks.
type Request struct {
	Target string // method ("hello") or full target ("greeter@z6Mk…/hello"), at most MaxMeta bytes
	Codec  Codec  // of Body
	Body   []byte // at most MaxBody bytes
}

// Response is what a handler answers.
type Response struct {
	Codec Codec  // of Body
	Body  []byte // at most MaxBody bytes
}

// Handler serves one request, on a goroutine of its own. ctx has the caller's
// deadline and ends when the caller gives up, the connection is lost or the
// handler returns. The request's body belongs to the handler, the response's to the connection. An
// error crosses the wire as [AsError] has it. A panic is not recovered here.
type Handler func(ctx context.Context, r Request) (Response, error)

// Config of a connection. The zero value calls and serves nothing.
type Config struct {
	// Handler serves the calls of the peer. nil refuses them with NoMethod.
	Handler Handler
	// MaxBody limits request and response bodies, in bytes. Default and upper limit: MaxBody.
	MaxBody int
	// MaxInflight limits the calls in flight, for each direction. Default: MaxInflight.
	MaxInflight int
	// MaxBuffered limits the bytes of request bodies that are served at once;
	// what is beyond is refused with Overloaded. Responses that wait for a slow
	// reader may hold four times as much. Default: 16 MiB.
	MaxBuffered int
	// Times measures the calls that the handler serves. nil: nothing does.
	Times *Times
}

func (c *Config) fill() {
	if c.MaxBody <= 0 || c.MaxBody > MaxBody {
		c.MaxBody = MaxBody
	}
	if c.MaxInflight <= 0 {
		c.MaxInflight = MaxInflight
	}
	if c.MaxBuffered <= 0 {
		c.MaxBuffered = 16 << 20
	}
}

// Conn is one end of a connection. Its methods may be called at once from many goroutines.
type Conn struct {
	rw      io.ReadWriteCloser
	cfg     Config
	out     queue
	calls   caller
	serving server

	end  sync.Once     // of the connection
	done chan struct{} // closed when reader and writer have ended
}

// NewConn takes over rw, which it closes in the end, and starts to read from
// it and to serve. It owns two goroutines, one more for each call being served, and
// keeps some of these for the next calls.
func NewConn(rw io.ReadWriteCloser, cfg Config) *Conn {
	cfg.fill()
	c := &Conn{rw: rw, cfg: cfg, done: make(chan struct{})}
	c.out.init()
	c.calls = caller{calls: make(map[uint64]*call), limit: cfg.MaxInflight}
	c.serving.conn, c.serving.calls = c, make(map[uint64]*inbound)
	c.serving.pool.work = make(chan *inbound, maxIdle)
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		if err := c.out.run(rw); err != nil {
			c.fail(fmt.Errorf("write frames: %w", err))
		}
	}()
	go func() {
		c.fail(c.read())
		<-writing
		close(c.done)
	}()
	return c
}

// Inflight is the number of calls of this side that wait for a response.
func (c *Conn) Inflight() int { return c.calls.inflight() }

// Serving is the number of calls of the peer that are being served.
func (c *Conn) Serving() int { return c.serving.inflight() }

// Served is the number of calls of the peer that were served, refused ones not included.
func (c *Conn) Served() uint64 { return c.serving.served.Load() }

// Shed is the number of calls of the peer that were refused with Overloaded by
// this end; those that a handler answered with it are not among them.
func (c *Conn) Shed() uint64 { return c.serving.shed.Load() }

// Done is closed when the connection has ended; [Conn.Err] then says why.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns nil while the connection lives, then why it ended: [ErrClosed],
// [ErrMalformed], io.EOF where the peer closed it, or what the stream reported.
func (c *Conn) Err() error { return c.calls.reason() }

// hangUp is how long a peer may take to read that it is left, and to hang up
// when it has all its responses.
const hangUp = 500 * time.Millisecond

// errLeft is the reason of a connection on which the peer serves no more.
var errLeft = errors.New("the peer takes no new calls")

// Drain tells the peer that no new calls are taken, and returns when those in
// flight have been served, their responses written and the peer has hung up, or
// could have. What the peer sent before it read that is in flight too; after
// hangUp all else is refused with Draining. Calls of this side go on; Close the
// connection when Drain has returned.
func (c *Conn) Drain(ctx context.Context) error {
	c.out.post(header{kind: kindLeave})
	late := time.AfterFunc(hangUp, c.serving.refuse)
	defer func() {
		late.Stop()
		c.serving.refuse()
	}()
	for {
		if err := c.serving.drain(ctx); err != nil {
			return err
		}
		c.out.flush(ctx.Done())
		select {
		case <-c.done:
			return nil
		case <-time.After(hangUp): // it serves as well, or is of an older version
		case <-ctx.Done():
			return ctx.Err()
		}
		c.serving.refuse()
		if c.serving.inflight() == 0 {
			c.out.flush(ctx.Done()) // of what came in the last moment
			return nil
		}
	}
}

// useless reports whether this end neither serves nor calls, nor will.
func (c *Conn) useless() bool { return c.cfg.Handler == nil && c.calls.over() }

// Close ends the connection: calls in flight fail, contexts of handlers end.
// It waits for the connection's goroutines but not for handlers, which
// [Conn.Drain] does.
func (c *Conn) Close() error {
	c.fail(ErrClosed)
	<-c.done
	return nil
}

// fail ends the connection; the first reason stays.
func (c *Conn) fail(err error) {
	c.end.Do(func() {
		c.calls.fail(err)
		c.out.close()
		c.rw.Close()
		c.serving.fail(err)
	})
}

// read takes frames apart until the stream ends.
func (c *Conn) read() error {
	r := bufio.NewReaderSize(c.rw, readBuffer)
	targets := make(map[string]string)
	skip := uint32(0) // calls, see Times
	for {
		b, err := r.Peek(HeaderSize)
		if err != nil {
			if len(b) > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		h, err := parseHeader(b)
		if err != nil {
			return err
		}
		r.Discard(HeaderSize)
		switch h.kind {
		case kindRequest:
			err = c.readRequest(r, h, targets, &skip)
		case kindResponse:
			err = c.readResponse(r, h)
		case kindCancel:
			c.serving.cancel(h.call)
		case kindLeave:
			c.calls.end()
			_, err = r.Discard(int(h.length))
		default: // of a later version
			_, err = r.Discard(int(h.length))
		}
		if err != nil {
			return noEOF(err)
		}
		if c.useless() {
			return errLeft
		}
	}
}

func (c *Conn) readRequest(r *bufio.Reader, h header, targets map[string]string, skip *uint32) error {
	in, err := c.serving.admit(h)
	if err != nil {
		refusal, ok := err.(*Error)
		if !ok {
			return err
		}
		if refusal.Code == Overloaded {
			c.serving.shed.Add(1)
		}
		if err := c.out.refuse(h.call, refusal); err != nil {
			return err
		}
		_, err = r.Discard(int(h.length))
		return err
	}
	if in.request, err = readRequestBody(r, h, targets); err != nil {
		c.serving.drop(in, h.body())
		return err
	}
	if c.cfg.Times != nil {
		in.start = c.cfg.Times.start(skip)
	}
	c.serving.start(in)
	return nil
}

func readRequestBody(r *bufio.Reader, h header, targets map[string]string) (Request, error) {
	meta, err := r.Peek(int(h.meta))
	if err != nil {
		return Request{}, err
	}
	target, known := targets[string(meta)]
	if !known {
		target = string(meta)
		if len(targets) < maxTargets {
			targets[target] = target
		}
	}
	r.Discard(int(h.meta))
	body, err := readBody(r, h.body())
	return Request{Target: target, Codec: h.codec, Body: body}, err
}

func (c *Conn) readResponse(r *bufio.Reader, h header) error {
	if h.body() > c.cfg.MaxBody || h.body() > firstChunk && !c.calls.waiting(h.call) {
		c.calls.deliver(h.call, Response{}, errorf(TooLarge, "response of %d bytes, %d are allowed", h.body(), c.cfg.MaxBody))
		_, err := r.Discard(int(h.length))
		return err
	}
	hint, err := r.Peek(int(h.meta))
	if err != nil {
		return err
	}
	var e error
	if h.code != OK {
		e = &Error{Code: h.code, Hint: clip(string(hint), MaxMeta)}
	}
	r.Discard(int(h.meta))
	body, err := readBody(r, h.body())
	if err != nil {
		return err
	}
	if e != nil {
		e.(*Error).Message = clip(string(body), MaxMessage)
		c.calls.deliver(h.call, Response{}, e)
		return nil
	}
	c.calls.deliver(h.call, Response{Codec: h.codec, Body: body}, nil)
	return nil
}

// readBody reads n bytes; the memory that it takes is at most twice what has come.
func readBody(r io.Reader, n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	body := make([]byte, min(n, firstChunk))
	for have := 0; ; {
		if _, err := io.ReadFull(r, body[have:]); err != nil {
			return nil, err
		}
		if have = len(body); have == n {
			return body, nil
		}
		grown := make([]byte, min(n, 2*have))
		copy(grown, body)
		body = grown
	}
}

// noEOF turns the end of the stream in the middle of a frame into an error of its own.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
