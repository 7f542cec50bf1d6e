package kad

import (
	"slices"
	"sync"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Limits of the directory.
const (
	maxMembers  = 4096 // nodes that membership told of
	maxMet      = 1024 // others that have answered
	maxHidden   = 64   // cells whose order is remembered of one dead node
	missFirst   = 10 * time.Second
	missMost    = 5 * time.Minute // a peer that did not answer is asked last for so long at most
	rttWeight   = 4               // a new round trip counts for one in so many
	rttSamples  = 64
	rttUnknown  = 150 * time.Millisecond // round trip expected while nothing has been measured
	rttMinimum  = time.Millisecond
	rttQuantile = 0.75
)

// directory is who can be asked: members of the network, as membership tells,
// and peers that have answered before. It remembers how far they are and which
// of them did not answer. It is safe for concurrent use.
type directory struct {
	mu      sync.Mutex // guards what follows
	all     map[identity.Key]*contact
	askable []*contact // the servers that are not dead, by place
	met     int        // contacts that no membership vouches for
	samples [rttSamples]time.Duration
	sampled int           // samples taken in all
	changed chan struct{} // closed and replaced when askable changes
}

// contact is what is known of one node.
type contact struct {
	key    identity.Key
	at     place
	addrs  [][]byte // binary multiaddrs
	member bool     // membership told of it
	server bool
	dead   bool                           // membership says so
	hidden map[identity.Cell]record.Order // of a dead node: a lease shows only above this
	rtt    time.Duration                  // smoothed, 0 unknown
	misses int                            // since it last answered
	missed time.Time
	heard  time.Time
	spoke  bool // it has answered this node: it is not mere hearsay
}

func newDirectory() *directory {
	return &directory{all: make(map[identity.Key]*contact), changed: make(chan struct{})}
}

// know takes in what membership says of a node. In a full directory those that
// cannot be asked give way; one full of others takes no more.
func (d *directory) know(key identity.Key, addrs [][]byte, server, alive bool, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.all[key]
	if c == nil {
		if !alive || len(d.all)-d.met >= maxMembers && !d.makeRoomLocked() {
			return // of a stranger's death nothing follows
		}
		id, err := host.PeerID(key)
		if err != nil {
			return
		}
		c = &contact{key: key, at: placeOf(id), heard: now, member: true}
		d.all[key] = c
	} else if !c.member {
		c.member = true
		d.met--
	}
	was := c.askable()
	if alive && (c.dead || !slices.EqualFunc(c.addrs, addrs, slices.Equal)) {
		c.misses = 0 // it is back, or elsewhere
	}
	if len(addrs) > 0 {
		c.addrs = addrs
	}
	c.server = server
	c.setDead(!alive)
	d.placeLocked(c, was)
}

// makeRoomLocked makes room for one more member: one that is dead goes, or that
// keeps no leases, or not as far as membership knows.
func (d *directory) makeRoomLocked() bool {
	for key, c := range d.all {
		if c.member && !c.askable() {
			delete(d.all, key)
			return true
		}
	}
	return false
}

func (c *contact) askable() bool { return c.server && !c.dead }

func (c *contact) setDead(dead bool) {
	if c.dead = dead; !dead {
		c.hidden = nil
	}
}

// placeLocked puts c into askable or takes it out, where it was not so before.
func (d *directory) placeLocked(c *contact, was bool) {
	if c.askable() == was {
		return
	}
	at, _ := slices.BinarySearchFunc(d.askable, c.at, func(c *contact, p place) int { return c.at.compare(p) })
	if was {
		d.askable = slices.Delete(d.askable, at, at+1)
	} else {
		d.askable = slices.Insert(d.askable, at, c)
	}
	close(d.changed)
	d.changed = make(chan struct{})
}

// wait returns a channel that is closed when somebody who can be asked comes or goes.
func (d *directory) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// answered records that a peer has answered, where and after which round trip
// (0: not measured).
func (d *directory) answered(id peer.ID, addrs []ma.Multiaddr, rtt time.Duration, now time.Time) {
	key, err := host.KeyOf(id)
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.all[key]
	if c == nil {
		if d.met >= maxMet {
			d.forgetLocked()
		}
		c = &contact{key: key, at: placeOf(id)}
		d.all[key] = c
		d.met++
	}
	if !c.member || len(c.addrs) == 0 {
		if raw := rawAddrs(addrs); len(raw) > 0 {
			c.addrs = raw
		}
	}
	was := c.askable()
	c.heard, c.misses, c.spoke = now, 0, true
	c.server = c.server || !c.member
	d.placeLocked(c, was)
	if rtt <= 0 {
		return
	}
	rtt = max(rtt, rttMinimum)
	d.samples[d.sampled%rttSamples] = rtt
	d.sampled++
	if c.rtt == 0 {
		c.rtt = rtt
	}
	c.rtt += (rtt - c.rtt) / rttWeight
}

func rawAddrs(addrs []ma.Multiaddr) [][]byte {
	var raw [][]byte
	for _, a := range addrs[:min(len(addrs), MaxCloserAddrs)] {
		raw = append(raw, a.Bytes())
	}
	return raw
}

// forgetLocked makes room for one more that is no member: the one among a few
// that was not heard of for longest goes. Maps iterate at random.
func (d *directory) forgetLocked() {
	const few = 16
	var oldest *contact
	looked := 0
	for _, c := range d.all {
		if c.member {
			continue
		}
		if oldest == nil || c.heard.Before(oldest.heard) {
			oldest = c
		}
		if looked++; looked == few {
			break
		}
	}
	if oldest == nil {
		return
	}
	was := oldest.askable()
	oldest.server = false
	d.placeLocked(oldest, was)
	delete(d.all, oldest.key)
	d.met--
}

// silent records that a peer did not answer. Of strangers nothing is kept:
// anyone can make them up.
func (d *directory) silent(id peer.ID, now time.Time) {
	key, err := host.KeyOf(id)
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.all[key]; c != nil {
		c.misses++
		c.missed = now
	}
}

// slow records that a peer had not answered after a while. Nothing follows but
// that it is not the quickest.
func (d *directory) slow(id peer.ID, rtt time.Duration) {
	key, err := host.KeyOf(id)
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.all[key]; c != nil {
		c.rtt = max(c.rtt, rtt)
	}
}

// suspect reports whether c did not answer of late: it is asked last.
func (c *contact) suspect(now time.Time) bool {
	if c.misses == 0 {
		return false
	}
	return now.Before(c.missed.Add(min(missFirst<<min(c.misses-1, 8), missMost)))
}

// proved records that a node was heard of directly: it lives.
func (d *directory) proved(key identity.Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.all[key]; c != nil && c.dead {
		was := c.askable()
		c.setDead(false)
		c.misses = 0
		d.placeLocked(c, was)
	}
}

// dead reports whether membership says that a node is dead.
func (d *directory) dead(key identity.Key) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.all[key]
	return c != nil && c.dead
}

