package host

import (
	"cmp"
	"net"
	"slices"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Dialable reports whether a node of this network may dial an address that it
// learnt from a stranger: one IP, one UDP port, QUIC version 1, and nothing
// else or a relay that is reached there and passes connections on, so that no
// name is looked up. On the public network the IP must be public; on a private
// one any IP that belongs to a single machine will do.
func Dialable(n identity.Network, a ma.Multiaddr) bool {
	way, _, _ := splitRelayed(a)
	return oneMachine(way) && len(a.Bytes()) <= record.MaxAddrSize && (n.Private() || manet.IsPublicAddr(way))
}

// oneMachine reports whether a is a QUIC address that belongs to one machine.
func oneMachine(a ma.Multiaddr) bool {
	if !isQUIC(a) || len(a.Bytes()) > record.MaxAddrSize {
		return false
	}
	ip := net.IP(a[0].RawValue())
	return !ip.IsUnspecified() && !ip.IsMulticast() && !ip.Equal(net.IPv4bcast) && a[1].Value() != "0"
}

// isQUIC reports whether a is /ip4/…/udp/…/quic-v1 or the same with ip6.
func isQUIC(a ma.Multiaddr) bool {
	return len(a) == 3 && (a[0].Code() == ma.P_IP4 || a[0].Code() == ma.P_IP6) &&
		a[1].Code() == ma.P_UDP && a[2].Code() == ma.P_QUIC_V1
}

// splitRelayed takes a relayed address apart: <address>/p2p/<relay>/p2p-circuit
// is the way to the relay and its id. Any other address is a way of its own.
func splitRelayed(a ma.Multiaddr) (way ma.Multiaddr, relay peer.ID, relayed bool) {
	if len(a) != 5 || a[3].Code() != ma.P_P2P || a[4].Code() != ma.P_CIRCUIT {
		return a, "", false
	}
	id, err := peer.IDFromBytes(a[3].RawValue())
	if err != nil {
		return a, "", false
	}
	if _, err := KeyOf(id); err != nil {
		return a, "", false
	}
	return a[:3], id, true
}

// relayedAddr is the address of a node that has a place at a relay.
func relayedAddr(way ma.Multiaddr, relay peer.ID) ma.Multiaddr {
	id, err := ma.NewComponent("p2p", relay.String())
	if err != nil {
		panic(err) // ids of peers that are connected are well formed
	}
	circuit, _ := ma.NewComponent("p2p-circuit", "")
	return ma.Join(way, id.Multiaddr(), circuit.Multiaddr())
}

// gate keeps peers from making this node follow relays that it would not dial:
// what they say of their addresses in identify comes to the dialler without
// having passed [Dialable].
type gate struct {
	network identity.Network
	dialled func(ma.Multiaddr) // told of every direct address about to be dialled
}

// InterceptAddrDial implements libp2p's gate.
func (g *gate) InterceptAddrDial(_ peer.ID, a ma.Multiaddr) bool {
	if isQUIC(a) {
		g.dialled(a)
		return true
	}
	_, _, relayed := splitRelayed(a)
	return relayed && Dialable(g.network, a)
}

// InterceptPeerDial implements libp2p's gate and lets everything pass.
func (*gate) InterceptPeerDial(peer.ID) bool { return true }

// InterceptAccept implements libp2p's gate and lets everything pass.
func (*gate) InterceptAccept(network.ConnMultiaddrs) bool { return true }

// InterceptSecured implements libp2p's gate and lets everything pass.
func (*gate) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool { return true }

// InterceptUpgraded implements libp2p's gate and lets everything pass.
func (*gate) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// Publishable returns those of a node's addresses that others may be told, the
// most widely reachable first: those that [Dialable] allows, without those of
// the machine itself where there are others.
func Publishable(n identity.Network, addrs []ma.Multiaddr) []ma.Multiaddr {
	return outward(ranked(addrs, func(a ma.Multiaddr) bool { return Dialable(n, a) }, reach))
}

// outward leaves out addresses that mean another machine to each (loopback)
// where there are others: a machine reaches itself at those too. Nodes of one
// machine without a network have nothing else.
func outward(addrs []ma.Multiaddr) []ma.Multiaddr {
	outside := func(a ma.Multiaddr) bool { return isQUIC(a) && !manet.IsIPLoopback(a) && !manet.IsIP6LinkLocal(a) }
	if !slices.ContainsFunc(addrs, outside) {
		return addrs
	}
	return slices.DeleteFunc(slices.Clone(addrs), manet.IsIPLoopback)
}

// told chooses what the host says of its addresses, of those that libp2p knows.
func (h *Host) told(all []ma.Multiaddr) []ma.Multiaddr {
	switch {
	case h.nat != nil:
		return h.nat.addrs(all)
	case h.machine != nil: // libp2p may be a minute behind
		all = h.interfaces()
	}
	return outward(slices.Concat(all, h.announce))
}

// LeaseAddrs returns the addresses that a lease of this node carries, at most
// [record.MaxAddrs], binary and without /p2p of the node itself. On the LAN (lan
// true) that is every address of its own, those of the LAN first, and those of
// the machine itself only where there are no others; elsewhere those of
// [Publishable], and where others may not reach the node by itself those at the
// relays that have a place for it.
func (h *Host) LeaseAddrs(lan bool) [][]byte {
	addrs := Publishable(h.network, h.Addrs())
	if lan {
		all := func(a ma.Multiaddr) bool { return isQUIC(a) }
		addrs = ranked(h.Addrs(), all, func(a ma.Multiaddr) int {
			if manet.IsPrivateAddr(a) && !manet.IsIPLoopback(a) {
				return -1
			}
			return reach(a)
		})
	}
	var out [][]byte
	for _, a := range addrs[:min(len(addrs), record.MaxAddrs)] {
		out = append(out, a.Bytes())
	}
	return out
}

// reach ranks an address by how far it can be dialled from: 0 is the widest.
func reach(a ma.Multiaddr) int {
	_, _, relayed := splitRelayed(a)
	switch {
	case relayed:
		return 1
	case manet.IsPublicAddr(a):
		return 0
	case manet.IsIPLoopback(a):
		return 3
	}
	return 2
}

// forPeople puts the address first that tells people most: direct ones that are
// reached from afar before those of a LAN, before relays, before loopback.
func forPeople(a, b ma.Multiaddr) int {
	rank := func(a ma.Multiaddr) int {
		if r := reach(a); r != 1 {
			return 2 * r
		}
		return 5
	}
	return cmp.Compare(rank(a), rank(b))
}

// Foremost returns the address, of at least one of a node, that people should
// be told of.
func Foremost(addrs []ma.Multiaddr) ma.Multiaddr { return slices.MinFunc(addrs, forPeople) }

// ranked keeps and sorts addresses; link-local IPv6 is of no use to others
// without its zone, which only its own machine knows.
func ranked(addrs []ma.Multiaddr, keep func(ma.Multiaddr) bool, rank func(ma.Multiaddr) int) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, a := range addrs {
		if keep(a) && !manet.IsIP6LinkLocal(a) {
			out = append(out, a)
		}
	}
	slices.SortStableFunc(out, func(a, b ma.Multiaddr) int { return cmp.Compare(rank(a), rank(b)) })
	return out
}

func publicAddrs(addrs []ma.Multiaddr) []ma.Multiaddr { return Publishable(identity.Public, addrs) }
