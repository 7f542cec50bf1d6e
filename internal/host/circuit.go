package host

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	circuitpb "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/pb"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/util"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
)

const (
	maxPacket      = 1500             // bytes of one packet; more ends the circuit
	packetHeader   = 2                // bytes
	maxRelayWord   = 4 << 10          // bytes of what a relay says before it passes on
	circuitQueue   = 256              // packets that wait to be read, of all circuits; more are lost, and sent again
	circuitWrite   = 10 * time.Second // a relay that takes nothing for so long ends the circuit
	circuitOpening = 10 * time.Second // for the handshake of one that another node opened
	maxOpening     = 64               // circuits that others opened and that are not proven yet
	circuitAlive   = 15 * time.Second // between two packets of an idle circuit
	circuitIdle    = 30 * time.Second // silence after which it is dead
	circuitLast    = 2 * maxPacket    // bytes of its limit that are kept for small packets: the last one says why it ends
	circuitSmall   = 128              // bytes of such a packet
	circuitParting = 2 * time.Second  // for the last packet to arrive

	circuitTag   = "circuit" // a connection to a relay counts more for each
	circuitValue = 5
)

// connSpent ends a connection whose relay passes nothing on any more. It is a
// number of our own, so that the other end takes it for nothing else.
const connSpent network.ConnErrorCode = 0xce11

// circuit is one stream that a relay passes on, and an address to QUIC.
type circuit struct {
	ether  *ether
	stream network.Stream
	dir    network.Direction
	remote ma.Multiaddr // the relay's address, its id, and /p2p-circuit
	at     netip.AddrPort
	ctx    context.Context // ends with the circuit, and says why
	cancel context.CancelCauseFunc
	opened context.Context // ends when the handshake is done, or with the circuit
	proven context.CancelFunc
	scope  network.ConnManagementScope // what it is counted in

	limit atomic.Int64 // bytes that the relay passes on in one direction
	until atomic.Int64 // Unix nanoseconds; then the relay ends it
	sent  atomic.Int64 // bytes, as the relay counts them

	writing sync.Mutex
	once    sync.Once
	leave   atomic.Pointer[func()] // ends the connection that QUIC made of it, and tells the peer that it is spent
}

var (
	errSpent  = errors.New("the relay passes nothing on any more")
	errEnded  = errors.New("the circuit ended")
	errPacket = errors.New("malformed packet")
)

// bound takes in what the relay says of its limits.
func (c *circuit) bound(l *circuitpb.Limit) {
	c.limit.Store(math.MaxInt64)
	if n := l.GetData(); n > 0 && n < math.MaxInt64 {
		c.limit.Store(int64(n))
	}
	if s := l.GetDuration(); s > 0 {
		c.until.Store(time.Now().Add(time.Duration(s) * time.Second).UnixNano())
	}
}

// end closes the circuit. Where it is spent the peer is told: to it a circuit
// that ends without a word may have broken.
func (c *circuit) end(why error) {
	c.once.Do(func() {
		leave := c.leave.Load()
		if spent := errors.Is(why, errSpent); spent && leave != nil {
			(*leave)()
			_ = c.stream.CloseWrite() // after what waits to be sent
			time.AfterFunc(circuitParting, func() { _ = c.stream.Reset() })
		} else {
			defer c.stream.Reset()
		}
		c.ether.detach(c)
		c.cancel(why)
		c.scope.Done()
	})
}

// receive hands the circuit's packets to QUIC until the stream ends. On one that
// this node opened the relay's answer comes first; nobody waited for it.
func (c *circuit) receive() {
	var err error
	if c.dir == network.DirOutbound {
		err = c.accepted()
	}
	r := bufio.NewReaderSize(c.stream, 2*maxPacket)
	var head [packetHeader]byte
	for err == nil {
		if _, err = io.ReadFull(r, head[:]); err != nil {
			break
		}
		n := int(binary.BigEndian.Uint16(head[:]))
		if n == 0 || n > maxPacket {
			err = errPacket
			break
		}
		packet := make([]byte, n)
		if _, err = io.ReadFull(r, packet); err == nil {
			c.ether.arrive(packet, c.at)
		}
	}
	if err == io.EOF {
		rest(c.ctx, circuitParting) // QUIC reads why
	}
	c.end(fmt.Errorf("%w: %w", errEnded, err))
}

