package host

import (
	"context"
	"crypto/sha256"
	"net"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
)

// Timing of a QUIC connection, set by the end that dials; the other end takes
// the smaller idle time of both.
const (
	idleTimeout   = 15 * time.Second // silence after which a connection is dead
	keepAlive     = 5 * time.Second  // two may be lost; about 22 bytes a second on an idle connection
	handshakeIdle = 3 * time.Second  // silence after which a dial is given up
	dialTimeout   = 5 * time.Second  // of one address
)

// sourceIP answers which local address a packet leaves from where sockets are handed in.
type sourceIP net.IP

// PreferredSourceIPForDestination implements [quicreuse.SourceIPSelector].
func (s sourceIP) PreferredSourceIPForDestination(*net.UDPAddr) (net.IP, error) {
	return net.IP(s), nil
}

// newQUIC makes the owner of the UDP sockets. A connection is counted against
// the limits before its handshake costs anything. The stateless reset key
// follows from the node's key: a node that restarts on its port tells the
// peers of its former life at their next packet.
func newQUIC(c Config, limits network.ResourceManager) (*quicreuse.ConnManager, error) {
	derive := func(use string) [sha256.Size]byte {
		return sha256.Sum256(append([]byte("cell/quic/"+use+"\x00"), c.Key.Raw()...))
	}
	opts := []quicreuse.Option{
		quicreuse.VerifySourceAddress(limits.VerifySourceAddress),
		quicreuse.ConnContext(func(ctx context.Context, client *quic.ClientInfo) (context.Context, error) {
			addr, err := quicreuse.ToQuicMultiaddr(client.RemoteAddr, quic.Version1)
			if err != nil {
				addr = nil // the limits of unknown addresses apply
			}
			scope, err := limits.OpenConnection(network.DirInbound, false, addr)
			if err != nil {
				return ctx, err
			}
			ctx = network.WithConnManagementScope(ctx, scope)
			context.AfterFunc(ctx, scope.Done)
			return ctx, nil
		}),
	}
	if c.ListenPacket != nil {
		opts = append(opts, quicreuse.OverrideListenUDP(c.ListenPacket),
			quicreuse.OverrideSourceIPSelector(func() (quicreuse.SourceIPSelector, error) { return firstIP(c.Listen), nil }))
	}
	m, err := quicreuse.NewConnManager(derive("reset"), derive("token"), opts...)
	if err != nil {
		return nil, err
	}
	conf := m.ClientConfig()
	conf.MaxIdleTimeout = idleTimeout
	conf.KeepAlivePeriod = keepAlive
	conf.HandshakeIdleTimeout = handshakeIdle
	return m, nil
}

func firstIP(listen []string) sourceIP {
	for _, s := range listen {
		if a, err := ma.NewMultiaddr(s); err == nil && isQUIC(a) {
			return sourceIP(a[0].RawValue())
		}
	}
	return sourceIP(net.IPv4zero)
}

// noNames keeps peers from making this node look up names in DNS: what they
// say of their addresses in identify comes to the dialler without having passed
// [Dialable]. Names in the settings are resolved before.
type noNames struct{}

// ResolveDNSAddr implements [network.MultiaddrDNSResolver].
func (noNames) ResolveDNSAddr(context.Context, peer.ID, ma.Multiaddr, int, int) ([]ma.Multiaddr, error) {
	return nil, nil
}

// ResolveDNSComponent implements [network.MultiaddrDNSResolver].
func (noNames) ResolveDNSComponent(context.Context, ma.Multiaddr, int) ([]ma.Multiaddr, error) {
	return nil, nil
}

// newSwarm makes the set of connections of one key. The detector of UDP black
// holes is off: it counts each dial that we cancel as a failure and would
// silence a node that has nothing but UDP.
func newSwarm(key crypto.PrivKey, bus event.Bus, m *quicreuse.ConnManager, limits network.ResourceManager, more ...swarm.Option) (*swarm.Swarm, error) {
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	book, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, err
	}
	if err := book.AddPrivKey(id, key); err != nil {
		return nil, err
	}
	if err := book.AddPubKey(id, key.GetPublic()); err != nil {
		return nil, err
	}
	s, err := swarm.NewSwarm(id, book, bus, append(more,
		swarm.WithResourceManager(limits),
		swarm.WithMultiaddrResolver(noNames{}),
		swarm.WithDialTimeout(dialTimeout),
		swarm.WithDialTimeoutLocal(dialTimeout),
		swarm.WithUDPBlackHoleSuccessCounter(nil),
		swarm.WithIPv6BlackHoleSuccessCounter(nil))...)
	if err != nil {
		return nil, err
	}
	t, err := libp2pquic.NewTransport(key, m, nil, nil, limits)
	if err == nil {
		err = s.AddTransport(t)
	}
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}
