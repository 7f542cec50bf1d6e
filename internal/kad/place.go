package kad

import (
	"bytes"
	"crypto/sha256"

	"cell.network/cell/internal/identity"
	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Redundancy of the network.
const (
	Keys    = 3 // places at which the leases of one name lie, independent of each other
	Holders = 7 // nodes closest to one place that hold them
)

// place is a place in the key space, or the XOR of two: their distance.
type place [sha256.Size]byte

// placeOf is where a peer is.
func placeOf(p peer.ID) place { return place(kb.ConvertPeerID(p)) }

// placesOf are where the leases of a name lie. Whoever surrounds one of them
// with nodes of his own has won nothing at the other two.
func placesOf(key identity.NameKey) (places [Keys]place) {
	for r := range places {
		h := sha256.New()
		h.Write([]byte("cell/lease/1"))
		h.Write(key[:])
		h.Write([]byte{byte(r)})
		h.Sum(places[r][:0])
	}
	return places
}

// placesOf are the places of a name at which this node looks and stores.
func (k *Kad) placesOf(key identity.NameKey) []place {
	all := placesOf(key)
	if k.conf.weak.onePlace {
		return all[:1]
	}
	return all[:]
}

func (p place) to(q place) place {
	for i := range p {
		p[i] ^= q[i]
	}
	return p
}

func (p place) compare(q place) int { return bytes.Compare(p[:], q[:]) }

// bit returns the i-th bit, the first being the most significant.
func (p place) bit(i int) byte { return p[i/8] >> (7 - i%8) & 1 }
