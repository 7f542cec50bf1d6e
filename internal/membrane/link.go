// Package membrane connects a replica with its node over one Unix socket, file
// descriptor 3 of the replica, and hands it connections to its callers and to
// the cells it calls.
//
// The replica has no other way out. It asks its node for a cell; the node
// decides, makes a pair of connected sockets, gives one end to the replica and
// the other to whoever serves, and keeps no copy of either: from then on the
// two talk directly, and each sees the end of the stream when the other dies.
// Replicas never send descriptors; one that does is cut off.
//
// On the descriptor, a stream socket, each message is
//
//	0  u16  length  of the message, little endian; 1 to ops.MaxMessage
//	2  u8   ends    connections that come along, 0 or 1
//	3  u8   zero
//	4  ...  a message of package ops
//
// The connections travel as SCM_RIGHTS with the first four bytes, which are
// read alone. Their number must be the announced one; whatever comes in
// excess, or later, is closed and ends the conversation.
package membrane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"cell.network/cell/internal/ops"
)

// Limits of a link.
const (
	MaxEnds     = 1               // connections that come along with a message
	SendTimeout = 5 * time.Second // after which a peer that does not read is cut off
	headerSize  = 4               // bytes before a message
)

// ErrLink says that the peer broke the rules of the link.
var ErrLink = errors.New("broken link")

// ErrClosed says that this side closed the link.
var ErrClosed = errors.New("link closed")

// Link carries messages of package ops with connections attached.
type Link interface {
	// Send sends one message and hands ends over: they are closed on this side,
	// also where it fails. It may be called from many goroutines; a peer that
	// does not read for SendTimeout ends the link.
	Send(msg []byte, ends ...net.Conn) error
	// Recv waits for one message. The ends belong to the caller. io.EOF: the
	// peer is gone. One goroutine at a time may call it.
	Recv() (msg []byte, ends []net.Conn, err error)
	// Close ends the link for both sides. It may be called twice.
	Close() error
}

// fdLink is a Link over a Unix stream socket.
type fdLink struct {
	conn     *net.UnixConn
	maxEnds  int // that the peer may send
	timeout  time.Duration
	sending  sync.Mutex
	out, oob []byte // guarded by sending
	in       [headerSize]byte
	rights   []byte // room for one descriptor more than the peer may send
}

// NewLink makes the two sides of a link: one for the node, and the file that
// becomes descriptor 3 of the replica. Close the file when the process has
// started, or the node never learns of its end.
func NewLink() (node Link, replica *os.File, err error) {
	fds, err := socketpair()
	if err != nil {
		return nil, nil, fmt.Errorf("make link: %w", err)
	}
	conn, err := connOf(fds[0])
	if err != nil {
		syscall.Close(fds[1])
		return nil, nil, fmt.Errorf("make link: %w", err)
	}
	return newFDLink(conn.(*net.UnixConn), 0), os.NewFile(uintptr(fds[1]), "membrane"), nil
}

// LinkFromFD takes over descriptor fd as the replica's side of a link; the
// number is closed and no child process inherits it.
func LinkFromFD(fd uintptr) (Link, error) {
	conn, err := connOf(int(fd))
	if err != nil {
		return nil, fmt.Errorf("open link on descriptor %d: %w", fd, err)
	}
	unix, ok := conn.(*net.UnixConn)
	if !ok || unix.LocalAddr().Network() != "unix" {
		conn.Close()
		return nil, fmt.Errorf("open link on descriptor %d: %w: it is not a Unix stream socket", fd, ErrLink)
	}
	return newFDLink(unix, MaxEnds), nil
}

// IsLink reports whether descriptor fd can be a replica's side of a link: one
// of a pair of Unix stream sockets. It changes nothing.
func IsLink(fd uintptr) bool {
	kind, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_TYPE)
	if err != nil || kind != syscall.SOCK_STREAM {
		return false
	}
	name, err := syscall.Getsockname(int(fd))
	if err != nil {
		return false
	}
	unix, ok := name.(*syscall.SockaddrUnix)
	if !ok || unix.Name != "" && unix.Name != "@" { // a pair has no name; Linux writes that @
		return false
	}
	_, err = syscall.Getpeername(int(fd))
	return err == nil
}

func newFDLink(conn *net.UnixConn, maxEnds int) *fdLink {
	l := &fdLink{conn: conn, maxEnds: maxEnds, timeout: SendTimeout}
	if maxEnds > 0 {
		l.rights = make([]byte, syscall.CmsgSpace((maxEnds+1)*4))
	}
	return l
}

// SocketPair makes two connected Unix stream sockets.
func SocketPair() (net.Conn, net.Conn, error) {
	fds, err := socketpair()
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	a, err := connOf(fds[0])
	if err != nil {
		syscall.Close(fds[1])
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	b, err := connOf(fds[1])
	if err != nil {
		a.Close()
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return a, b, nil
}

// socketpair leaves both descriptors blocking, since a replica in another
// language expects it so, and marks them close-on-exec without the flags that
// only some systems have.
func socketpair() (fds [2]int, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if fds, err = syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0); err != nil {
		return fds, os.NewSyscallError("socketpair", err)
	}
	syscall.CloseOnExec(fds[0])
	syscall.CloseOnExec(fds[1])
	return fds, nil
}

// connOf turns a descriptor into a connection and closes the original, since
// [net.FileConn] makes a copy.
func connOf(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "end")
	if f == nil {
		return nil, os.NewSyscallError("descriptor", syscall.EBADF)
	}
	defer f.Close()
	return net.FileConn(f)
}

