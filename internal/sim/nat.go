package sim

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// DefaultNATExpiry is how long a mapping lives that nobody sends through.
const DefaultNATExpiry = 2 * time.Minute

// natQueue is how many packets wait for a reader behind a NAT before more are lost.
const natQueue = 256

// NATConfig is how an address translator behaves. The zero value of all but
// Public is what most homes have: a machine's socket keeps its port and is
// seen at one address by everybody, and an address may answer, from any of its
// ports, once it was written to.
type NATConfig struct {
	Public netip.Addr // which the world sees

	PerRemote  bool // each remote address and port sees another port: "symmetric"
	PortFilter bool // only the very port that was written to may answer
	Open       bool // everybody may write to a mapping that exists

	// Expiry is after how long without a packet from inside a mapping ends, and
	// a remote address may answer no more. Default: DefaultNATExpiry.
	Expiry time.Duration
}

// NAT is a box between a few machines and a [Network]. Behind it machines have
// addresses of their own, such as 10.0.0.2, which reach each other without it.
// It is safe for concurrent use.
type NAT struct {
	net  *Network
	conf NATConfig
	wg   sync.WaitGroup // readers of mappings

	mu     sync.Mutex // guards what follows
	public netip.Addr
	moves  uint16 // how often Rebind was called
	inside map[netip.AddrPort]*inside
	out    map[flow]*mapping
}

// flow is what a mapping is for; remote is zero where one serves all.
type flow struct{ inside, remote netip.AddrPort }

// mapping is a port of the box that stands for a socket behind it.
type mapping struct {
	flow    flow
	socket  net.PacketConn
	forever bool
	used    time.Time                    // when a packet last went out
	wrote   map[netip.AddrPort]time.Time // to whom, and when last
}

// NAT adds a box to the network. Close it before the network.
func (n *Network) NAT(c NATConfig) *NAT {
	if c.Expiry == 0 {
		c.Expiry = DefaultNATExpiry
	}
	return &NAT{net: n, conf: c, public: c.Public, inside: make(map[netip.AddrPort]*inside), out: make(map[flow]*mapping)}
}

// Listen opens a socket behind the box. Like [Network.Listen] it wants one
// specific address and has the form that a host wants.
func (b *NAT) Listen(_ string, laddr *net.UDPAddr) (net.PacketConn, error) {
	at := laddr.AddrPort()
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	if !at.Addr().IsValid() || at.Addr().IsUnspecified() {
		return nil, fmt.Errorf("listen behind a NAT: %s is not one specific address", laddr)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for port := uint16(30000); at.Port() == 0; port++ {
		if free := netip.AddrPortFrom(at.Addr(), port); b.inside[free] == nil {
			at = free
		}
	}
	if b.inside[at] != nil {
		return nil, &net.OpError{Op: "listen", Net: "udp", Addr: laddr, Err: syscall.EADDRINUSE}
	}
	s := &inside{box: b, at: at, in: make(chan arrival, natQueue), done: make(chan struct{}), changed: make(chan struct{}, 1)}
	b.inside[at] = s
	return s, nil
}

// Rebind forgets all mappings, as a box that was switched off and on does; the
// next packet of a socket gets another port. A valid address replaces the one
// that the world saw.
func (b *NAT) Rebind(public netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.moves++
	if public.IsValid() {
		b.public = public
	}
	for _, m := range b.out {
		b.dropLocked(m)
	}
}

// Forward makes a port of the box stand for a socket behind it for good, open
// to everybody, as a router does that was asked for it.
func (b *NAT) Forward(port uint16, to netip.AddrPort) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := flow{inside: to}
	if m := b.out[f]; m != nil {
		b.dropLocked(m)
	}
	socket, err := b.net.Listen("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.public, port)))
	if err != nil {
		return err
	}
	m := &mapping{flow: f, socket: socket, wrote: make(map[netip.AddrPort]time.Time), forever: true}
	b.out[f] = m
	b.wg.Go(func() { b.receive(m) })
	return nil
}

// Public returns the address that the world sees.
func (b *NAT) Public() netip.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.public
}

// Mappings returns how many mappings live.
func (b *NAT) Mappings() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	alive := 0
	for _, m := range b.out {
		if time.Since(m.used) < b.conf.Expiry {
			alive++
		}
	}
	return alive
}

// Close ends the box's goroutines; machines behind it reach nobody any more.
func (b *NAT) Close() {
	b.mu.Lock()
	for _, m := range b.out {
		b.dropLocked(m)
	}
	b.inside = nil
	b.mu.Unlock()
	b.wg.Wait()
}

func (b *NAT) dropLocked(m *mapping) {
	_ = m.socket.Close()
	delete(b.out, m.flow)
}

