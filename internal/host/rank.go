package host

import (
	"cmp"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	// relayDelay is the head start of direct addresses over relayed ones: enough
	// for a LAN. Who is reached directly for sure has no relayed ones.
	relayDelay = 20 * time.Millisecond
	// relaysAtOnce are dialled over together: the nearer wins, and one may be dead.
	relaysAtOnce = 2
	// relayNext is when another one is tried after that.
	relayNext = 250 * time.Millisecond
)

// rank says when to dial which address of a peer: relayed ones soon after direct
// ones, where libp2p would wait for half a second, and those first whose relay
// this host is connected to.
func (h *Host) rank(addrs []ma.Multiaddr) []network.AddrDelay {
	direct := slices.DeleteFunc(slices.Clone(addrs), func(a ma.Multiaddr) bool { return !isQUIC(a) })
	relayed := slices.DeleteFunc(slices.Clone(addrs), isQUIC)
	out := swarm.DefaultDialRanker(direct)
	far := func(a ma.Multiaddr) time.Duration {
		_, relay, _ := splitRelayed(a)
		if c := h.best(relay); c != nil && !c.Stat().Limited {
			rtt, _ := rttOf(c)
			return rtt
		}
		return time.Hour
	}
	slices.SortStableFunc(relayed, func(a, b ma.Multiaddr) int { return cmp.Or(cmp.Compare(far(a), far(b)), a.Compare(b)) })
	var delay time.Duration
	if len(direct) > 0 {
		delay = relayDelay
	}
	for i, a := range relayed {
		out = append(out, network.AddrDelay{Addr: a, Delay: delay + time.Duration(i/relaysAtOnce)*relayNext})
	}
	return out
}
