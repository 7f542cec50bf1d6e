package pheromone

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Defaults of [UDPConfig].
const (
	DefaultPort   = 9067
	defaultRescan = 5 * time.Second
)

var (
	defaultGroup4 = netip.MustParseAddr("239.255.67.76")
	defaultGroup6 = netip.MustParseAddr("ff12::6365:6c6c")
)

const (
	maxReceived   = 256     // packets that wait to be looked at
	receiveBuffer = 1 << 20 // bytes that the system is asked to hold per socket
	errorPause    = 10 * time.Millisecond
)

// ErrNoMulticast says that a packet to everybody could not be sent to anybody:
// no interface carries multicast, and no directed target is configured.
var ErrNoMulticast = errors.New("no interface carries multicast")

// UDPConfig says where a [UDPBus] speaks and listens. The zero value is what
// all nodes use.
type UDPConfig struct {
	Port    uint16     // shared by the nodes of all hosts; default 9067
	Unicast uint16     // this node's own port, on which others can direct packets to it; default: any free one
	Group4  netip.Addr // default 239.255.67.76
	Group6  netip.Addr // default ff12::6365:6c6c; link-local scope
	// Interfaces picks those to use of the ones that are up. Default: all. With
	// one that picks none, the bus behaves as on a host that refuses multicast.
	Interfaces func(net.Interface) bool
	// Directed are nodes that are told everything by unicast too, where
	// multicast does not reach them: their host's address and Port, or their
	// Unicast port where several nodes run there. Default: none.
	Directed []netip.AddrPort
	Rescan   time.Duration // how often to look for new interfaces; default 5 s
}

func (c UDPConfig) withDefaults() UDPConfig {
	if c.Port == 0 {
		c.Port = DefaultPort
	}
	if !c.Group4.IsValid() {
		c.Group4 = defaultGroup4
	}
	if !c.Group6.IsValid() {
		c.Group6 = defaultGroup6
	}
	if c.Rescan == 0 {
		c.Rescan = defaultRescan
	}
	if c.Interfaces == nil {
		c.Interfaces = func(net.Interface) bool { return true }
	}
	return c
}

// UDPBus is the [Bus] of a real host: every interface that is up, and loopback,
// by IPv4 and IPv6. Packets from addresses that are neither on a local network
// nor directed targets are dropped.
type UDPBus struct {
	config   UDPConfig
	families []*family
	received chan datagram
	changed  chan struct{}
	changes  *os.File      // where the system tells of changes; nil where it does not
	told     chan struct{} // it has told of one
	done     chan struct{}
	close    func() error
	running  sync.WaitGroup

	mu    sync.Mutex // guards what follows, and the links of families
	local []netip.Prefix
	stats map[string]uint64
	first time.Time // when a packet left for everybody first
	echo  bool      // one of them came back: multicast goes out and comes in
}

type datagram struct {
	data []byte
	from netip.AddrPort
}

// family is what the bus has for IPv4 or IPv6.
type family struct {
	name   string       // IPv4 or IPv6
	own    *net.UDPConn // sends everything, receives answers
	shared *net.UDPConn // receives what is sent to everybody
	join   func(*net.Interface) error
	leave  func(*net.Interface) error
	cast   func(pkt []byte, l *link) error // to the group, by one interface
	links  map[int]*link                   // by the interface's index
}

// link is one interface as seen by one family.
type link struct {
	ifi    net.Interface
	addr   netip.Addr // the interface's first of this family
	joined bool
	err    error // of joining, or of the last packet sent to the group
}

// ListenUDP opens the sockets and joins the groups on all interfaces. It fails
// only where neither IPv4 nor IPv6 gives it the port; a host that refuses
// multicast shows in [UDPBus.Report], and in Send as [ErrNoMulticast].
func ListenUDP(c UDPConfig) (*UDPBus, error) {
	b := &UDPBus{
		config:   c.withDefaults(),
		received: make(chan datagram, maxReceived),
		changed:  make(chan struct{}, 1),
		told:     make(chan struct{}),
		done:     make(chan struct{}),
		stats:    make(map[string]uint64),
	}
	v4, err4 := b.open4()
	unicast := b.config.Unicast
	if err4 == nil && unicast == 0 {
		unicast = port(v4.own)
	}
	v6, err6 := b.open6(unicast)
	if err6 != nil && b.config.Unicast == 0 { // somebody else has that port in IPv6
		v6, err6 = b.open6(0)
	}
	for _, f := range []*family{v4, v6} {
		if f != nil {
			b.families = append(b.families, f)
		}
	}
	if len(b.families) == 0 {
		return nil, fmt.Errorf("listen on local network: %w", errors.Join(err4, err6))
	}
	b.close = sync.OnceValue(b.shut)
	if f, err := listenChanges(); err == nil { // else changes are found by looking
		b.changes = f
		b.running.Go(b.listenTold)
	}
	b.rescan()
	for _, f := range b.families {
		b.running.Go(func() { b.read(f, f.own) })
		b.running.Go(func() { b.read(f, f.shared) })
	}
	b.running.Go(b.watch)
	return b, nil
}

