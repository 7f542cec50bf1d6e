package membrane

import (
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// maxQueued is the number of messages that a link in memory holds per direction.
const maxQueued = 256

type packet struct {
	msg  []byte
	ends []net.Conn
}

// memLink is a Link in memory, which a synctest bubble can wait for.
type memLink struct {
	in, out chan packet
	closed  chan struct{} // by this side
	peer    chan struct{} // closed by the other side
	once    *sync.Once
}

// MemLink returns the two sides of a link in memory: connections are handed
// over as they are.
func MemLink() (Link, Link) {
	ab, ba := make(chan packet, maxQueued), make(chan packet, maxQueued)
	aClosed, bClosed := make(chan struct{}), make(chan struct{})
	a := &memLink{in: ba, out: ab, closed: aClosed, peer: bClosed, once: new(sync.Once)}
	b := &memLink{in: ab, out: ba, closed: bClosed, peer: aClosed, once: new(sync.Once)}
	return a, b
}

// Send implements [Link].
func (l *memLink) Send(msg []byte, ends ...net.Conn) error {
	if err := checkMessage(msg, ends); err != nil {
		closeAll(ends)
		return err
	}
	timeout := time.NewTimer(SendTimeout)
	defer timeout.Stop()
	select {
	case <-l.closed:
		closeAll(ends)
		return ErrClosed
	case <-l.peer:
		closeAll(ends)
		return io.ErrClosedPipe
	default:
	}
	select {
	case l.out <- packet{slices.Clone(msg), slices.Clone(ends)}:
		select {
		case <-l.peer: // it may have closed just before: nobody will take these
			discard(l.out)
		default:
		}
		return nil
	case <-l.closed:
		closeAll(ends)
		return ErrClosed
	case <-l.peer:
		closeAll(ends)
		return io.ErrClosedPipe
	case <-timeout.C:
		closeAll(ends)
		l.Close()
		return ErrClosed
	}
}

// Recv implements [Link].
func (l *memLink) Recv() ([]byte, []net.Conn, error) {
	select {
	case <-l.closed:
		return nil, nil, ErrClosed
	default:
	}
	select {
	case p := <-l.in:
		return p.msg, p.ends, nil
	case <-l.closed:
		return nil, nil, ErrClosed
	case <-l.peer:
		select {
		case p := <-l.in: // sent before the end
			return p.msg, p.ends, nil
		default:
			return nil, nil, io.EOF
		}
	}
}

// Close implements [Link]; connections that nobody received are closed.
func (l *memLink) Close() error {
	l.once.Do(func() {
		close(l.closed)
		discard(l.in)
	})
	return nil
}

func discard(queue <-chan packet) {
	for {
		select {
		case p := <-queue:
			closeAll(p.ends)
		default:
			return
		}
	}
}
