package node

import (
	"container/list"
	"net"
	"net/http"
	"sync"
	"time"
)

// Limits on the connections of local programs.
const (
	maxControlConns = 1024 // open at once; more wait
	maxQuiet        = 512  // of them, those on which no request is being answered: the oldest gives way
	quietTime       = 200 * time.Millisecond
)

// entrance is the listener of the control socket. It holds back new
// connections while maxControlConns are open. Of those that have asked for
// nothing, or not yet in full, it keeps maxQuiet; one that is older than
// quietTime is closed for the sake of a new one. So whoever opens connections
// without end, by mistake or not, delays others by moments.
type entrance struct {
	net.Listener
	slots chan struct{}
	once  sync.Once
	done  chan struct{}

	mu     sync.Mutex
	quiet  map[net.Conn]*list.Element // guarded by mu
	oldest list.List                  // of silence, the oldest first; guarded by mu
}

// silence is a connection that has asked for nothing for some time.
type silence struct {
	conn  net.Conn
	since time.Time
}

func newEntrance(l net.Listener) *entrance {
	return &entrance{
		Listener: l, slots: make(chan struct{}, maxControlConns), done: make(chan struct{}),
		quiet: make(map[net.Conn]*list.Element),
	}
}

// Accept implements [net.Listener].
func (e *entrance) Accept() (net.Conn, error) {
	if err := e.makeRoom(); err != nil {
		return nil, err
	}
	select {
	case e.slots <- struct{}{}:
	case <-e.done:
		return nil, net.ErrClosed
	}
	c, err := e.Listener.Accept()
	if err != nil {
		<-e.slots
		return nil, err
	}
	l := &limitedConn{Conn: c, door: e, release: sync.OnceFunc(func() { <-e.slots })}
	e.hush(l)
	return l, nil
}

// makeRoom returns when one more quiet connection is allowed.
func (e *entrance) makeRoom() error {
	for {
		e.mu.Lock()
		if len(e.quiet) < maxQuiet {
			e.mu.Unlock()
			return nil
		}
		first := e.oldest.Front().Value.(silence)
		wait := quietTime - time.Since(first.since)
		if wait <= 0 {
			e.forgetLocked(first.conn)
		}
		e.mu.Unlock()
		if wait <= 0 {
			_ = first.conn.Close()
			continue
		}
		select {
		case <-time.After(wait):
		case <-e.done:
			return net.ErrClosed
		}
	}
}

// state is told by the server what becomes of a connection.
func (e *entrance) state(c net.Conn, s http.ConnState) {
	switch s {
	case http.StateIdle:
		e.hush(c)
	case http.StateHijacked, http.StateClosed:
		e.forget(c)
	}
}

func (e *entrance) forget(c net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forgetLocked(c)
}

func (e *entrance) hush(c net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forgetLocked(c)
	e.quiet[c] = e.oldest.PushBack(silence{c, time.Now()})
}

func (e *entrance) forgetLocked(c net.Conn) {
	if el, ok := e.quiet[c]; ok {
		e.oldest.Remove(el)
		delete(e.quiet, c)
	}
}

// Close implements [net.Listener].
func (e *entrance) Close() error {
	e.once.Do(func() { close(e.done) })
	return e.Listener.Close()
}

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn
	door    *entrance
	release func()
}

// asked says that a request has come in full.
func (c *limitedConn) asked() { c.door.forget(c) }

func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}
