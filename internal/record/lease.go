package record

import (
	"fmt"
	"time"

	"cell.network/cell/internal/identity"
)

// DomainLease is the domain of leases.
const DomainLease = "lease"

// Limits on leases.
const (
	MinLeaseTTL  = 10 * time.Second
	MaxLeaseTTL  = 2 * time.Hour
	MaxLeaseSize = 1280 // bytes; fits one packet on any link with a name and its headers
	MaxAddrs     = 8
	MaxAddrSize  = 96 // bytes of one binary multiaddr

	tombstoneTTL = MaxLeaseTTL + 2*MaxSkew // the lease that it withdraws could be replayed for as long
)

// State is what a lease says of the replicas behind it. Values cross the wire: add at the end.
type State uint8

// The states of a served cell.
const (
	StateAlive    State = 1
	StateDraining State = 2 // still answers, asks callers to move on
)

// Lease is a node's statement that it serves a cell at some addresses, for a
// while. A lease with TTL 0 is a tombstone: the node no longer serves it.
//
// Payload: [author, name, state, [address, …], grant, member]; addresses are
// binary multiaddrs without /p2p, grant and member are records or empty.
type Lease struct {
	Header
	Cell   identity.Cell
	State  State
	Addrs  [][]byte
	Grant  Grant
	Member *Member // nil where the grant needs none
	Seed   *Seed   // set where this stands for a seed, which has no grant
	Raw    []byte  // as received; do not modify
}

type leasePayload struct {
	_      struct{} `cbor:",toarray"`
	Author identity.Key
	Name   string
	State  State
	Addrs  [][]byte
	Grant  []byte
	Member []byte
}

// Offer is what a node puts into a lease.
type Offer struct {
	Cell   identity.Cell
	State  State
	Addrs  [][]byte // at most MaxAddrs, each at most MaxAddrSize
	Grant  []byte   // raw grant of the author
	Member []byte   // raw membership, or empty
	Order  Order
	Issued time.Time
	TTL    time.Duration // 0, or MinLeaseTTL to MaxLeaseTTL
}

// SignLease makes a lease and checks it as a stranger would.
func SignLease(node identity.Private, network identity.NetworkID, o Offer) (Lease, error) {
	h := Header{Domain: DomainLease, Network: network, Order: o.Order, Issued: o.Issued, TTL: o.TTL}
	raw, err := Sign(node, h, leasePayload{
		Author: o.Cell.Author, Name: string(o.Cell.Name), State: o.State,
		Addrs: o.Addrs, Grant: o.Grant, Member: o.Member,
	})
	if err != nil {
		return Lease{}, err
	}
	return OpenLease(raw, network, o.Issued)
}

// OpenLease checks everything about a lease that can be checked without asking
// anyone: size, form, network, signature, freshness at now, and the chain of
// grants up to the author. Order is the business of whoever remembers what it
// has seen: see [Floor].
func OpenLease(raw []byte, network identity.NetworkID, now time.Time) (Lease, error) {
	if len(raw) > MaxLeaseSize {
		return Lease{}, fmt.Errorf("%w: lease of %d bytes, %d are allowed", ErrSize, len(raw), MaxLeaseSize)
	}
	var p leasePayload
	h, err := Open(raw, network, DomainLease, &p)
	if err != nil {
		return Lease{}, err
	}
	fresh := h
	if fresh.TTL == 0 { // whoever holds a tombstone passes it on for as long
		fresh.TTL = tombstoneTTL
	}
	if err := fresh.window(now); err != nil {
		return Lease{}, fmt.Errorf("lease: %w", err)
	}
	name, err := identity.ParseName(p.Name)
	if err != nil {
		return Lease{}, fmt.Errorf("%w: lease: %v", ErrMalformed, err)
	}
	l := Lease{Header: h, Cell: identity.Cell{Author: p.Author, Name: name}, State: p.State, Addrs: p.Addrs, Raw: raw}
	if err := l.checkForm(); err != nil {
		return Lease{}, err
	}
	if l.Grant, err = OpenGrant(p.Grant, network, now); err != nil {
		return Lease{}, fmt.Errorf("%w: %w", ErrGrant, err)
	}
	if len(p.Member) > 0 {
		m, err := OpenMember(p.Member, network, now)
		if err != nil {
			return Lease{}, fmt.Errorf("%w: %w", ErrGrant, err)
		}
		l.Member = &m
	}
	if !l.Grant.Allows(l.Cell, l.Signer, l.Member) {
		return Lease{}, fmt.Errorf("%w: %s may not serve %s", ErrGrant, l.Signer.Short(), l.Cell.Short())
	}
	return l, nil
}

func (l Lease) checkForm() error {
	if l.TTL != 0 && (l.TTL < MinLeaseTTL || l.TTL > MaxLeaseTTL) {
		return fmt.Errorf("%w: lease with a ttl of %v", ErrMalformed, l.TTL)
	}
	if l.State != StateAlive && l.State != StateDraining {
		return fmt.Errorf("%w: lease in state %d", ErrMalformed, l.State)
	}
	if len(l.Addrs) > MaxAddrs {
		return fmt.Errorf("%w: lease with %d addresses", ErrMalformed, len(l.Addrs))
	}
	for _, a := range l.Addrs {
		if len(a) == 0 || len(a) > MaxAddrSize {
			return fmt.Errorf("%w: lease with an address of %d bytes", ErrMalformed, len(a))
		}
	}
	return nil
}

// Node is the node that serves the cell.
func (l Lease) Node() identity.Key { return l.Signer }

// Tombstone reports whether the lease withdraws what earlier ones said.
func (l Lease) Tombstone() bool { return l.TTL == 0 }

// Expires is when a holder that received the lease at t must forget it. A
// tombstone is kept for as long as the lease that it withdraws could be replayed.
func (l Lease) Expires(t time.Time) time.Time {
	if l.Tombstone() {
		return t.Add(tombstoneTTL)
	}
	return t.Add(l.TTL)
}
