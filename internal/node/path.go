package node

import (
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
)

// reached says how a node is reached now, direct or relayed via another, and at
// which address where that is a direct one; "" where there is no connection.
func (n *Node) reached(node identity.Key) (path, addr string) {
	path, _, _ = n.host.Path(node)
	id, err := host.PeerID(node)
	if err != nil || path == "" {
		return path, ""
	}
	for _, c := range n.host.Network().ConnsToPeer(id) {
		if !c.Stat().Limited {
			return path, c.RemoteMultiaddr().String()
		}
	}
	return path, ""
}

// rtt is the round trip to a node that is connected, once it has been measured.
func (n *Node) rtt(node identity.Key) (time.Duration, bool) {
	_, rtt, ok := n.host.Path(node)
	return rtt, ok && rtt > 0
}
