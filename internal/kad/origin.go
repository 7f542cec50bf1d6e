package kad

import (
	"net/netip"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"github.com/libp2p/go-libp2p/core/network"
	manet "github.com/multiformats/go-multiaddr/net"
)

// origin is whom a request is counted against.
type origin struct {
	key    identity.Key // the node that sent it
	source string       // its IPv4 address or IPv6 /56, since keys are free; on this machine the node, since many share it
	group  string       // its IPv4 /24 or IPv6 /48 on the public network; elsewhere source
}

// ownOrigin is that of this node's leases, which no quota limits.
var ownOrigin = origin{source: "self", group: "self"}

// originOf names who is behind a stream.
func (k *Kad) originOf(s network.Stream) origin {
	id := s.Conn().RemotePeer()
	o := origin{source: string(id), group: string(id)}
	if key, err := host.KeyOf(id); err == nil {
		o.key = key
	}
	ip, err := manet.ToIP(s.Conn().RemoteMultiaddr())
	if err != nil {
		return o
	}
	a, ok := netip.AddrFromSlice(ip)
	if a = a.Unmap(); !ok || a.IsLoopback() {
		return o
	}
	o.source = prefix(a, 32, 56)
	o.group = o.source
	if !k.conf.Network.Private() {
		o.group = prefix(a, 24, 48)
	}
	return o
}

// prefix is the block of addresses that a is in, of v4 or v6 bits.
func prefix(a netip.Addr, v4, v6 int) string {
	bits := v4
	if a.Is6() {
		bits = v6
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return a.String()
	}
	return p.String()
}
