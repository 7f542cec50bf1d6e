// Package host opens the node's QUIC port and speaks libp2p on it: it is the
// only place that configures libp2p.
//
// A host is put together from swarm, basic host and QUIC transport without the
// root package of go-libp2p, which would link WebRTC, TCP and WebSockets too.
// Connections are QUIC version 1 with mutual TLS; identify runs on each. Every
// protocol of a network is named
//
//	/cell/<first 16 hex digits of the network id>/<name>
//
// so that nodes of two networks may connect but have nothing to say.
//
// A node that strangers do not reach has places at relays, and an address at
// each: /ip4/…/udp/…/quic-v1/p2p/<relay>/p2p-circuit. What goes over a relay is
// QUIC again, each packet (1 to 1500 bytes) behind its length (2 bytes, big
// endian) in the stream that the relay passes on. Two protocols turn such a
// connection into a direct one: on punch/1 each node says one meeting, at most
// 585 bytes, on seen/1 a relay answers an empty question with an address behind
// its length (1 byte), at most 97 bytes.
package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"cell.network/cell/internal/identity"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// DefaultListen are the addresses that a host listens on unless told
// otherwise: any free port on all interfaces.
var DefaultListen = []string{"/ip4/0.0.0.0/udp/0/quic-v1", "/ip6/::/udp/0/quic-v1"}

// Default bounds of the connection manager: above HighWater connections the
// least useful ones are closed until LowWater are left.
const (
	DefaultLowWater  = 24
	DefaultHighWater = 48
)

// gracePeriod is how long a new connection is safe from the connection manager.
const gracePeriod = 20 * time.Second

// ErrListen says that an address cannot be listened on: [syscall.EADDRINUSE]
// in its chain means that another program has the port.
var ErrListen = errors.New("listen")

// Config is how a host is made. Key and Network are required.
type Config struct {
	Key     identity.Private
	Network identity.Network

	// Listen are multiaddrs of the form /ip4/…/udp/…/quic-v1 or /ip6/…. Default:
	// DefaultListen, of which one must succeed. Of addresses given here all must.
	Listen []string

	// ListenPacket opens the UDP sockets. Default: the operating system's. A
	// simulated network hands in its own and lists one specific IP in Listen.
	ListenPacket func(network string, laddr *net.UDPAddr) (net.PacketConn, error)

	// NAT says that the machine may sit behind an address translator: the host
	// then learns its public addresses from what peers see, asks peers whether
	// they reach it (AutoNAT) and answers the same question, keeps places at
	// relays while they do not, and relays for others. Default: off, what the
	// interfaces say holds. Any host dials nodes over relays, and goes on
	// directly where that is possible.
	NAT bool

	// PortMap says to ask the router for a port (UPnP, NAT-PMP). Default: off.
	PortMap bool

	// Public says whether strangers reach the host: Yes, No, or Unknown, which
	// is the default and finds out.
	Public string

	// Announce are addresses, in the form of Listen, at which others reach the
	// host besides those it finds: a port that a router was told to pass on.
	Announce []string

	// Relay says whether the host relays for others. Auto, the default: while
	// strangers reach it. It needs NAT.
	Relay Choice

	// Relays names up to n nodes that may have a place for this one. Default:
	// peers that there are anyway.
	Relays func(ctx context.Context, n int) []peer.AddrInfo

	// Relayed are the protocols, such as "lease/1", that may go over relays.
	// Others wait for a direct connection. Default: none.
	Relayed []string

	// Changed is told that the addresses of [Host.LeaseAddrs], or whether the
	// host relays for others, may have changed: of new addresses of the machine
	// within about a second where the system tells of them, else two. It must not
	// wait.
	Changed func()

	mapper func(network.Network) basichost.NATManager // a router for tests

	LowWater, HighWater int // connections; default 24 and 48

	Log *slog.Logger // default: silent
}

// Choice is a setting that may be left to the host.
type Choice string

// The values of a Choice; "" is Auto.
const (
	Auto Choice = "auto"
	On   Choice = "on"
	Off  Choice = "off"
)

