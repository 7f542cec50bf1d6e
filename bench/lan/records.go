package main

import (
	"crypto/sha256"
	"fmt"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

const network = identity.Network("bench")

// leaseTTL is that of a node's leases; it renews them after a third.
const leaseTTL = 2 * time.Minute

func nodeKey(seed uint64, i int) identity.Private { return keyOf(seed, "node", i) }

func keyOf(seed uint64, role string, i int) identity.Private {
	return identity.PrivateFromSeed(sha256.Sum256(fmt.Appendf(nil, "lan %d %s %d", seed, role, i)))
}

// issuer signs what nodes announce. Every node has an author of its own.
type issuer struct {
	seed    uint64
	granted time.Time // when the grants were issued: a newer one would replace them
	apart   bool      // each node is in a network of its own
}

// network is that of node i.
func (s issuer) network(i int) identity.Network {
	if s.apart {
		return identity.Network(fmt.Sprint("bench-", i))
	}
	return network
}

// lease is that of node i for a cell.
func (s issuer) lease(i int, name identity.Name, now time.Time) record.Lease {
	key, author := nodeKey(s.seed, i), keyOf(s.seed, "author", i)
	g, err := record.SignGrant(author, s.network(i).ID(), "", []record.Subject{{Kind: record.SubjectNode, Key: key.Public()}}, s.granted, 24*time.Hour)
	if err != nil {
		panic("lan: sign grant: " + err.Error()) // of constant form
	}
	return s.signed(i, record.Offer{
		Cell: identity.Cell{Author: author.Public(), Name: name}, State: record.StateAlive, Addrs: addrs, Grant: g.Raw,
		Order: record.Order{Incarnation: 1, Sequence: uint64(now.UnixNano())}, Issued: now, TTL: leaseTTL,
	})
}

// tombstone withdraws a lease of node i.
func (s issuer) tombstone(i int, l record.Lease) record.Lease {
	o := record.Offer{Cell: l.Cell, State: l.State, Addrs: l.Addrs, Grant: l.Grant.Raw, Order: l.Order, Issued: time.Now()}
	o.Order.Sequence++
	return s.signed(i, o)
}

func (s issuer) signed(i int, o record.Offer) record.Lease {
	l, err := record.SignLease(nodeKey(s.seed, i), s.network(i).ID(), o)
	if err != nil {
		panic("lan: sign lease: " + err.Error()) // of constant form
	}
	return l
}

// addrs are those of a host with IPv4 and IPv6: /ip4/192.168.1.20/udp/4001/quic-v1
// and /ip6/fd00::14/udp/4001/quic-v1.
var addrs = [][]byte{
	{4, 192, 168, 1, 20, 0x91, 2, 0x0f, 0xa1, 0xcd, 3},
	{41, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0x91, 2, 0x0f, 0xa1, 0xcd, 3},
}
