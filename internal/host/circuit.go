package host

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/quic-go/quic-go"
)

// A relay passes a stream of bytes between two nodes, a circuit. On it goes what
// goes between nodes everywhere, QUIC, so that nothing above sees a difference:
// each packet follows its length (2 bytes, big endian). To QUIC a circuit is an
// address of its own in 100::/64, which is never routed.
const (
	maxPacket      = 1500             // bytes of one packet; more ends the circuit
	packetHeader   = 2                // bytes
	circuitQueue   = 256              // packets that wait to be read, of all circuits; more are lost, and sent again
	circuitWrite   = 10 * time.Second // a relay that takes nothing for so long ends the circuit
	circuitOpening = 10 * time.Second // for the handshake of one that another node opened
	maxOpening     = 64               // circuits that others opened and that are not proven yet
	circuitAlive   = 15 * time.Second // between two packets of an idle circuit
	circuitIdle    = 30 * time.Second // silence after which it is dead
)

// connSpent ends a connection whose relay passes nothing on any more.
const connSpent = network.ConnResourceLimitExceeded

// circuits makes connections of the streams that relays pass on. It stands in
// the place that libp2p has for TLS and a multiplexer.
type circuits struct {
	quic    transport.Transport
	manager *quicreuse.ConnManager
	limits  network.ResourceManager
	ether   *ether
}

func newCircuits(key crypto.PrivKey, limits network.ResourceManager) (*circuits, error) {
	c := &circuits{limits: limits, ether: newEther()}
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

func (c *circuits) Close() error {
	err := c.manager.Close()
	return errors.Join(err, c.ether.Close())
}

// Upgrade implements [transport.Upgrader] for circuits that this node opens.
func (c *circuits) Upgrade(ctx context.Context, t transport.Transport, conn manet.Conn, dir network.Direction, p peer.ID, scope network.ConnManagementScope) (transport.CapableConn, error) {
	if dir != network.DirOutbound {
		return nil, errors.New("upgrade circuit: only of outgoing ones")
	}
	circuit := c.ether.attach(conn, dir, scope)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(circuit.ctx, cancel)()
	inner, err := c.quic.Dial(ctx, circuit.addr(), p)
	if err != nil {
		circuit.end()
		return nil, err
	}
	return circuit.carry(inner, t)
}

// UpgradeListener implements [transport.Upgrader].
func (c *circuits) UpgradeListener(t transport.Transport, l manet.Listener) transport.Listener {
	return c.UpgradeGatedMaListener(t, c.GateMaListener(l))
}

// GateMaListener implements [transport.Upgrader]: circuits are counted against the limits.
func (c *circuits) GateMaListener(l manet.Listener) transport.GatedMaListener {
	return &gatedCircuits{Listener: l, limits: c.limits}
}

type gatedCircuits struct {
	manet.Listener
	limits network.ResourceManager
}

// Accept implements [transport.GatedMaListener].
func (l *gatedCircuits) Accept() (manet.Conn, network.ConnManagementScope, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, nil, err
		}
		scope, err := l.limits.OpenConnection(network.DirInbound, false, conn.RemoteMultiaddr())
		if err == nil {
			return conn, scope, nil
		}
		_ = conn.Close()
	}
}

// UpgradeGatedMaListener implements [transport.Upgrader] for circuits that
// others open to this node.
func (c *circuits) UpgradeGatedMaListener(t transport.Transport, gated transport.GatedMaListener) transport.Listener {
	l := &circuitListener{GatedMaListener: gated, circuits: c, transport: t, ready: make(chan transport.CapableConn), done: make(chan struct{})}
	inner, err := c.quic.Listen(c.ether.addr())
	if err != nil {
		l.failed = err
		close(l.done)
		return l
	}
	l.inner = inner
	l.wg.Go(l.takeStreams)
	l.wg.Go(l.takeConns)
	return l
}

// circuitListener accepts circuits.
type circuitListener struct {
	transport.GatedMaListener
	circuits  *circuits
	transport transport.Transport
	inner     transport.Listener
	failed    error
	ready     chan transport.CapableConn
	done      chan struct{}
	closing   sync.Once
	wg        sync.WaitGroup
	opening   atomic.Int32
}

// takeStreams puts the streams that relays bring under the QUIC listener.
func (l *circuitListener) takeStreams() {
	for {
		conn, scope, err := l.GatedMaListener.Accept()
		if err != nil {
			return
		}
		if l.opening.Load() >= maxOpening {
			scope.Done()
			_ = conn.Close()
			continue
		}
		l.opening.Add(1)
		circuit := l.circuits.ether.attach(conn, network.DirInbound, scope)
		patience := time.AfterFunc(circuitOpening, circuit.end)
		context.AfterFunc(circuit.opened, func() {
			patience.Stop()
			l.opening.Add(-1)
		})
		context.AfterFunc(circuit.ctx, func() {
			circuit.proven()
			scope.Done()
		})
	}
}

