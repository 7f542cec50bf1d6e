// Package sim imitates networks in memory for tests: a planet of UDP sockets,
// LANs with multicast, and connections between two programs of one machine.
//
// All of it runs in the virtual time of a testing/synctest bubble, so that
// minutes of waiting cost nothing, and draws its losses and delays from a seed.
// A run repeats from its seed as far as the order of goroutines allows: assert
// ranges, not exact values.
package sim

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/marcopolo/simnet"
)

// Defaults of [Config].
const (
	DefaultUp   = 50_000_000  // bits per second
	DefaultDown = 100_000_000 // bits per second
)

// Config is what a network is like. The zero Config is a planet without loss.
type Config struct {
	Seed uint64

	// Latency is the time that a packet takes one way. Default: World.
	Latency func(from, to netip.Addr) time.Duration

	Jitter float64 // share of the latency that is added at most; default 0.05, negative for none
	Loss   float64 // share of packets that vanish, 0 to 1

	Up, Down int // bits per second of every machine's link; default 50 and 100 Mbit/s
}

// Network is a set of UDP sockets that reach each other. It is safe for
// concurrent use.
type Network struct {
	conf Config
	net  *simnet.Simnet

	mu    sync.Mutex // guards what follows
	loss  float64
	rng   map[pair]*rand.PCG
	socks map[netip.AddrPort]*socket
	side  map[netip.Addr]int // partition: which side an address is on
	port  uint16
	sent  uint64
	lost  uint64
}

type pair struct{ from, to netip.Addr }

// NewNetwork starts a network; close it before the bubble ends.
func NewNetwork(c Config) *Network {
	if c.Latency == nil {
		c.Latency = World
	}
	if c.Jitter == 0 {
		c.Jitter = 0.05
	}
	if c.Up == 0 {
		c.Up = DefaultUp
	}
	if c.Down == 0 {
		c.Down = DefaultDown
	}
	n := &Network{
		conf: c, loss: c.Loss, port: 8000,
		rng: make(map[pair]*rand.PCG), socks: make(map[netip.AddrPort]*socket), side: make(map[netip.Addr]int),
	}
	n.net = &simnet.Simnet{LatencyFunc: n.latency, Logger: slog.New(slog.DiscardHandler)}
	n.net.Start()
	return n
}

// Addr returns the i-th address of the network, a public one.
func Addr(i int) netip.Addr {
	a, _ := netip.AddrFromSlice(simnet.IntToPublicIPv4(i).To4())
	return a
}

// World is a planet of five regions, 10 to 150 ms apart one way; an address
// belongs to the region that its last byte modulo five says.
func World(from, to netip.Addr) time.Duration {
	table := [5][5]int{ // milliseconds: America east and west, Europe, Asia, the south
		{10, 35, 45, 110, 60},
		{35, 10, 70, 65, 90},
		{45, 70, 10, 95, 100},
		{110, 65, 95, 15, 150},
		{60, 90, 100, 150, 15},
	}
	region := func(a netip.Addr) int { b := a.AsSlice(); return int(b[len(b)-1]) % 5 }
	return time.Duration(table[region(from)][region(to)]) * time.Millisecond
}

// LAN is a network in which every packet takes 200 µs.
func LAN(_, _ netip.Addr) time.Duration { return 200 * time.Microsecond }