// Host is a libp2p host of one network. It is safe for concurrent use.
type Host struct {
	host.Host
	key     identity.Key
	network identity.Network
	swarm   *swarm.Swarm
	log     *slog.Logger
	relayed []protocol.ID // may go over relays
	changed func()

	announce []ma.Multiaddr

	jobs      *jobs
	machine   *machine // nil: the addresses listened on are those that there are
	seen      *sightings
	punches   *punches
	sweeper   *sweeper
	circuits  *circuits
	nat       *nat       // nil: the host does not look
	volunteer *volunteer // nil without nat

	closing sync.Once
	closers []func() error // Close runs the last one first
}

// New opens the ports and starts the host. Errors wrap [ErrListen] where a port
// cannot be had.
func New(c Config) (*Host, error) {
	if err := c.fill(); err != nil {
		return nil, err
	}
	h := &Host{key: c.Key.Public(), network: c.Network, log: c.Log, changed: c.Changed, jobs: newJobs(), seen: newSightings()}
	h.punches, h.sweeper = newPunches(h), newSweeper(h)
	for _, name := range c.Relayed {
		h.relayed = append(h.relayed, Protocol(c.Network, name))
	}
	for _, s := range c.Announce {
		a, err := ma.NewMultiaddr(s)
		if err != nil || !oneMachine(a) {
			return nil, fmt.Errorf("open host: %q is no address that others could reach: one has the form /ip4/1.2.3.4/udp/4001/quic-v1", s)
		}
		h.announce = append(h.announce, a)
	}
	if err := h.build(c); err != nil {
		_ = h.Close()
		return nil, err
	}
	return h, nil
}

