package record

import (
	"errors"
	"fmt"
	"time"

	"cell.network/cell/internal/identity"
)

// DomainContact is the domain of contacts.
const DomainContact = "contact"

// Limits on contacts.
const (
	ContactLife     = 24 * time.Hour // from issue; nodes sign anew long before
	MaxContactSize  = 512            // bytes: four relayed IPv6 addresses fit
	MaxContactAddrs = 4
)

// Contact is a node's statement of where it can be reached and what it does for
// others. Nobody refreshes a copy, so it holds from issued for [ContactLife],
// like a certificate. One with TTL 0 is the node's goodbye.
//
// Payload: [server, relay, [address, …]]; addresses are binary multiaddrs
// without /p2p of the node itself: a relayed one ends in /p2p-circuit.
type Contact struct {
	Header
	Addrs  [][]byte
	Server bool   // answers for the DHT
	Relay  bool   // passes on connections to nodes that cannot be dialled
	Left   bool   // the node has left on purpose
	Raw    []byte // as received; do not modify
}

type contactPayload struct {
	_      struct{} `cbor:",toarray"`
	Server bool
	Relay  bool
	Addrs  [][]byte
}

// ContactOffer is what a node puts into a contact.
type ContactOffer struct {
	Addrs  [][]byte // the best first, each at most MaxAddrSize; see SignContact
	Server bool
	Relay  bool
	Left   bool // a goodbye: everything else but the order is left out
	Order  Order
	Issued time.Time
}

// SignContact makes a contact and checks it as a stranger would. Addresses
// beyond [MaxContactAddrs], and the last ones where all would be too long, are
// left out.
func SignContact(node identity.Private, network identity.NetworkID, o ContactOffer) (Contact, error) {
	h := Header{Domain: DomainContact, Network: network, Order: o.Order, Issued: o.Issued, TTL: ContactLife}
	p := contactPayload{Server: o.Server, Relay: o.Relay, Addrs: o.Addrs[:min(len(o.Addrs), MaxContactAddrs)]}
	if o.Left {
		h.TTL, p = 0, contactPayload{}
	}
	if p.Addrs == nil {
		p.Addrs = [][]byte{}
	}
	for {
		raw, err := Sign(node, h, p)
		if err != nil && !errors.Is(err, ErrSize) {
			return Contact{}, err
		}
		if err == nil && len(raw) <= MaxContactSize {
			return OpenContact(raw, network, o.Issued)
		}
		if len(p.Addrs) == 0 {
			return Contact{}, fmt.Errorf("%w: contact", ErrSize)
		}
		p.Addrs = p.Addrs[:len(p.Addrs)-1]
	}
}

// OpenContact checks a contact's size, form, network, signature and freshness
// at now. Order is the business of whoever remembers what it has seen.
func OpenContact(raw []byte, network identity.NetworkID, now time.Time) (Contact, error) {
	if len(raw) > MaxContactSize {
		return Contact{}, fmt.Errorf("%w: contact of %d bytes, %d are allowed", ErrSize, len(raw), MaxContactSize)
	}
	var p contactPayload
	h, err := Open(raw, network, DomainContact, &p)
	if err != nil {
		return Contact{}, err
	}
	if h.TTL != 0 && h.TTL != ContactLife {
		return Contact{}, fmt.Errorf("%w: contact with a ttl of %v", ErrMalformed, h.TTL)
	}
	fresh := h
	fresh.TTL = ContactLife // of a goodbye too: whoever holds one passes it on for as long
	if err := fresh.window(now); err != nil {
		return Contact{}, fmt.Errorf("contact: %w", err)
	}
	c := Contact{Header: h, Addrs: p.Addrs, Server: p.Server, Relay: p.Relay, Left: h.TTL == 0, Raw: raw}
	if len(p.Addrs) > MaxContactAddrs || c.Left && len(p.Addrs) > 0 {
		return Contact{}, fmt.Errorf("%w: contact with %d addresses", ErrMalformed, len(p.Addrs))
	}
	for _, a := range p.Addrs {
		if len(a) == 0 || len(a) > MaxAddrSize {
			return Contact{}, fmt.Errorf("%w: contact with an address of %d bytes", ErrMalformed, len(a))
		}
	}
	return c, nil
}

// Node is the node that the contact is about.
func (c Contact) Node() identity.Key { return c.Signer }

// Expires is when the contact must be forgotten, by its signer's clock.
func (c Contact) Expires() time.Time { return c.Issued.Add(ContactLife) }