// Listen opens a socket on one specific IP address; port 0 picks a free one.
// It has the form that a host wants for its sockets.
func (n *Network) Listen(_ string, laddr *net.UDPAddr) (net.PacketConn, error) {
	at := laddr.AddrPort()
	if ip := at.Addr().Unmap(); !ip.IsValid() || ip.IsUnspecified() {
		return nil, fmt.Errorf("listen on simulated network: %s is not one specific address", laddr)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	if at.Port() == 0 {
		n.port++
		at = netip.AddrPortFrom(at.Addr(), n.port)
	}
	if s := n.socks[at]; s != nil && !s.gone {
		return nil, &net.OpError{Op: "listen", Net: "udp", Addr: laddr, Err: syscall.EADDRINUSE}
	}
	link := simnet.NodeBiDiLinkSettings{
		Downlink: simnet.LinkSettings{BitsPerSecond: n.conf.Down, FlowBucketCount: 8},
		Uplink:   simnet.LinkSettings{BitsPerSecond: n.conf.Up, FlowBucketCount: 8},
	}
	s := &socket{SimConn: n.net.NewEndpoint(net.UDPAddrFromAddrPort(at), link), net: n, at: at}
	n.socks[at] = s
	return s, nil
}

// Kill makes the machine with this address vanish as if its power had failed:
// no packet leaves or reaches its sockets any more and nobody is told. A
// program can be started anew on the address afterwards.
func (n *Network) Kill(a netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for at, s := range n.socks {
		if at.Addr() == a {
			s.gone = true
		}
	}
}

// Partition cuts the network: addresses of different groups do not reach each
// other. An address in no group reaches all. It replaces an earlier partition.
func (n *Network) Partition(groups ...[]netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.side)
	for i, g := range groups {
		for _, a := range g {
			n.side[a] = i + 1
		}
	}
}

// Heal ends a partition.
func (n *Network) Heal() { n.Partition() }

// SetLoss changes the share of packets that vanish.
func (n *Network) SetLoss(share float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss = share
}

// Packets returns how many packets were sent, and how many of them vanished
// through loss, partition or death.
func (n *Network) Packets() (sent, lost uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent, n.lost
}

// Close ends the network's goroutines; reads of its sockets fail.
func (n *Network) Close() { n.net.Close() }

// passes decides the fate of one packet.
func (n *Network) passes(from, to netip.AddrPort) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent++
	src, dst := n.socks[from], n.socks[to]
	a, b := n.side[from.Addr()], n.side[to.Addr()]
	if src == nil || src.gone || dst == nil || dst.gone || a != b && a != 0 && b != 0 ||
		n.loss > 0 && n.drawLocked(from.Addr(), to.Addr()) < n.loss {
		n.lost++
		return false
	}
	return true
}

func (n *Network) latency(p *simnet.Packet) time.Duration {
	from, to := p.From.(*net.UDPAddr).AddrPort().Addr().Unmap(), p.To.(*net.UDPAddr).AddrPort().Addr().Unmap()
	d := n.conf.Latency(from, to)
	if n.conf.Jitter <= 0 {
		return d
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return d + time.Duration(n.drawLocked(from, to)*n.conf.Jitter*float64(d))
}

// drawLocked returns a number in [0, 1) from the stream of one pair of
// addresses, so that what others send does not change it.
func (n *Network) drawLocked(from, to netip.Addr) float64 {
	return draw(n.rng, n.conf.Seed, pair{from, to})
}

func draw(streams map[pair]*rand.PCG, seed uint64, p pair) float64 {
	g := streams[p]
	if g == nil {
		h := seed
		for _, b := range append(p.from.AsSlice(), p.to.AsSlice()...) {
			h = (h ^ uint64(b)) * 0x100000001b3
		}
		g = rand.NewPCG(seed, h)
		streams[p] = g
	}
	return float64(g.Uint64()>>11) / (1 << 53)
}

// socket is one end of the network.
type socket struct {
	*simnet.SimConn
	net  *Network
	at   netip.AddrPort
	gone bool // guarded by net.mu: closed or killed
}

func (s *socket) WriteTo(b []byte, to net.Addr) (int, error) {
	udp, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, errors.New("write to simulated network: not a UDP address")
	}
	at := udp.AddrPort()
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	if !s.net.passes(s.at, at) {
		return len(b), nil
	}
	return s.SimConn.WriteTo(b, net.UDPAddrFromAddrPort(at))
}

func (s *socket) Close() error {
	s.net.mu.Lock()
	s.gone = true
	s.net.mu.Unlock()
	return s.SimConn.Close()
}
