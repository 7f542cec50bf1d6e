package host

import (
	"errors"
	"strings"
	"time"

	"cell.network/cell/internal/identity"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/quic-go/quic-go"
)

// Path returns how a node is reached at the moment, "direct" or "relayed via
// <relay>", and the smoothed round trip time of the connection, 0 before it was
// measured. It is not ok where there is no connection.
func (h *Host) Path(node identity.Key) (via string, rtt time.Duration, ok bool) {
	id, err := PeerID(node)
	if err != nil {
		return "", 0, false
	}
	c := h.best(id)
	if c == nil {
		return "", 0, false
	}
	via = "direct"
	if _, relay, relayed := splitRelayed(c.RemoteMultiaddr()); relayed {
		via = "relayed via " + relay.String()
		if key, err := KeyOf(relay); err == nil {
			via = "relayed via " + key.Short()
		}
	}
	rtt, _ = rttOf(c)
	return via, rtt, true
}

// best returns the connection that streams to a peer would use: a direct one
// where there is one.
func (h *Host) best(id peer.ID) network.Conn {
	var best network.Conn
	for _, c := range h.swarm.ConnsToPeer(id) {
		if !c.IsClosed() && (best == nil || best.Stat().Limited && !c.Stat().Limited) {
			best = c
		}
	}
	return best
}

// unmeasured is the round trip time that QUIC assumes at first.
const unmeasured = 100 * time.Millisecond

// rttOf returns the smoothed round trip time of a connection; it is not ok
// before it was measured.
func rttOf(c network.Conn) (time.Duration, bool) {
	var q *quic.Conn
	if !c.As(&q) {
		return 0, false
	}
	stats := q.ConnectionStats()
	if stats.MeanDeviation == 0 && stats.SmoothedRTT == unmeasured {
		return 0, false
	}
	return stats.SmoothedRTT, true
}

// Superseded reports whether a connection goes over a relay while there is a
// direct one to the same peer: new streams belong on that one.
func (h *Host) Superseded(c network.Conn) bool {
	if !c.Stat().Limited {
		return false
	}
	best := h.best(c.RemotePeer())
	return best != nil && !best.Stat().Limited
}

// Circuit is what a relay still passes on over a connection.
type Circuit struct {
	Relay identity.Key
	Left  int64     // bytes to the peer
	Until time.Time // then the relay ends it; zero where it does not
}

// CircuitOf returns what is left of a relayed connection; it is not ok for a
// direct one.
func CircuitOf(c network.Conn) (Circuit, bool) {
	var conn *circuitConn
	_, relay, relayed := splitRelayed(c.RemoteMultiaddr())
	if !relayed || !c.As(&conn) {
		return Circuit{}, false
	}
	key, _ := KeyOf(relay)
	out := Circuit{Relay: key, Left: max(0, conn.circuit.limit.Load()-conn.circuit.sent.Load())}
	if at := conn.circuit.until.Load(); at > 0 {
		out.Until = time.Unix(0, at)
	}
	return out, true
}

// Spent reports whether a connection ended because it passed on all that its
// relay allows, in either direction: the error of a stream on it says so.
func Spent(err error) bool {
	var ended *network.ConnError
	return errors.As(err, &ended) && ended.ErrorCode == connSpent
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