// takeConns takes the connections that come out of it.
func (l *circuitListener) takeConns() {
	for {
		inner, err := l.inner.Accept()
		if err != nil {
			return
		}
		circuit := l.circuits.ether.find(inner.RemoteMultiaddr())
		if circuit == nil || circuit.dir != network.DirInbound || circuit.scope.SetPeer(inner.RemotePeer()) != nil {
			_ = inner.Close()
			continue
		}
		circuit.proven()
		conn, err := circuit.carry(inner, l.transport)
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
		return nil, errors.Join(transport.ErrListenerClosed, l.failed)
	}
}

// Close implements [transport.Listener].
func (l *circuitListener) Close() error {
	var err error
	l.closing.Do(func() {
		err = l.GatedMaListener.Close()
		if l.inner == nil {
			return
		}
		close(l.done)
		err = errors.Join(err, l.inner.Close())
		l.wg.Wait()
	})
	return err
}

// circuit is one stream that a relay passes on, and an address to QUIC.
type circuit struct {
	ether  *ether
	conn   manet.Conn
	dir    network.Direction
	at     netip.AddrPort
	ctx    context.Context // ends with the circuit
	cancel context.CancelFunc
	opened context.Context // ends when the handshake is done, or with the circuit
	proven context.CancelFunc
	scope  network.ConnManagementScope // what it is counted in

	limit int64        // bytes that the relay passes on in one direction
	sent  atomic.Int64 // bytes, as the relay counts them
	spent atomic.Bool  // they came to the limit

	writing sync.Mutex
	once    sync.Once
}

func (c *circuit) addr() ma.Multiaddr { return etherMultiaddr(c.at) }

// end closes the circuit.
func (c *circuit) end() {
	c.once.Do(func() {
		c.ether.detach(c)
		c.cancel()
		_ = c.conn.Close()
	})
}

// carry returns the connection that QUIC made of the circuit. They end together.
func (c *circuit) carry(inner transport.CapableConn, t transport.Transport) (transport.CapableConn, error) {
	conn := &circuitConn{CapableConn: inner, circuit: c, transport: t}
	if s, ok := c.conn.(network.ConnStat); ok {
		conn.stat = s.Stat()
	}
	var q *quic.Conn
	if !inner.As(&q) {
		_ = conn.Close()
		return nil, errors.New("upgrade circuit: not a QUIC connection")
	}
	context.AfterFunc(q.Context(), c.end)
	context.AfterFunc(c.ctx, func() {
		if c.spent.Load() {
			_ = inner.CloseWithError(connSpent)
			return
		}
		_ = inner.Close()
	})
	return conn, nil
}

// receive hands the circuit's packets to QUIC until the stream ends.
func (c *circuit) receive() {
	defer c.end()
	r := bufio.NewReaderSize(c.conn, 2*maxPacket)
	var head [packetHeader]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(head[:]))
		if n == 0 || n > maxPacket {
			return
		}
		packet := make([]byte, n)
		if _, err := io.ReadFull(r, packet); err != nil {
			return
		}
		c.ether.arrive(packet, c.at)
	}
}

func (c *circuit) send(packet []byte) {
	if len(packet) > maxPacket {
		return // QUIC looks for the largest size that passes
	}
	framed := append(binary.BigEndian.AppendUint16(make([]byte, 0, packetHeader+len(packet)), uint16(len(packet))), packet...)
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.sent.Load()+int64(len(framed)) > c.limit {
		if !c.spent.Swap(true) {
			go c.end()
		}
		return
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(circuitWrite))
	if _, err := c.conn.Write(framed); err != nil {
		go c.end() // which waits for QUIC, which waits for this
		return
	}
	c.sent.Add(int64(len(framed)))
}

// circuitConn is a connection over a relay.
type circuitConn struct {
	transport.CapableConn
	circuit   *circuit
	transport transport.Transport
	stat      network.ConnStats
}

// RemoteMultiaddr is the relay's address, its id, and /p2p-circuit.
func (c *circuitConn) RemoteMultiaddr() ma.Multiaddr { return c.circuit.conn.RemoteMultiaddr() }

// LocalMultiaddr is the address that the relay is reached from.
func (c *circuitConn) LocalMultiaddr() ma.Multiaddr { return c.circuit.conn.LocalMultiaddr() }

// Transport is the one that dials over relays.
func (c *circuitConn) Transport() transport.Transport { return c.transport }

// Scope is what the connection is counted in.
func (c *circuitConn) Scope() network.ConnScope { return c.circuit.scope }

// Stat says whether the relay limits the circuit, and how.
func (c *circuitConn) Stat() network.ConnStats { return c.stat }

// As finds the circuit too.
func (c *circuitConn) As(target any) bool {
	if t, ok := target.(**circuitConn); ok {
		*t = c
		return true
	}
	return c.CapableConn.As(target)
}

// Close closes the connection and the circuit.
func (c *circuitConn) Close() error { return c.CloseWithError(0) }

// CloseWithError is Close with a reason for the peer.
func (c *circuitConn) CloseWithError(code network.ConnErrorCode) error {
	err := c.CapableConn.CloseWithError(code)
	c.circuit.end()
	c.circuit.scope.Done()
	return err
}