func (c *Config) fill() error {
	if c.Key.IsZero() {
		return errors.New("open host: no key")
	}
	if _, err := identity.ParseNetwork(string(c.Network)); err != nil {
		return fmt.Errorf("open host: %w", err)
	}
	if c.LowWater == 0 {
		c.LowWater = DefaultLowWater
	}
	if c.HighWater == 0 {
		c.HighWater = max(DefaultHighWater, c.LowWater)
	}
	if c.LowWater > c.HighWater {
		return fmt.Errorf("open host: low water of %d connections above high water of %d", c.LowWater, c.HighWater)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Changed == nil {
		c.Changed = func() {}
	}
	c.Relay = cmp.Or(c.Relay, Auto)
	c.Public = cmp.Or(c.Public, Unknown)
	if c.Public != Yes && c.Public != No && c.Public != Unknown {
		return fmt.Errorf("open host: public is %q, not %q, %q or %q", c.Public, Yes, No, Unknown)
	}
	if c.Relay != Auto && c.Relay != On && c.Relay != Off {
		return fmt.Errorf("open host: relay is %q, not %q, %q or %q", c.Relay, Auto, On, Off)
	}
	return nil
}

func (h *Host) build(c Config) error {
	key, err := crypto.UnmarshalEd25519PrivateKey(c.Key.Raw())
	if err != nil {
		return fmt.Errorf("open host: %w", err)
	}
	limits, err := newLimits()
	if err != nil {
		return fmt.Errorf("open host: %w", err)
	}
	quic, err := newQUIC(c, limits)
	if err != nil {
		return fmt.Errorf("open host: %w", err)
	}
	h.closers = append(h.closers, quic.Close)

	bus := eventbus.NewBus()
	gate := &gate{network: c.Network, dialled: func(ma.Multiaddr) {}}
	if c.NAT {
		h.nat = &nat{
			host: h, met: newAcquaintances(), forced: c.Public, relay: c.Relay,
			news: make(chan struct{}, 1), mapped: h.announce,
		}
		gate.dialled = h.nat.met.dialled
	}
	if h.swarm, err = newSwarm(key, bus, quic, limits, swarm.WithConnectionGater(gate), swarm.WithDialRanker(h.rank)); err != nil {
		return fmt.Errorf("open host: %w", err)
	}
	h.closers = append(h.closers, h.swarm.Peerstore().Close, h.swarm.Close)
	if h.circuits, err = newCircuits(h, key, limits); err != nil {
		return fmt.Errorf("open host: %w", err)
	}
	h.closers = slices.Insert(h.closers, len(h.closers)-1, h.circuits.end)

	manager, err := connmgr.NewConnManager(c.LowWater, c.HighWater, connmgr.WithGracePeriod(gracePeriod))
	if err != nil {
		return fmt.Errorf("open host: %w", err)
	}
	opts := &basichost.HostOpts{
		EventBus:                       bus,
		ConnManager:                    manager,
		UserAgent:                      "cell",
		AddrsFactory:                   h.told,
		DisableNonPublicAddrPublishing: !c.Network.Private(),
	}
	if n := h.nat; n != nil {
		if n.probe, err = newProbe(c, limits); err != nil {
			return fmt.Errorf("open host: %w", err)
		}
		h.closers = append(h.closers, n.probe.Close)
		opts.AutoNATv2, opts.ObservedAddrsManager = n.probe.v2, h.seen
		if c.mapper == nil && c.PortMap && c.ListenPacket == nil {
			c.mapper = basichost.NewNATManager
		}
		if c.mapper != nil {
			opts.NATManager = func(net network.Network) basichost.NATManager {
				n.mapper = c.mapper(net)
				return n.mapper
			}
		}
	}
	basic, err := basichost.NewHost(h.swarm, opts)
	if err != nil {
		return fmt.Errorf("open host: %w", err)
	}
	h.Host = basic
	// The swarm goes first: connections that are gone need not be told, with a
	// time limit for each, that the protocols go.
	h.closers = append(h.closers, basic.Close, h.swarm.Close)

	if err := h.swarm.AddTransport(h.circuits); err != nil {
		return fmt.Errorf("open host: %w", err)
	}
	if n := h.nat; n != nil {
		n.basic = basic
		h.volunteer = newVolunteer(h)
		if n.places, err = newPlaces(h, c.Relays); err != nil {
			return fmt.Errorf("open host: %w", err)
		}
		if err := n.probe.attach(basic); err != nil {
			return fmt.Errorf("open host: %w", err)
		}
		if err := h.swarm.AddListenAddr(ma.StringCast("/p2p-circuit")); err != nil {
			return fmt.Errorf("%w on relays: %w", ErrListen, err)
		}
		n.ready.Store(true)
	}
	if err := h.listen(c.Listen); err != nil {
		return err
	}
	if c.ListenPacket == nil && slices.ContainsFunc(h.swarm.ListenAddresses(), manet.IsIPUnspecified) {
		m := newMachine()
		if _, err := m.look(); err != nil {
			h.log.Info("the addresses of this machine are told a minute late", "err", err)
		} else {
			h.machine = m
		}
	}
	basic.Start()
	return h.start()
}

// start begins what goes on in the background.
func (h *Host) start() error {
	if h.volunteer != nil {
		h.closers = append(h.closers, h.volunteer.Close)
	}
	h.closers = append(h.closers, h.jobs.Close)
	if h.machine != nil {
		h.jobs.spawn(func(ctx context.Context) { h.machine.watch(ctx, h.moved) })
	}
	err := h.watchPeers()
	if err == nil && h.nat != nil {
		err = h.nat.start()
	}
	if err != nil {
		return fmt.Errorf("open host: %w", err)
	}
	return nil
}

// moved tells that the addresses of the machine have changed.
func (h *Host) moved() {
	h.log.Info("the addresses of this machine have changed", "now", h.interfaces())
	if h.nat != nil {
		h.nat.look()
	}
	h.changed()
}

func (h *Host) listen(addrs []string) error {
	asked := addrs
	if len(addrs) == 0 {
		asked = DefaultListen
	}
	var failed error
	open := 0
	for _, s := range asked {
		a, err := ma.NewMultiaddr(s)
		if err == nil && !isQUIC(a) {
			err = errors.New("an address to listen on has the form /ip4/0.0.0.0/udp/4001/quic-v1")
		}
		if err == nil {
			err = h.swarm.AddListenAddr(a)
		}
		switch {
		case err == nil:
			open++
			continue
		case errors.Is(err, syscall.EADDRINUSE):
			err = fmt.Errorf("%w on %s: another program has the port: %w", ErrListen, s, syscall.EADDRINUSE)
		default:
			err = fmt.Errorf("%w on %s: %w", ErrListen, s, err)
		}
		failed = errors.Join(failed, err)
	}
	if open == 0 || failed != nil && len(addrs) > 0 {
		return failed
	}
	if failed != nil {
		h.log.Info("not listening on every default address", "err", failed)
	}
	return nil
}

// Key returns the node's public key.
func (h *Host) Key() identity.Key { return h.key }

// NetworkName returns the network that the host is part of.
func (h *Host) NetworkName() identity.Network { return h.network }

// Dial opens a connection to a node unless there is one. Addresses are binary
// multiaddrs without /p2p; those that are not QUIC to one machine are left out,
// and ones known from before are tried too. The caller answers for where they come from: what
// a stranger said passes [Dialable] first. It does not wait for identify.
func (h *Host) Dial(ctx context.Context, key identity.Key, addrs [][]byte) error {
	id, err := PeerID(key)
	if err != nil {
		return fmt.Errorf("dial node: %w", err)
	}
	if good := h.parseAddrs(addrs); len(good) > 0 {
		h.Peerstore().AddAddrs(id, good, peerstore.TempAddrTTL)
		h.Redial(id) // someone vouches for the addresses now: earlier failures say nothing
	}
	if _, err := h.swarm.DialPeer(ctx, id); err != nil {
		return &DialError{Node: key, Err: err}
	}
	return nil
}

// DialError says that a node could not be reached, in one line. It unwraps to
// what libp2p says, which takes one line for each address.
type DialError struct {
	Node identity.Key
	Err  error
}

// Error names the node, how many addresses were tried, and what the one said
// that should be reached from the farthest.
func (e *DialError) Error() string {
	var all *swarm.DialError
	if !errors.As(e.Err, &all) || len(all.DialErrors) == 0 {
		first, _, _ := strings.Cut(e.Err.Error(), "\n")
		return fmt.Sprintf("dial node %s: %s", e.Node.Short(), first)
	}
	one := slices.MinFunc(all.DialErrors, func(a, b swarm.TransportError) int { return forPeople(a.Address, b.Address) })
	return fmt.Sprintf("dial node %s: none of its addresses answers (%d tried; %s: %v)", e.Node.Short(), len(all.DialErrors), one.Address, one.Cause)
}

// Unwrap returns what libp2p says.
func (e *DialError) Unwrap() error { return e.Err }

// Redial forgets that dials to a peer failed before, so that the next one is
// tried at once.
func (h *Host) Redial(id peer.ID) { h.swarm.Backoff().Clear(id) }

// DialableRaw is [Dialable] for a binary multiaddr in this host's network.
func (h *Host) DialableRaw(raw []byte) bool {
	a, err := ma.NewMultiaddrBytes(raw)
	return err == nil && Dialable(h.network, a)
}

// Neighbour returns what it takes to dial a node that the local network told
// of: its addresses need not be public, but must be QUIC to one machine.
func (h *Host) Neighbour(key identity.Key, addrs [][]byte) (peer.AddrInfo, error) {
	id, err := PeerID(key)
	direct := slices.DeleteFunc(h.parseAddrs(addrs), func(a ma.Multiaddr) bool { return !isQUIC(a) })
	return peer.AddrInfo{ID: id, Addrs: direct}, err
}

func (h *Host) parseAddrs(raw [][]byte) []ma.Multiaddr {
	var good []ma.Multiaddr
	for _, b := range raw {
		if a, err := ma.NewMultiaddrBytes(b); err == nil && oneWay(a) {
			good = append(good, a)
		}
	}
	return good
}

// oneWay reports whether a leads to one machine, perhaps over one relay.
func oneWay(a ma.Multiaddr) bool {
	way, _, _ := splitRelayed(a)
	return oneMachine(way)
}

// AddrInfo returns what another host needs to dial this one.
func (h *Host) AddrInfo() peer.AddrInfo { return peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()} }

// Close closes every connection and port and waits for the host's goroutines.
func (h *Host) Close() error {
	var err error
	h.closing.Do(func() {
		for _, f := range slices.Backward(h.closers) {
			err = errors.Join(err, f())
		}
	})
	return err
}
