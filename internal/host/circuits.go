package host

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/transport"
	circuitpb "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/pb"
	circuitproto "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/util"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
)

// circuits dials over relays and accepts what comes over them: the transport of
// relayed addresses. A relay passes a stream of bytes between two nodes, a
// circuit. On it goes what goes between nodes everywhere, QUIC, so that nothing
// above sees a difference: each packet follows its length (2 bytes, big endian).
// To QUIC a circuit is an address of its own in 100::/64, which is never routed.
// The first packet follows the request for a circuit at once: libp2p's client
// waits for the answer, and for another two to choose how to go on.
type circuits struct {
	host    *Host
	quic    transport.Transport
	manager *quicreuse.ConnManager
	limits  network.ResourceManager
	ether   *ether

	listener atomic.Pointer[circuitListener]
}

func newCircuits(h *Host, key crypto.PrivKey, limits network.ResourceManager) (*circuits, error) {
	c := &circuits{host: h, limits: limits, ether: newEther()}
	var err error
	if c.manager, err = quicreuse.NewConnManager(quic.StatelessResetKey{}, quic.TokenGeneratorKey{},
		quicreuse.OverrideListenUDP(func(string, *net.UDPAddr) (net.PacketConn, error) { return c.ether, nil }),
		quicreuse.OverrideSourceIPSelector(func() (quicreuse.SourceIPSelector, error) { return sourceIP(etherAddr(0).AsSlice()), nil }),
	); err != nil {
		return nil, err
	}
	conf := c.manager.ClientConfig()
	conf.MaxIdleTimeout, conf.KeepAlivePeriod, conf.HandshakeIdleTimeout = circuitIdle, circuitAlive, handshakeIdle
	// The circuit is counted where it is opened: not here a second time.
	if c.quic, err = libp2pquic.NewTransport(key, c.manager, nil, nil, &network.NullResourceManager{}); err != nil {
		_ = c.manager.Close()
		return nil, err
	}
	return c, nil
}

// end closes what is left once the connections are closed.
func (c *circuits) end() error {
	return errors.Join(c.manager.Close(), c.ether.Close())
}

// CanDial implements [transport.Transport].
func (c *circuits) CanDial(a ma.Multiaddr) bool {
	_, _, relayed := splitRelayed(a)
	return relayed
}

// Protocols implements [transport.Transport].
func (c *circuits) Protocols() []int { return []int{ma.P_CIRCUIT} }

// Proxy implements [transport.Transport].
func (c *circuits) Proxy() bool { return true }

// SkipResolve implements [transport.SkipResolver]: there are no names in relayed addresses.
func (c *circuits) SkipResolve(context.Context, ma.Multiaddr) bool { return true }

// Dial implements [transport.Transport].
func (c *circuits) Dial(ctx context.Context, a ma.Multiaddr, p peer.ID) (transport.CapableConn, error) {
	way, relay, relayed := splitRelayed(a)
	if !relayed {
		return nil, errors.New("dial over a relay: not a relayed address")
	}
	scope, err := c.limits.OpenConnection(network.DirOutbound, false, a)
	if err != nil {
		return nil, err
	}
	if err := scope.SetPeer(p); err != nil {
		scope.Done()
		return nil, err
	}
	c.host.Peerstore().AddAddrs(relay, []ma.Multiaddr{way}, peerstore.TempAddrTTL)
	s, err := eager{c.host}.NewStream(ctx, relay, circuitproto.ProtoIDv2Hop)
	if err != nil {
		scope.Done()
		return nil, err
	}
	_ = s.SetWriteDeadline(time.Now().Add(circuitWrite))
	if err := util.NewDelimitedWriter(s).WriteMsg(destination(p)); err != nil {
		_ = s.Reset()
		scope.Done()
		return nil, err
	}
	circuit := c.attach(s, a, relay, network.DirOutbound, scope)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(circuit.ctx, cancel)()
	inner, err := c.quic.Dial(ctx, etherMultiaddr(circuit.at), p)
	if err != nil {
		if why := context.Cause(circuit.ctx); why != nil {
			err = why
		}
		circuit.end(err)
		return nil, err
	}
	return circuit.carry(inner, c)
}