func (b *UDPBus) open4() (*family, error) {
	shared, own, err := openPair("udp4", b.config.Port, b.config.Unicast)
	if err != nil {
		return nil, err
	}
	group := &net.UDPAddr{IP: b.config.Group4.AsSlice(), Port: int(b.config.Port)}
	in, out := ipv4.NewPacketConn(shared), ipv4.NewPacketConn(own)
	_ = out.SetMulticastTTL(1)         // the default
	_ = out.SetMulticastLoopback(true) // the default
	return &family{
		name: "IPv4", own: own, shared: shared, links: make(map[int]*link),
		join:  func(i *net.Interface) error { return in.JoinGroup(i, group) },
		leave: func(i *net.Interface) error { return in.LeaveGroup(i, group) },
		// Without an address of the link, Linux sends by loopback with that of
		// another interface, or with 0.0.0.0 where there is none.
		cast: func(pkt []byte, l *link) error {
			_, err := out.WriteTo(pkt, &ipv4.ControlMessage{IfIndex: l.ifi.Index, Src: l.addr.AsSlice()}, group)
			return err
		},
	}, nil
}

func (b *UDPBus) open6(unicast uint16) (*family, error) {
	shared, own, err := openPair("udp6", b.config.Port, unicast)
	if err != nil {
		return nil, err
	}
	group := &net.UDPAddr{IP: b.config.Group6.AsSlice(), Port: int(b.config.Port)}
	in, out := ipv6.NewPacketConn(shared), ipv6.NewPacketConn(own)
	_ = out.SetMulticastHopLimit(1)    // the default
	_ = out.SetMulticastLoopback(true) // the default
	return &family{
		name: "IPv6", own: own, shared: shared, links: make(map[int]*link),
		join:  func(i *net.Interface) error { return in.JoinGroup(i, group) },
		leave: func(i *net.Interface) error { return in.LeaveGroup(i, group) },
		cast: func(pkt []byte, l *link) error {
			_, err := out.WriteTo(pkt, &ipv6.ControlMessage{IfIndex: l.ifi.Index}, group)
			return err
		},
	}, nil
}

// openPair opens the port that is shared with other nodes and the node's own.
func openPair(network string, shared, own uint16) (s, o *net.UDPConn, err error) {
	listen := func(c net.ListenConfig, port uint16) (*net.UDPConn, error) {
		conn, err := c.ListenPacket(context.Background(), network, fmt.Sprintf(":%d", port))
		if err != nil {
			return nil, err
		}
		return conn.(*net.UDPConn), nil
	}
	if s, err = listen(net.ListenConfig{Control: sharePort}, shared); err != nil {
		return nil, nil, fmt.Errorf("%w (the port is shared among nodes; another program may hold it alone)", err)
	}
	if o, err = listen(net.ListenConfig{}, own); err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	_ = s.SetReadBuffer(receiveBuffer) // as much as the system grants
	return s, o, nil
}

func port(c *net.UDPConn) uint16 { return c.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

// Unicast returns the node's own port, the one of IPv4 where it has both.
func (b *UDPBus) Unicast() uint16 { return port(b.families[0].own) }

// Send implements [Bus]. To everybody, it succeeds where the packet left by one
// interface, or for one directed target; the error wraps [ErrNoMulticast]
// where it did not.
func (b *UDPBus) Send(pkt []byte, to netip.AddrPort) error {
	if to.IsValid() {
		if err := b.sendTo(pkt, to); err != nil {
			return fmt.Errorf("send to %v: %w", to, err)
		}
		return nil
	}
	sent := 0
	var errs []error
	for _, f := range b.families {
		for _, l := range b.joined(f) {
			err := f.cast(pkt, &l)
			b.tried(f, l.ifi.Index, err)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s %s: %w", l.ifi.Name, f.name, err))
				continue
			}
			sent++
		}
	}
	for _, target := range b.config.Directed {
		if err := b.sendTo(pkt, target); err != nil {
			errs = append(errs, err)
			continue
		}
		sent++
	}
	if sent > 0 {
		return nil
	}
	return errors.Join(append([]error{ErrNoMulticast}, errs...)...)
}

func (b *UDPBus) sendTo(pkt []byte, to netip.AddrPort) error {
	name := "IPv6"
	if to.Addr().Unmap().Is4() {
		name, to = "IPv4", netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	}
	for _, f := range b.families {
		if f.name == name {
			_, err := f.own.WriteToUDPAddrPort(pkt, to)
			return err
		}
	}
	return fmt.Errorf("this host has no %s", name)
}

// Recv implements [Bus].
func (b *UDPBus) Recv() ([]byte, netip.AddrPort, error) {
	select {
	case d := <-b.received:
		return d.data, d.from, nil
	case <-b.done:
		return nil, netip.AddrPort{}, fmt.Errorf("receive from local network: %w", net.ErrClosed)
	}
}

// read puts packets from one socket before Recv; those that nobody fetches in time are dropped.
func (b *UDPBus) read(f *family, c *net.UDPConn) {
	buf := make([]byte, MaxPacket+1) // a longer one arrives cut, and is refused for its length
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			select {
			case <-b.done:
				return
			case <-time.After(errorPause):
			}
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if !b.near(from) {
			b.count("offlink")
			continue
		}
		if c != f.own && from.Port() == port(f.own) {
			b.heardSelf(from.Addr())
		}
		select {
		case b.received <- datagram{append([]byte(nil), buf[:n]...), from}:
		default:
			b.count("overrun")
		}
	}
}

func (b *UDPBus) count(word string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stats[word]++
}

// Stats returns counters; [LAN.Stats] includes and explains them.
func (b *UDPBus) Stats() map[string]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.stats)
}

// Close closes the sockets and waits until nothing reads from them.
func (b *UDPBus) Close() error { return b.close() }

func (b *UDPBus) shut() error {
	close(b.done)
	var errs []error
	if b.changes != nil {
		errs = append(errs, b.changes.Close())
	}
	for _, f := range b.families {
		errs = append(errs, f.own.Close(), f.shared.Close())
	}
	b.running.Wait()
	return errors.Join(errs...)
}
