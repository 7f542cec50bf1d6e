package node

import (
	"context"
	"iter"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"github.com/quic-go/quic-go"
)

// Path says how a node is reached now, "direct" or "relayed via" whom, and how
// long a message takes there and back, 0 where that is not known yet. ok is
// false where there is no connection.
func (n *Node) Path(node identity.Key) (via string, rtt time.Duration, ok bool) {
	id, err := host.PeerID(node)
	if err != nil {
		return "", 0, false
	}
	for _, c := range n.host.Network().ConnsToPeer(id) {
		if c.Stat().Limited {
			if via == "" {
				via, ok = "relayed via "+c.RemoteMultiaddr().String(), true
			}
			continue
		}
		via, ok = "direct", true
		var q *quic.Conn
		if c.As(&q) {
			if d := q.ConnectionStats().SmoothedRTT; rtt == 0 || d < rtt {
				rtt = d
			}
		}
	}
	return via, rtt, ok
}

// Watch streams the nodes that serve a cell, and goes on with those that come,
// change or go until ctx or the node ends.
func (c *Client) Watch(ctx context.Context, ref string) iter.Seq2[Found, error] {
	return c.found(ctx, "/v1/lookup?"+query("ref", ref, "follow", "1"))
}