// hides reports whether a lease that was found is of a dead node. One that is
// newer than the first seen since the death shows: its node signed it later.
func (d *directory) hides(l record.Lease) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.all[l.Signer]
	if c == nil || !c.dead || l.Tombstone() {
		return false
	}
	if first, ok := c.hidden[l.Cell]; ok {
		return l.Order.Compare(first) <= 0
	}
	if c.hidden == nil {
		c.hidden = make(map[identity.Cell]record.Order)
	}
	if len(c.hidden) < maxHidden {
		c.hidden[l.Cell] = l.Order
	}
	return true
}

// size returns how many can be asked.
func (d *directory) size() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.askable)
}

// closest returns the n contacts closest to p that can be asked, the closest first.
func (d *directory) closest(p place, n int) []contact {
	d.mu.Lock()
	defer d.mu.Unlock()
	in := d.askable
	for bit := 0; len(in) > n && bit < 8*len(p); bit++ { // those that share the most bits with p
		split, _ := slices.BinarySearchFunc(in, byte(1), func(c *contact, one byte) int { return int(c.at.bit(bit)) - int(one) })
		half := in[:split]
		if p.bit(bit) == 1 {
			half = in[split:]
		}
		if len(half) < n {
			break
		}
		in = half
	}
	sorted := slices.Clone(in)
	slices.SortFunc(sorted, func(a, b *contact) int { return a.at.to(p).compare(b.at.to(p)) })
	var out []contact
	for _, c := range sorted[:min(n, len(sorted))] {
		out = append(out, *c)
	}
	return out
}

// about returns what is known of one node.
func (d *directory) about(id peer.ID) (contact, bool) {
	key, err := host.KeyOf(id)
	if err != nil {
		return contact{}, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.all[key]; c != nil {
		return *c, true
	}
	return contact{}, false
}

// usual is a round trip that most do not exceed.
func (d *directory) usual() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(d.sampled, rttSamples)
	if n < 8 {
		return rttUnknown
	}
	sorted := slices.Clone(d.samples[:n])
	slices.Sort(sorted)
	return sorted[int(rttQuantile*float64(n-1))]
}
