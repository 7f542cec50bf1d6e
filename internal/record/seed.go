package record

import (
	"crypto/sha256"
	"fmt"
	"time"

	"cell.network/cell/internal/identity"
)

// DomainSeed is the domain of seeds.
const DomainSeed = "seed"

// Seed is a node's statement that it hands out a release to whoever asks. It
// needs no grant: what it hands out is signed by the author. It obeys the
// limits of leases ([MaxLeaseSize], [MaxAddrs], TTL; TTL 0 is a tombstone) and
// lies beside them under [SeedKey].
//
// Payload: [author, name, epoch, seq, spore, tree, [address, …]]; spore is the
// release's Spore.Hash, addresses are binary multiaddrs without /p2p.
type Seed struct {
	Header
	Cell  identity.Cell
	Epoch uint64
	Seq   uint64
	Spore [sha256.Size]byte
	Tree  [sha256.Size]byte
	Addrs [][]byte
	Raw   []byte // as received; do not modify
}

type seedPayload struct {
	_      struct{} `cbor:",toarray"`
	Author identity.Key
	Name   string
	Epoch  uint64
	Seq    uint64
	Spore  []byte // of length sha256.Size: an array would be padded in silence
	Tree   []byte
	Addrs  [][]byte
}

// SeedKey is where the seeds of a cell lie: the place of [identity.Cell.Seeds].
func SeedKey(cell identity.Cell, network identity.NetworkID) identity.NameKey {
	return cell.Seeds().Key(network)
}

// SeedOffer is what a node puts into a seed.
type SeedOffer struct {
	Spore  Spore
	Addrs  [][]byte // at most MaxAddrs, each at most MaxAddrSize
	Order  Order
	Issued time.Time
	TTL    time.Duration // 0, or MinLeaseTTL to MaxLeaseTTL
}

// SignSeed makes a seed and checks it as a stranger would.
func SignSeed(node identity.Private, network identity.NetworkID, o SeedOffer) (Seed, error) {
	s, hash := o.Spore, o.Spore.Hash()
	h := Header{Domain: DomainSeed, Network: network, Order: o.Order, Issued: o.Issued, TTL: o.TTL}
	raw, err := Sign(node, h, seedPayload{
		Author: s.Cell.Author, Name: string(s.Cell.Name), Epoch: s.Epoch, Seq: s.Seq,
		Spore: hash[:], Tree: s.Tree[:], Addrs: o.Addrs,
	})
	if err != nil {
		return Seed{}, err
	}
	return OpenSeed(raw, network, o.Issued)
}

// OpenSeed checks a seed's size, form, network, signature and freshness at now.
func OpenSeed(raw []byte, network identity.NetworkID, now time.Time) (Seed, error) {
	if len(raw) > MaxLeaseSize {
		return Seed{}, fmt.Errorf("%w: seed of %d bytes, %d are allowed", ErrSize, len(raw), MaxLeaseSize)
	}
	var p seedPayload
	h, err := Open(raw, network, DomainSeed, &p)
	if err != nil {
		return Seed{}, err
	}
	l := Lease{Header: h, State: StateAlive, Addrs: p.Addrs}
	fresh := h
	if l.Tombstone() {
		fresh.TTL = tombstoneTTL
	}
	if err := fresh.window(now); err != nil {
		return Seed{}, fmt.Errorf("seed: %w", err)
	}
	if err := l.checkForm(); err != nil {
		return Seed{}, fmt.Errorf("seed: %w", err)
	}
	name, err := identity.ParseName(p.Name)
	if err != nil {
		return Seed{}, fmt.Errorf("%w: seed: %v", ErrMalformed, err)
	}
	if p.Author.IsZero() || p.Seq == 0 || len(p.Spore) != sha256.Size || len(p.Tree) != sha256.Size {
		return Seed{}, fmt.Errorf("%w: seed of no release", ErrMalformed)
	}
	return Seed{
		Header: h, Cell: identity.Cell{Author: p.Author, Name: name}, Epoch: p.Epoch, Seq: p.Seq,
		Spore: [sha256.Size]byte(p.Spore), Tree: [sha256.Size]byte(p.Tree), Addrs: p.Addrs, Raw: raw,
	}, nil
}

// Node is the node that hands the release out.
func (s Seed) Node() identity.Key { return s.Signer }

// Key is where the seed lies in its network.
func (s Seed) Key() identity.NameKey { return SeedKey(s.Cell, s.Network) }

// Release ranks what is handed out, as Spore.Order does; Header.Order ranks
// what the node says.
func (s Seed) Release() Order { return Order{Incarnation: s.Epoch, Sequence: s.Seq} }

// Tombstone reports whether the seed withdraws what earlier ones said.
func (s Seed) Tombstone() bool { return s.TTL == 0 }

// Expires is when a holder that received the seed at t must forget it.
func (s Seed) Expires(t time.Time) time.Time { return Lease{Header: s.Header}.Expires(t) }
