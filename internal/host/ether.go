package host

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
)

// ether is the socket of all circuits: each is an address on it.
type ether struct {
	in      chan letter
	done    chan struct{} // closed by Close
	changed chan struct{} // one token: readBy was set
	closing sync.Once

	mu       sync.Mutex // guards what follows
	circuits map[netip.AddrPort]*circuit
	last     uint64
	readBy   time.Time
}

// letter is a packet that waits to be read.
type letter struct {
	packet []byte
	from   netip.AddrPort
}

func newEther() *ether {
	return &ether{
		in: make(chan letter, circuitQueue), done: make(chan struct{}), changed: make(chan struct{}, 1),
		circuits: make(map[netip.AddrPort]*circuit),
	}
}

// etherAddr is the n-th address; this node's own end is number 0.
func etherAddr(n uint64) netip.Addr {
	a := [16]byte{0: 1}
	binary.BigEndian.PutUint64(a[8:], n)
	return netip.AddrFrom16(a)
}

func etherMultiaddr(a netip.AddrPort) ma.Multiaddr {
	m, err := quicreuse.ToQuicMultiaddr(net.UDPAddrFromAddrPort(a), quic.Version1)
	if err != nil {
		panic(err) // an IPv6 address and a port always have one
	}
	return m
}

// at is this node's own end.
func (e *ether) at() netip.AddrPort { return netip.AddrPortFrom(etherAddr(0), 1) }

// add gives a circuit an address.
func (e *ether) add(c *circuit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last++
	c.at = netip.AddrPortFrom(etherAddr(e.last), 1)
	e.circuits[c.at] = c
}

func (e *ether) detach(c *circuit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.circuits, c.at)
}

func (e *ether) get(at netip.AddrPort) *circuit {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.circuits[at]
}

func (e *ether) find(a ma.Multiaddr) *circuit {
	udp, _, err := quicreuse.FromQuicMultiaddr(a)
	if err != nil {
		return nil
	}
	return e.get(udp.AddrPort())
}

// arrive takes a packet in; where too many wait it is lost.
func (e *ether) arrive(packet []byte, from netip.AddrPort) {
	select {
	case e.in <- letter{packet, from}:
	default:
	}
}

// ReadFrom implements [net.PacketConn].
func (e *ether) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		e.mu.Lock()
		by := e.readBy
		e.mu.Unlock()
		var expired <-chan time.Time
		if !by.IsZero() {
			t := time.NewTimer(time.Until(by))
			defer t.Stop()
			expired = t.C
		}
		select {
		case <-e.done:
			return 0, nil, net.ErrClosed
		default:
		}
		select {
		case l := <-e.in:
			return copy(b, l.packet), net.UDPAddrFromAddrPort(l.from), nil
		case <-e.done:
			return 0, nil, net.ErrClosed
		case <-expired:
			return 0, nil, os.ErrDeadlineExceeded
		case <-e.changed:
		}
	}
}

// WriteTo implements [net.PacketConn]. Nobody answers at the address of a
// circuit that ended.
func (e *ether) WriteTo(b []byte, to net.Addr) (int, error) {
	if udp, ok := to.(*net.UDPAddr); ok {
		if c := e.get(udp.AddrPort()); c != nil {
			c.send(b)
		}
	}
	return len(b), nil
}

// Close implements [net.PacketConn].
func (e *ether) Close() error {
	e.closing.Do(func() { close(e.done) })
	return nil
}

// LocalAddr implements [net.PacketConn].
func (e *ether) LocalAddr() net.Addr {
	return net.UDPAddrFromAddrPort(e.at())
}

// SetReadDeadline implements [net.PacketConn].
func (e *ether) SetReadDeadline(t time.Time) error {
	e.mu.Lock()
	e.readBy = t
	e.mu.Unlock()
	select {
	case e.changed <- struct{}{}:
	default:
	}
	return nil
}

// SetDeadline implements [net.PacketConn].
func (e *ether) SetDeadline(t time.Time) error { return e.SetReadDeadline(t) }

// SetWriteDeadline implements [net.PacketConn]; a circuit that takes nothing ends by itself.
func (e *ether) SetWriteDeadline(time.Time) error { return nil }

// SetReadBuffer and SetWriteBuffer do nothing; QUIC warns where they are missing.
func (e *ether) SetReadBuffer(int) error { return nil }

// SetWriteBuffer implements what QUIC asks of sockets.
func (e *ether) SetWriteBuffer(int) error { return nil }
