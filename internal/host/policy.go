package host

import (
	"cmp"
	"net"
	"slices"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Dialable reports whether a node of this network may dial an address that it
// learnt from a stranger: one IP, one UDP port, QUIC version 1 and nothing
// else, so that no name is looked up and no relay followed. On the public
// network the IP must be public; on a private one any IP that belongs to a
// single machine will do.
func Dialable(n identity.Network, a ma.Multiaddr) bool {
	return oneMachine(a) && (n.Private() || manet.IsPublicAddr(a))
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

// Publishable returns those of a node's own addresses that it may tell
// strangers, the most widely reachable first: those that [Dialable] allows.
func Publishable(n identity.Network, addrs []ma.Multiaddr) []ma.Multiaddr {
	return ranked(addrs, func(a ma.Multiaddr) bool { return Dialable(n, a) }, reach)
}

// LeaseAddrs returns the addresses that a lease of this node carries, at most
// [record.MaxAddrs], binary and without /p2p. On the LAN (lan true) that is
// every address, those of the LAN first and those of the machine itself last,
// for nodes on one machine; elsewhere those of [Publishable].
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
	switch {
	case manet.IsPublicAddr(a):
		return 0
	case manet.IsIPLoopback(a):
		return 2
	}
	return 1
}

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
