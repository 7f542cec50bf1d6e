package sim

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipeBuffer is how many bytes wait in each direction of a pipe before a write blocks.
const pipeBuffer = 64 << 10

// Pipe returns the two ends of a connection in memory. Unlike [net.Pipe] it
// buffers, so that two sides may write before either reads; like a Unix socket
// it delivers what was written before a Close. Both ends have deadlines.
func Pipe() (net.Conn, net.Conn) {
	a, b := newHalf(), newHalf()
	return &end{in: a, out: b}, &end{in: b, out: a}
}

// half is one direction of a pipe.
type half struct {
	mu       sync.Mutex // guards what follows
	buf      []byte
	finished bool          // the writer is gone: what is buffered is the last
	broken   bool          // the reader is gone: writes fail
	changed  chan struct{} // closed and replaced at every change
	readBy   time.Time
	writeBy  time.Time
}

func newHalf() *half { return &half{changed: make(chan struct{})} }

func (h *half) changeLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// change applies f and wakes whoever waits.
func (h *half) change(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.changeLocked()
}

// waitLocked releases the lock until something changes or the time is up.
func (h *half) waitLocked(by time.Time) error {
	var expired <-chan time.Time
	if !by.IsZero() {
		left := time.Until(by)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		t := time.NewTimer(left)
		defer t.Stop()
		expired = t.C
	}
	changed := h.changed
	h.mu.Unlock()
	defer h.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-expired:
		return os.ErrDeadlineExceeded
	}
}

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.broken:
			return 0, net.ErrClosed
		case !h.readBy.IsZero() && time.Until(h.readBy) <= 0:
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case len(h.buf) > 0:
			n := copy(b, h.buf)
			h.buf = h.buf[n:]
			if len(h.buf) == 0 {
				h.buf = nil
			}
			h.changeLocked()
			return n, nil
		case h.finished:
			return 0, io.EOF
		}
		if err := h.waitLocked(h.readBy); err != nil {
			return 0, err
		}
	}
}

func (h *half) write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	done := 0
	for {
		switch {
		case h.finished:
			return done, net.ErrClosed
		case h.broken:
			return done, io.ErrClosedPipe
		case !h.writeBy.IsZero() && time.Until(h.writeBy) <= 0:
			return done, os.ErrDeadlineExceeded
		case done == len(b):
			return done, nil
		}
		if room := pipeBuffer - len(h.buf); room > 0 {
			n := min(room, len(b)-done)
			h.buf = append(h.buf, b[done:done+n]...)
			done += n
			h.changeLocked()
			continue
		}
		if err := h.waitLocked(h.writeBy); err != nil {
			return done, err
		}
	}
}

// end is one side of a pipe.
type end struct{ in, out *half }

func (e *end) Read(b []byte) (int, error)  { return e.in.read(b) }
func (e *end) Write(b []byte) (int, error) { return e.out.write(b) }

// Close ends both directions: the peer reads what is buffered and then EOF,
// and its writes fail.
func (e *end) Close() error {
	e.in.change(func() { e.in.broken, e.in.buf = true, nil })
	e.out.change(func() { e.out.finished = true })
	return nil
}

// CloseWrite ends one direction, as the method of [net.UnixConn] does.
func (e *end) CloseWrite() error {
	e.out.change(func() { e.out.finished = true })
	return nil
}

func (e *end) LocalAddr() net.Addr  { return pipeAddr{} }
func (e *end) RemoteAddr() net.Addr { return pipeAddr{} }

func (e *end) SetDeadline(t time.Time) error {
	_ = e.SetReadDeadline(t)
	return e.SetWriteDeadline(t)
}

func (e *end) SetReadDeadline(t time.Time) error {
	e.in.change(func() { e.in.readBy = t })
	return nil
}

func (e *end) SetWriteDeadline(t time.Time) error {
	e.out.change(func() { e.out.writeBy = t })
	return nil
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "sim" }
func (pipeAddr) String() string  { return "pipe" }