// send passes a packet on to the world, or to a neighbour behind the box.
func (b *NAT) send(from netip.AddrPort, data []byte, to netip.AddrPort) error {
	b.mu.Lock()
	if near := b.inside[to]; near != nil {
		near.deliver(data, from)
		b.mu.Unlock()
		return nil
	}
	m, err := b.mapLocked(from, to)
	if err != nil {
		b.mu.Unlock()
		return err
	}
	now := time.Now()
	m.used, m.wrote[to] = now, now
	b.mu.Unlock() // a write may wait for the network, which may wait for receive
	_, err = m.socket.WriteTo(data, net.UDPAddrFromAddrPort(to))
	return err
}

// mapLocked returns the mapping that a packet leaves through.
func (b *NAT) mapLocked(from, to netip.AddrPort) (*mapping, error) {
	f := flow{inside: from}
	if b.conf.PerRemote {
		f.remote = to
	}
	if m := b.out[f]; m != nil {
		if m.forever || time.Since(m.used) < b.conf.Expiry {
			return m, nil
		}
		b.dropLocked(m)
	}
	var port uint16 // any
	if !b.conf.PerRemote {
		port = from.Port() + 1000*b.moves
	}
	listen := func(port uint16) (net.PacketConn, error) {
		return b.net.Listen("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.public, port)))
	}
	socket, err := listen(port)
	if err != nil && port != 0 {
		socket, err = listen(0) // somebody behind the box has the port
	}
	if err != nil {
		return nil, err
	}
	m := &mapping{flow: f, socket: socket, wrote: make(map[netip.AddrPort]time.Time)}
	b.out[f] = m
	b.wg.Go(func() { b.receive(m) })
	return m, nil
}

// receive hands what arrives at a mapping to the socket behind it.
func (b *NAT) receive(m *mapping) {
	buf := make([]byte, 1<<16)
	for {
		n, addr, err := m.socket.ReadFrom(buf)
		if err != nil {
			return
		}
		from := addr.(*net.UDPAddr).AddrPort()
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		b.mu.Lock()
		if s := b.inside[m.flow.inside]; s != nil && b.passesLocked(m, from) {
			s.deliver(buf[:n], from)
		}
		b.mu.Unlock()
	}
}

// passesLocked reports whether the box lets a packet of a stranger in.
func (b *NAT) passesLocked(m *mapping, from netip.AddrPort) bool {
	now := time.Now()
	if now.Sub(m.used) >= b.conf.Expiry && !m.forever {
		return false
	}
	if b.conf.Open || m.forever {
		return true
	}
	for to, at := range m.wrote {
		if now.Sub(at) < b.conf.Expiry && to.Addr() == from.Addr() && (to.Port() == from.Port() || !b.conf.PortFilter) {
			return true
		}
	}
	return false
}

// arrival is a packet that waits for its reader.
type arrival struct {
	data []byte
	from netip.AddrPort
}

// inside is a socket behind a box.
type inside struct {
	box     *NAT
	at      netip.AddrPort
	in      chan arrival
	done    chan struct{} // closed by Close
	changed chan struct{} // one token: readBy was set
	closing sync.Once

	mu     sync.Mutex // guards readBy
	readBy time.Time
}

func (s *inside) deliver(data []byte, from netip.AddrPort) {
	select {
	case s.in <- arrival{append([]byte(nil), data...), from}:
	default: // lost, as in a full buffer of the kernel
	}
}

func (s *inside) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		s.mu.Lock()
		by := s.readBy
		s.mu.Unlock()
		var expired <-chan time.Time
		if !by.IsZero() {
			t := time.NewTimer(time.Until(by))
			defer t.Stop()
			expired = t.C
		}
		select {
		case <-s.done:
			return 0, nil, net.ErrClosed
		default:
		}
		select {
		case p := <-s.in:
			return copy(b, p.data), net.UDPAddrFromAddrPort(p.from), nil
		case <-s.done:
			return 0, nil, net.ErrClosed
		case <-expired:
			return 0, nil, &net.OpError{Op: "read", Net: "udp", Err: os.ErrDeadlineExceeded}
		case <-s.changed:
		}
	}
}

func (s *inside) WriteTo(b []byte, to net.Addr) (int, error) {
	udp, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, fmt.Errorf("write from behind a NAT: %v is not a UDP address", to)
	}
	select {
	case <-s.done:
		return 0, net.ErrClosed
	default:
	}
	at := udp.AddrPort()
	return len(b), s.box.send(s.at, b, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
}

func (s *inside) Close() error {
	s.closing.Do(func() {
		close(s.done)
		s.box.mu.Lock()
		defer s.box.mu.Unlock()
		delete(s.box.inside, s.at)
	})
	return nil
}

func (s *inside) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(s.at) }

func (s *inside) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	s.readBy = t
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return nil
}

func (s *inside) SetDeadline(t time.Time) error    { return s.SetReadDeadline(t) }
func (s *inside) SetWriteDeadline(time.Time) error { return nil }

// SetReadBuffer and SetWriteBuffer do nothing; QUIC warns where they are missing.
func (s *inside) SetReadBuffer(int) error  { return nil }
func (s *inside) SetWriteBuffer(int) error { return nil }