// Send implements [Link].
func (l *fdLink) Send(msg []byte, ends ...net.Conn) error {
	defer closeAll(ends)
	if err := checkMessage(msg, ends); err != nil {
		return err
	}
	l.sending.Lock()
	defer l.sending.Unlock()
	l.out = binary.LittleEndian.AppendUint16(l.out[:0], uint16(len(msg)))
	l.out = append(l.out, byte(len(ends)), 0)
	l.out = append(l.out, msg...)
	l.conn.SetWriteDeadline(time.Now().Add(l.timeout))
	started := false
	err := withDescriptors(ends, nil, func(fds []int) error {
		started = true
		l.oob = l.oob[:0]
		if len(fds) > 0 {
			l.oob = syscall.UnixRights(fds...)
		}
		n, _, err := l.conn.WriteMsgUnix(l.out, l.oob, nil)
		if err == nil && n < len(l.out) { // the rest goes without descriptors
			_, err = l.conn.Write(l.out[n:])
		}
		return err
	})
	if started && err != nil {
		l.conn.Close() // half a message may be out: nothing can follow it
		if errors.Is(err, net.ErrClosed) {
			return ErrClosed
		}
	}
	if err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

func checkMessage(msg []byte, ends []net.Conn) error {
	if len(msg) == 0 || len(msg) > ops.MaxMessage {
		return fmt.Errorf("send message: %d bytes, 1 to %d are allowed", len(msg), ops.MaxMessage)
	}
	if len(ends) > MaxEnds {
		return fmt.Errorf("send message: %d connections, %d are allowed", len(ends), MaxEnds)
	}
	return nil
}

// withDescriptors calls f with the descriptors of conns, which stay open until it
// returns. It does not go through File, whose Fd could make the socket blocking for
// whoever shares it.
func withDescriptors(conns []net.Conn, fds []int, f func([]int) error) error {
	if len(conns) == 0 {
		return f(fds)
	}
	sc, ok := conns[0].(syscall.Conn)
	if !ok {
		return fmt.Errorf("a %T has no descriptor to hand over", conns[0])
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = withDescriptors(conns[1:], append(fds, int(fd)), f) }); err != nil {
		return err
	}
	return inner
}

// Recv implements [Link].
func (l *fdLink) Recv() ([]byte, []net.Conn, error) {
	msg, ends, err := l.recv()
	if err != nil {
		closeAll(ends)
		l.conn.Close()
		if errors.Is(err, net.ErrClosed) {
			err = ErrClosed
		}
		return nil, nil, err
	}
	return msg, ends, nil
}

func (l *fdLink) recv() (msg []byte, ends []net.Conn, err error) {
	for have := 0; have < headerSize; {
		n, got, err := l.read(l.in[have:])
		ends = append(ends, got...)
		switch {
		case err != nil && !(errors.Is(err, io.EOF) && have == 0):
			return nil, ends, fmt.Errorf("receive message: %w", noEOF(err))
		case err != nil:
			return nil, ends, err
		}
		have += n
	}
	length, count := int(binary.LittleEndian.Uint16(l.in[:])), int(l.in[2])
	switch {
	case length == 0 || length > ops.MaxMessage:
		return nil, ends, fmt.Errorf("%w: message of %d bytes, 1 to %d are allowed", ErrLink, length, ops.MaxMessage)
	case l.in[3] != 0:
		return nil, ends, fmt.Errorf("%w: reserved byte is %d", ErrLink, l.in[3])
	case count != len(ends):
		return nil, ends, fmt.Errorf("%w: %d connections announced, %d came", ErrLink, count, len(ends))
	}
	msg = make([]byte, length)
	for have := 0; have < length; {
		n, got, err := l.read(msg[have:])
		ends = append(ends, got...)
		if err != nil {
			return nil, ends, fmt.Errorf("receive message: %w", noEOF(err))
		}
		if len(got) > 0 {
			return nil, ends, fmt.Errorf("%w: a connection in the middle of a message", ErrLink)
		}
		have += n
	}
	return msg, ends, nil
}

// read reads some bytes and the connections that come with them. Where the
// peer may send none, the system drops them and says so.
func (l *fdLink) read(b []byte) (int, []net.Conn, error) {
	n, oobn, flags, _, err := l.conn.ReadMsgUnix(b, l.rights)
	ends, bad := parseRights(l.rights[:oobn])
	switch {
	case errors.Is(err, io.EOF):
		err = io.EOF
	case err != nil:
	case bad != nil:
		err = bad
	case flags&syscall.MSG_CTRUNC != 0:
		err = fmt.Errorf("%w: more connections than allowed", ErrLink)
	case len(ends) > l.maxEnds:
		err = fmt.Errorf("%w: %d connections, %d are allowed", ErrLink, len(ends), l.maxEnds)
	case n == 0:
		err = io.EOF
	}
	return n, ends, err
}

// parseRights makes connections of all descriptors in oob; one that is no
// stream socket is closed and reported.
func parseRights(oob []byte) (ends []net.Conn, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("%w: control message: %v", ErrLink, err)
	}
	for _, m := range messages {
		fds, parseErr := syscall.ParseUnixRights(&m)
		if parseErr != nil {
			continue // not descriptors
		}
		for _, fd := range fds {
			conn, connErr := connOf(fd)
			if connErr != nil {
				err = fmt.Errorf("%w: what came along is no connection: %v", ErrLink, connErr)
				continue
			}
			ends = append(ends, conn)
		}
	}
	return ends, err
}

// Close implements [Link].
func (l *fdLink) Close() error {
	l.conn.Close()
	return nil
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