// attach makes a circuit of a stream; the connection to its relay counts more
// while it lasts.
func (c *circuits) attach(s network.Stream, remote ma.Multiaddr, relay peer.ID, dir network.Direction, scope network.ConnManagementScope) *circuit {
	count := func(by int) {
		c.host.ConnManager().UpsertTag(relay, circuitTag, func(now int) int { return max(0, now+by) })
	}
	count(circuitValue)
	circuit := c.ether.attach(s, remote, dir, scope)
	context.AfterFunc(circuit.ctx, func() { count(-circuitValue) })
	return circuit
}

// Listen implements [transport.Transport]: circuits that others open to this
// node are accepted from now on.
func (c *circuits) Listen(a ma.Multiaddr) (transport.Listener, error) {
	inner, err := c.quic.Listen(etherMultiaddr(c.ether.at()))
	if err != nil {
		return nil, err
	}
	l := &circuitListener{Listener: inner, circuits: c, at: a, ready: make(chan transport.CapableConn), done: make(chan struct{})}
	if !c.listener.CompareAndSwap(nil, l) {
		return nil, errors.Join(errors.New("listen on relays: twice"), inner.Close())
	}
	c.host.SetStreamHandler(circuitproto.ProtoIDv2Stop, l.offered)
	l.wg.Go(l.take)
	return l, nil
}

// circuitListener accepts circuits. It is QUIC's listener, whose addresses mean
// nothing to others.
type circuitListener struct {
	transport.Listener
	circuits *circuits
	at       ma.Multiaddr
	ready    chan transport.CapableConn
	done     chan struct{}
	closing  sync.Once
	wg       sync.WaitGroup
	opening  atomic.Int32
}

// offered puts a stream that a relay brings under the QUIC listener.
func (l *circuitListener) offered(s network.Stream) {
	_ = s.SetDeadline(time.Now().Add(circuitOpening))
	r := util.NewDelimitedReader(s, maxRelayWord)
	defer r.Close()
	var offer circuitpb.StopMessage
	if err := r.ReadMsg(&offer); err != nil || offer.GetType() != circuitpb.StopMessage_CONNECT || !isQUIC(s.Conn().RemoteMultiaddr()) {
		_ = s.Reset()
		return
	}
	relay := s.Conn().RemotePeer()
	remote := relayedAddr(s.Conn().RemoteMultiaddr(), relay)
	scope, err := l.circuits.limits.OpenConnection(network.DirInbound, false, remote)
	if err != nil {
		_ = s.Reset()
		return
	}
	if l.opening.Add(1) > maxOpening {
		l.opening.Add(-1)
		scope.Done()
		_ = s.Reset()
		return
	}
	answer := &circuitpb.StopMessage{Type: circuitpb.StopMessage_STATUS.Enum(), Status: circuitpb.Status_OK.Enum()}
	if err := util.NewDelimitedWriter(s).WriteMsg(answer); err != nil {
		l.opening.Add(-1)
		scope.Done()
		_ = s.Reset()
		return
	}
	_ = s.SetDeadline(time.Time{})
	circuit := l.circuits.attach(s, remote, relay, network.DirInbound, scope)
	circuit.bound(offer.GetLimit())
	patience := time.AfterFunc(circuitOpening, func() { circuit.end(context.DeadlineExceeded) })
	context.AfterFunc(circuit.opened, func() {
		patience.Stop()
		l.opening.Add(-1)
	})
}

// take takes the connections that come out of it.
func (l *circuitListener) take() {
	for {
		inner, err := l.Listener.Accept()
		if err != nil {
			return
		}
		circuit := l.circuits.ether.find(inner.RemoteMultiaddr())
		if circuit == nil || circuit.dir != network.DirInbound || circuit.scope.SetPeer(inner.RemotePeer()) != nil {
			_ = inner.Close()
			continue
		}
		circuit.proven()
		conn, err := circuit.carry(inner, l.circuits)
		if err != nil {
			continue
		}
		select {
		case l.ready <- conn:
		case <-l.done:
			_ = conn.Close()
			return
		}
	}
}

// Accept implements [transport.Listener].
func (l *circuitListener) Accept() (transport.CapableConn, error) {
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.done:
		return nil, transport.ErrListenerClosed
	}
}

// Multiaddr implements [transport.Listener].
func (l *circuitListener) Multiaddr() ma.Multiaddr { return l.at }

// Close implements [transport.Listener].
func (l *circuitListener) Close() error {
	var err error
	l.closing.Do(func() {
		l.circuits.host.RemoveStreamHandler(circuitproto.ProtoIDv2Stop)
		close(l.done)
		err = l.Listener.Close()
		l.wg.Wait()
	})
	return err
}
