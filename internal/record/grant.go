package record

import (
	"fmt"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
)

// Domains of certificates.
const (
	DomainGrant  = "grant"
	DomainMember = "member"
)

// MaxSubjects is how many subjects one grant may name.
const MaxSubjects = 8

// SubjectKind says what a subject's key is. Values cross the wire: add at the end.
type SubjectKind uint8

// The kinds of subjects.
const (
	SubjectNode   SubjectKind = 1 // one node
	SubjectColony SubjectKind = 2 // every node that this colony's key certifies
	SubjectAny    SubjectKind = 3 // everybody; the key is zero
)

// Subject is whom a grant allows to serve.
type Subject struct {
	_    struct{} `cbor:",toarray"`
	Kind SubjectKind
	Key  identity.Key
}

// Grant is an author's statement of who may serve his cells. Payload:
// [name, [[kind, key], …]]. A newer grant for the same name replaces an older
// one wholly, which is how one revokes.
type Grant struct {
	Header
	Name     identity.Name // empty: every cell of the author
	Subjects []Subject
	Raw      []byte // as received; do not modify
}

type grantPayload struct {
	_        struct{} `cbor:",toarray"`
	Name     string
	Subjects []Subject
}

// SignGrant makes a grant that replaces all earlier ones of the same name. Its
// order is taken from issued, so that an author needs no counter: two grants
// must be a millisecond apart.
func SignGrant(author identity.Private, network identity.NetworkID, name identity.Name, subjects []Subject, issued time.Time, ttl time.Duration) (Grant, error) {
	return signGrant(author, name, subjects, certificate(DomainGrant, network, issued, ttl))
}

// Renew makes a grant that says the same for longer. It has the order of g, so
// that machines which hold g still may serve until they have got the new one.
func (g Grant) Renew(author identity.Private, issued time.Time, ttl time.Duration) (Grant, error) {
	h := certificate(DomainGrant, g.Network, issued, ttl)
	h.Order = g.Order
	return signGrant(author, g.Name, g.Subjects, h)
}

func signGrant(author identity.Private, name identity.Name, subjects []Subject, h Header) (Grant, error) {
	raw, err := Sign(author, h, grantPayload{Name: string(name), Subjects: subjects})
	if err != nil {
		return Grant{}, err
	}
	return OpenGrant(raw, h.Network, h.Issued)
}

// OpenGrant checks a grant's form, signature and validity at now.
func OpenGrant(raw []byte, network identity.NetworkID, now time.Time) (Grant, error) {
	var p grantPayload
	h, err := Open(raw, network, DomainGrant, &p)
	if err != nil {
		return Grant{}, err
	}
	if err := h.window(now); err != nil {
		return Grant{}, fmt.Errorf("grant: %w", err)
	}
	if p.Name != "" {
		if _, err := identity.ParseName(p.Name); err != nil {
			return Grant{}, fmt.Errorf("%w: grant: %v", ErrMalformed, err)
		}
	}
	if len(p.Subjects) > MaxSubjects {
		return Grant{}, fmt.Errorf("%w: grant with %d subjects", ErrMalformed, len(p.Subjects))
	}
	return Grant{Header: h, Name: identity.Name(p.Name), Subjects: p.Subjects, Raw: raw}, nil
}

// Allows reports whether the grant lets node serve cell; member is the node's
// colony certificate, or nil.
func (g Grant) Allows(cell identity.Cell, node identity.Key, member *Member) bool {
	if g.Signer != cell.Author || g.Name != "" && g.Name != cell.Name {
		return false
	}
	return slices.ContainsFunc(g.Subjects, func(s Subject) bool {
		switch s.Kind {
		case SubjectNode:
			return s.Key == node
		case SubjectColony:
			return member != nil && member.Signer == s.Key && member.Node == node
		case SubjectAny:
			return s.Key.IsZero()
		}
		return false
	})
}

// Member is a colony's statement that a node is one of its operator's
// machines. Payload: [node key].
type Member struct {
	Header
	Node identity.Key
	Raw  []byte // as received; do not modify
}

type memberPayload struct {
	_    struct{} `cbor:",toarray"`
	Node identity.Key
}

// SignMember certifies node as a machine of colony.
func SignMember(colony identity.Private, network identity.NetworkID, node identity.Key, issued time.Time, ttl time.Duration) (Member, error) {
	raw, err := Sign(colony, certificate(DomainMember, network, issued, ttl), memberPayload{Node: node})
	if err != nil {
		return Member{}, err
	}
	return OpenMember(raw, network, issued)
}

// OpenMember checks a membership's form, signature and validity at now.
func OpenMember(raw []byte, network identity.NetworkID, now time.Time) (Member, error) {
	var p memberPayload
	h, err := Open(raw, network, DomainMember, &p)
	if err != nil {
		return Member{}, err
	}
	if err := h.window(now); err != nil {
		return Member{}, fmt.Errorf("membership: %w", err)
	}
	return Member{Header: h, Node: p.Node, Raw: raw}, nil
}

func certificate(domain string, network identity.NetworkID, issued time.Time, ttl time.Duration) Header {
	return Header{Domain: domain, Network: network, Order: Order{Incarnation: uint64(issued.UnixMilli())}, Issued: issued, TTL: ttl}
}
