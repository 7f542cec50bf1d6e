package host

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Limits on what peers say about where they see this node.
const (
	minWitnesses = 2 // machines that must agree before an address is probed
	maxSeenAt    = 3 // addresses of each IP version that are probed
)

// sightings are the addresses at which peers see this node. A peer may say
// anything, so that they only lead to questions: to AutoNAT whether others
// reach it there, to hole punching where to aim.
type sightings struct {
	mu sync.Mutex // guards what follows
	by map[network.Conn]sighting
}

// sighting is what one connection's peer said.
type sighting struct {
	at      ma.Multiaddr
	witness netip.Addr // its IP; of IPv6 the /56
	when    time.Time
}

func newSightings() *sightings { return &sightings{by: make(map[network.Conn]sighting)} }

// add notes what a peer said about a connection and reports whether that is news.
func (s *sightings) add(c network.Conn, at ma.Multiaddr) bool {
	witness, ok := machineOf(c.RemoteMultiaddr())
	if !ok || !oneMachine(at) || manet.IsIPLoopback(at) || c.IsClosed() {
		return false
	}
	if remote := c.RemoteMultiaddr(); !isQUIC(remote) || remote[0].Code() != at[0].Code() {
		return false // seen over a relay, or through a translator between IP versions
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	news := !s.by[c].at.Equal(at)
	s.by[c] = sighting{at, witness, time.Now()}
	return news
}

func (s *sightings) forget(c network.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.by, c)
}

// machineOf returns the IP of an address; of IPv6 the /56, which is one customer.
func machineOf(a ma.Multiaddr) (netip.Addr, bool) {
	ip, err := manet.ToIP(a)
	if err != nil {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(ip)
	if addr = addr.Unmap(); addr.Is6() {
		p, err := addr.Prefix(56)
		return p.Addr(), ok && err == nil
	}
	return addr, ok
}

// Seen is an address at which peers see this node.
type Seen struct {
	Addr      ma.Multiaddr
	Witnesses int       // machines that see it there
	When      time.Time // when the last one said so
}

// all returns every address, that with the most witnesses first.
func (s *sightings) all() []Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	witnesses := make(map[string]map[netip.Addr]bool)
	all := make(map[string]Seen)
	for _, at := range s.by {
		k := string(at.at.Bytes())
		if witnesses[k] == nil {
			witnesses[k] = make(map[netip.Addr]bool)
		}
		witnesses[k][at.witness] = true
		seen := Seen{Addr: at.at, Witnesses: len(witnesses[k]), When: at.when}
		if last := all[k].When; last.After(seen.When) {
			seen.When = last
		}
		all[k] = seen
	}
	out := slices.Collect(maps.Values(all))
	slices.SortFunc(out, func(a, b Seen) int {
		return cmp.Or(cmp.Compare(b.Witnesses, a.Witnesses), a.Addr.Compare(b.Addr))
	})
	return out
}

// Addrs implements libp2p's interface of what is observed: the addresses that
// at least so many machines see.
func (s *sightings) Addrs(witnesses int) []ma.Multiaddr { return top(s.all(), witnesses, 0) }

// latest returns the addresses that peers saw last: what hole punching aims at.
func (s *sightings) latest() []ma.Multiaddr {
	all := s.all()
	slices.SortStableFunc(all, func(a, b Seen) int { return b.When.Compare(a.When) })
	return top(all, 1, 0)
}

// AddrsFor implements libp2p's interface: where a port of this node is seen.
func (s *sightings) AddrsFor(local ma.Multiaddr) []ma.Multiaddr {
	if !isQUIC(local) {
		return nil
	}
	return top(s.all(), minWitnesses, local[0].Code())
}

func top(all []Seen, witnesses, ip int) []ma.Multiaddr {
	var out []ma.Multiaddr
	count := make(map[int]int)
	for _, at := range all {
		version := at.Addr[0].Code()
		if at.Witnesses >= witnesses && (ip == 0 || ip == version) && count[version] < maxSeenAt {
			count[version]++
			out = append(out, at.Addr)
		}
	}
	return out
}
