package host

import (
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/x/rate"
)

// What all peers together, one peer, and one machine may take of this node. A
// connection costs about 140 KB, a stream at most its flow-control window of
// 512 KB, growth of windows is counted as memory.
const (
	maxConns          = 1024      // open at once, both directions
	maxConnsIn        = 512       // accepted
	maxHandshakes     = 128       // connections whose peer is not proven yet
	maxStreams        = 16384     // open at once
	maxPeerConns      = 8         // with one peer; two dials that cross make two
	maxPeerStreamsIn  = 256       // opened by one peer
	maxPeerStreams    = 1024      // with one peer, both directions
	maxProtocolPeerIn = 64        // opened by one peer for one protocol
	maxMemory         = 256 << 20 // bytes of grown windows, all peers
	maxPeerMemory     = 32 << 20  // bytes of grown windows, one peer
	maxConnMemory     = 16 << 20  // bytes of grown windows, one connection

	maxIPConns       = 64  // with one IPv4 address or IPv6 /56: an office behind one router is many nodes
	maxSiteConns     = 256 // with one IPv6 /48
	maxLoopbackConns = 384 // with this machine: below maxConnsIn, so that its own programs cannot lock others out
	ipConnRate       = 4   // new connections a second from one address, after a burst of maxIPConns
)

// newLimits makes libp2p's resource manager with the limits above.
func newLimits() (network.ResourceManager, error) {
	conf := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: maxConns, ConnsInbound: maxConnsIn, ConnsOutbound: maxConns - maxConnsIn,
			Streams: maxStreams, StreamsInbound: maxStreams / 2, StreamsOutbound: maxStreams,
			Memory: maxMemory, FD: rcmgr.Unlimited,
		},
		Transient: rcmgr.ResourceLimits{
			Conns: 2 * maxHandshakes, ConnsInbound: maxHandshakes, ConnsOutbound: maxHandshakes,
			Streams: 4 * maxHandshakes, StreamsInbound: 2 * maxHandshakes, StreamsOutbound: 2 * maxHandshakes,
			Memory: maxMemory / 8, FD: rcmgr.Unlimited,
		},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: maxPeerConns, ConnsInbound: maxPeerConns, ConnsOutbound: maxPeerConns,
			Streams: maxPeerStreams, StreamsInbound: maxPeerStreamsIn, StreamsOutbound: maxPeerStreams,
			Memory: maxPeerMemory, FD: rcmgr.Unlimited,
		},
		ProtocolPeerDefault: rcmgr.ResourceLimits{
			Streams: maxPeerStreams, StreamsInbound: maxProtocolPeerIn, StreamsOutbound: maxPeerStreams,
			Memory: maxPeerMemory,
		},
		Service: map[string]rcmgr.ResourceLimits{relay.ServiceName: {
			Streams: 4 * relayCircuits, StreamsInbound: 2 * relayCircuits, StreamsOutbound: 2 * relayCircuits,
			Memory: 4 * relayCircuits * relayBuffer,
		}},
		Conn: rcmgr.ResourceLimits{Conns: 1, ConnsInbound: 1, ConnsOutbound: 1, Memory: maxConnMemory, FD: 1},
	}
	loop4, loop6 := netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")
	loopRate := rate.Limit{RPS: 64 * ipConnRate, Burst: maxLoopbackConns}
	ipRate := rate.Limit{RPS: ipConnRate, Burst: maxIPConns}
	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(conf.Build(rcmgr.InfiniteLimits)),
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: maxIPConns}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: maxIPConns}, {PrefixLength: 48, ConnCount: maxSiteConns}}),
		rcmgr.WithNetworkPrefixLimit(
			[]rcmgr.NetworkPrefixLimit{{Network: loop4, ConnCount: maxLoopbackConns}},
			[]rcmgr.NetworkPrefixLimit{{Network: loop6, ConnCount: maxLoopbackConns}}),
		rcmgr.WithConnRateLimiters(&rate.Limiter{
			NetworkPrefixLimits: []rate.PrefixLimit{{Prefix: loop4, Limit: loopRate}, {Prefix: loop6, Limit: loopRate}},
			SubnetRateLimiter: rate.SubnetLimiter{
				IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: ipRate}},
				IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: ipRate}},
				GracePeriod:      time.Minute,
			},
		}))
}
