package kad

import (
	"bytes"
	"slices"

	"cell.network/cell/internal/identity"
	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Limits of one lookup.
const (
	alpha      = 6   // queries under way that are not late
	maxQueries = 96  // in all: however many peers are made up, a lookup ends
	maxKnown   = 256 // candidates remembered, the closest ones
)

// distance is a place in the key space, or the XOR of two.
type distance [32]byte

func placeOf(p peer.ID) distance { return distance(kb.ConvertPeerID(p)) }

func (d distance) to(key identity.NameKey) distance {
	for i := range d {
		d[i] ^= key[i]
	}
	return d
}

func (d distance) compare(e distance) int { return bytes.Compare(d[:], e[:]) }

type progress uint8

const (
	fresh    progress = iota
	asked             // holds one of the alpha slots
	late              // still asked, but holds no slot and is not waited for
	answered          // knows what it knows
	failed            // counts for nothing
)

// candidate is a peer that a lookup has heard of.
type candidate struct {
	peer.AddrInfo
	dist  distance
	state progress
}

// lookup walks towards a key: it is told what happened and says whom to ask
// next. It has no goroutine, no clock and no socket, and is not safe for
// concurrent use.
type lookup struct {
	key     identity.NameKey
	self    peer.ID
	want    int          // closest peers that must have answered
	near    []*candidate // the closest first
	known   map[peer.ID]*candidate
	queries int
	count   [failed + 1]int // of candidates by state
}

func newLookup(key identity.NameKey, self peer.ID, want int, seeds []peer.ID) *lookup {
	l := &lookup{key: key, self: self, want: want, known: make(map[peer.ID]*candidate)}
	for _, p := range seeds {
		l.add(peer.AddrInfo{ID: p})
	}
	return l
}

// add hears of a peer.
func (l *lookup) add(p peer.AddrInfo) {
	if p.ID == l.self || l.known[p.ID] != nil {
		return
	}
	c := &candidate{AddrInfo: p, dist: placeOf(p.ID).to(l.key)}
	at, _ := slices.BinarySearchFunc(l.near, c.dist, func(c *candidate, d distance) int { return c.dist.compare(d) })
	if len(l.near) >= maxKnown {
		last := l.near[len(l.near)-1]
		if at == len(l.near) || last.state != fresh {
			return
		}
		l.near = l.near[:len(l.near)-1]
		delete(l.known, last.ID)
		l.count[fresh]--
	}
	l.near = slices.Insert(l.near, at, c)
	l.known[p.ID] = c
	l.count[fresh]++
}

func (l *lookup) set(c *candidate, s progress) {
	l.count[c.state]--
	l.count[s]++
	c.state = s
}

// next returns the peers to ask now.
func (l *lookup) next() []peer.AddrInfo {
	var out []peer.AddrInfo
	live := 0
	for _, c := range l.near {
		if live == l.want || l.count[asked] >= alpha {
			break
		}
		switch c.state {
		case fresh:
			if l.queries >= maxQueries {
				l.set(c, failed)
				continue
			}
			l.queries++
			l.set(c, asked)
			out = append(out, c.AddrInfo)
			live++
		case asked, answered:
			live++
		}
	}
	return out
}

// answer records that a peer has answered and whom it named.
func (l *lookup) answer(p peer.ID, closer []peer.AddrInfo) {
	if c := l.known[p]; c != nil {
		l.set(c, answered)
	}
	for _, q := range closer {
		l.add(q)
	}
}

// fail records that a peer will not answer.
func (l *lookup) fail(p peer.ID) {
	if c := l.known[p]; c != nil {
		l.set(c, failed)
	}
}

// delay records that a peer is slow: others are asked in its place, and its
// answer still counts when it comes.
func (l *lookup) delay(p peer.ID) {
	if c := l.known[p]; c != nil && c.state == asked {
		l.set(c, late)
	}
}

// done reports whether the closest peers have answered: want of them with no
// closer one that might still, slow ones aside, or all that there are.
func (l *lookup) done() bool {
	n := 0
	for _, c := range l.near {
		switch c.state {
		case fresh, asked:
			return false
		case answered:
			if n++; n == l.want {
				return true
			}
		}
	}
	return l.count[late] == 0
}

// closest returns the peers that answered, the closest first, at most want.
func (l *lookup) closest() []peer.ID {
	var out []peer.ID
	for _, c := range l.near {
		if c.state == answered && len(out) < l.want {
			out = append(out, c.ID)
		}
	}
	return out
}

// passed returns the peers that are closer than the farthest of those that
// closest returns, but did not answer in time.
func (l *lookup) passed() []peer.ID {
	var out []peer.ID
	n := 0
	for _, c := range l.near {
		if c.state != answered {
			out = append(out, c.ID)
		} else if n++; n == l.want {
			break
		}
	}
	return out
}
