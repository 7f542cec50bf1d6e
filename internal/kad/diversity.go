package kad

import (
	"net/netip"
	"sync"

	"github.com/libp2p/go-libp2p-kbucket/peerdiversity"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Peers of one IPv4 /24 or IPv6 /48 that the routing table of the public
// network takes.
const (
	maxGroupBucket = 2 // in one bucket
	maxGroupTable  = 5 // in all
)

// diversity keeps one owner of many addresses from filling the routing table.
// Addresses that are not public do not count: a machine room or a home is one
// block of them. It is safe for concurrent use.
type diversity struct {
	addrs func(peer.ID) []ma.Multiaddr

	mu     sync.Mutex // guards what follows
	peers  map[peer.ID]*counted
	table  map[string]int
	bucket map[bucketGroup]int
}

// counted is a peer in the table: its blocks, by which it is counted once
// although the table speaks of each of its addresses.
type counted struct {
	groups map[string]struct{}
	addrs  int
}

type bucketGroup struct {
	cpl   int
	group string
}

func newDiversity(n network.Network) *diversity {
	return &diversity{
		addrs: func(p peer.ID) (out []ma.Multiaddr) {
			for _, c := range n.ConnsToPeer(p) {
				out = append(out, c.RemoteMultiaddr())
			}
			return out
		},
		peers: make(map[peer.ID]*counted), table: make(map[string]int), bucket: make(map[bucketGroup]int),
	}
}

// PeerAddresses implements [peerdiversity.PeerIPGroupFilter].
func (d *diversity) PeerAddresses(p peer.ID) []ma.Multiaddr { return d.addrs(p) }

// groups are the blocks that a peer is connected from. What the library works
// out itself puts a whole provider into one.
func (d *diversity) groups(p peer.ID) map[string]struct{} {
	out := make(map[string]struct{})
	for _, m := range d.addrs(p) {
		ip, err := manet.ToIP(m)
		if a, ok := netip.AddrFromSlice(ip); err == nil && ok && manet.IsPublicAddr(m) {
			out[prefix(a.Unmap(), 24, 48)] = struct{}{}
		}
	}
	return out
}

// Allow implements [peerdiversity.PeerIPGroupFilter].
func (d *diversity) Allow(i peerdiversity.PeerGroupInfo) bool {
	groups := d.groups(i.Id)
	d.mu.Lock()
	defer d.mu.Unlock()
	for g := range groups {
		if d.table[g] >= maxGroupTable || d.bucket[bucketGroup{i.Cpl, g}] >= maxGroupBucket {
			return false
		}
	}
	return true
}

// Increment implements [peerdiversity.PeerIPGroupFilter].
func (d *diversity) Increment(i peerdiversity.PeerGroupInfo) {
	groups := d.groups(i.Id)
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.peers[i.Id]
	if c == nil {
		c = &counted{groups: groups}
		d.peers[i.Id] = c
		d.countLocked(c, i.Cpl, +1)
	}
	c.addrs++
}

// Decrement implements [peerdiversity.PeerIPGroupFilter].
func (d *diversity) Decrement(i peerdiversity.PeerGroupInfo) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.peers[i.Id]
	if c == nil {
		return
	}
	if c.addrs--; c.addrs == 0 {
		delete(d.peers, i.Id)
		d.countLocked(c, i.Cpl, -1)
	}
}

func (d *diversity) countLocked(c *counted, cpl, n int) {
	for g := range c.groups {
		b := bucketGroup{cpl, g}
		if d.table[g] += n; d.table[g] <= 0 {
			delete(d.table, g)
		}
		if d.bucket[b] += n; d.bucket[b] <= 0 {
			delete(d.bucket, b)
		}
	}
}