// accepted reads whether the relay passes the circuit on.
func (c *circuit) accepted() error {
	_ = c.stream.SetReadDeadline(time.Now().Add(circuitOpening))
	r := util.NewDelimitedReader(c.stream, maxRelayWord)
	defer r.Close()
	var answer circuitpb.HopMessage
	if err := r.ReadMsg(&answer); err != nil {
		return err
	}
	if answer.GetType() != circuitpb.HopMessage_STATUS || answer.GetStatus() != circuitpb.Status_OK {
		return fmt.Errorf("the relay refuses: %s", answer.GetStatus())
	}
	c.bound(answer.GetLimit())
	return c.stream.SetReadDeadline(time.Time{})
}

func (c *circuit) send(packet []byte) {
	if len(packet) > maxPacket {
		return // QUIC looks for the largest size that passes
	}
	framed := append(binary.BigEndian.AppendUint16(make([]byte, 0, packetHeader+len(packet)), uint16(len(packet))), packet...)
	c.writing.Lock()
	defer c.writing.Unlock()
	err := errSpent
	if left := c.limit.Load() - c.sent.Load(); int64(len(framed)) <= left && (len(framed) <= circuitSmall || int64(len(framed)) <= left-circuitLast) {
		_ = c.stream.SetWriteDeadline(time.Now().Add(circuitWrite))
		_, err = c.stream.Write(framed)
	}
	if err != nil {
		go c.end(err) // which waits for QUIC, which waits for this
		return
	}
	c.sent.Add(int64(len(framed)))
}

// carry returns the connection that QUIC made of the circuit. They end together.
func (c *circuit) carry(inner transport.CapableConn, t transport.Transport) (transport.CapableConn, error) {
	var q *quic.Conn
	if !inner.As(&q) {
		_ = inner.Close()
		c.end(errEnded)
		return nil, errors.New("open circuit: not a QUIC connection")
	}
	leave := func() { _ = inner.CloseWithError(connSpent) }
	c.leave.Store(&leave)
	context.AfterFunc(q.Context(), func() { c.end(errEnded) })
	context.AfterFunc(c.ctx, func() {
		if errors.Is(context.Cause(c.ctx), errSpent) {
			leave() // it was spent before it had one
			return
		}
		_ = inner.Close()
	})
	return &circuitConn{CapableConn: inner, circuit: c, transport: t}, nil
}

// circuitConn is a connection over a relay.
type circuitConn struct {
	transport.CapableConn
	circuit   *circuit
	transport transport.Transport
}

// RemoteMultiaddr is the relay's address, its id, and /p2p-circuit.
func (c *circuitConn) RemoteMultiaddr() ma.Multiaddr { return c.circuit.remote }

// LocalMultiaddr is the address that the relay is reached from.
func (c *circuitConn) LocalMultiaddr() ma.Multiaddr { return c.circuit.stream.Conn().LocalMultiaddr() }

// Transport is the one that dials over relays.
func (c *circuitConn) Transport() transport.Transport { return c.transport }

// Scope is what the connection is counted in.
func (c *circuitConn) Scope() network.ConnScope { return c.circuit.scope }

// Stat says that it is not meant for much.
func (c *circuitConn) Stat() network.ConnStats {
	return network.ConnStats{Stats: network.Stats{Limited: true}}
}

// ConnState says that it goes over a relay.
func (c *circuitConn) ConnState() network.ConnectionState {
	s := c.CapableConn.ConnState()
	s.Transport = "p2p-circuit"
	return s
}

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
	c.circuit.end(errEnded)
	return err
}

// attach gives a stream an address and reads from it until it ends.
func (e *ether) attach(s network.Stream, remote ma.Multiaddr, dir network.Direction, scope network.ConnManagementScope) *circuit {
	c := &circuit{ether: e, stream: s, remote: remote, dir: dir, scope: scope}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.opened, c.proven = context.WithCancel(c.ctx)
	c.limit.Store(math.MaxInt64)
	e.add(c)
	go c.receive()
	return c
}

func destination(p peer.ID) *circuitpb.HopMessage {
	return &circuitpb.HopMessage{Type: circuitpb.HopMessage_CONNECT.Enum(), Peer: &circuitpb.Peer{Id: []byte(p)}}
}
