// Package record signs and checks the statements that nodes make to each
// other: leases, grants, colony memberships, and what later joins them.
//
// Wire format of every record, at most [MaxSize] bytes:
//
//	64 bytes   Ed25519 signature over "cell-record\x00" ‖ body, as received
//	n bytes    body: one CBOR array (RFC 8949, definite lengths, no tags)
//
//	body = [ schema       uint       1
//	       , domain       text       what the payload is: "lease", "grant", "member", …
//	       , network      bytes 32   identity.NetworkID
//	       , signer       bytes 32   Ed25519 public key
//	       , incarnation  uint       the order of two records of one signer about one
//	       , sequence     uint         thing is that of (incarnation, sequence)
//	       , issued       int        Unix milliseconds by the signer's clock
//	       , ttl          uint       milliseconds, 0 withdraws
//	       , payload      any        an array fixed by domain and schema
//	       , reserved     map        uint to any, ≤ 8 entries; unknown ones are ignored
//	       ]
//
// A TTL is a duration that whoever holds the record counts from receipt, since
// clocks may be [MaxSkew] apart; issued only bounds how long a copy can be
// replayed. Certificates (grants, memberships) are the exception: nobody
// refreshes them, so they hold from issued to issued + ttl.
//
// Records are checked as received and passed on as received; nothing is ever
// signed or verified on a re-encoding.
package record

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"cell.network/cell/internal/identity"
	"github.com/fxamacker/cbor/v2"
)

// Limits on what a peer may send.
const (
	MaxSize     = 2048            // bytes of a whole record
	MaxSkew     = 5 * time.Minute // difference of two honest clocks
	maxReserved = 8               // entries of the reserved map
	schema      = 1
)

// signaturePrefix keeps signatures over records apart from any others by the same key.
const signaturePrefix = "cell-record\x00"

// What [Open] refuses, in the order in which it checks.
var (
	ErrSize      = errors.New("record too long")
	ErrMalformed = errors.New("malformed record")
	ErrSchema    = errors.New("record of an unknown schema")
	ErrNetwork   = errors.New("record of another network")
	ErrDomain    = errors.New("record of another kind")
	ErrSignature = errors.New("bad signature")
	ErrClock     = errors.New("record from the future") // issued more than MaxSkew ahead of this clock
	ErrStale     = errors.New("record expired")
	ErrGrant     = errors.New("no valid grant")
	ErrOrder     = errors.New("older than a record already seen")
)

// Reason returns a short fixed word for an error of this package, for counters
// and journal lines: "signature", "stale", …; "other" for anything else.
func Reason(err error) string {
	for _, r := range []struct {
		err  error
		word string
	}{
		{ErrSize, "size"}, {ErrMalformed, "malformed"}, {ErrSchema, "schema"}, {ErrNetwork, "network"},
		{ErrDomain, "domain"}, {ErrSignature, "signature"}, {ErrClock, "clock"}, {ErrStale, "stale"},
		{ErrGrant, "grant"}, {ErrOrder, "order"},
	} {
		if errors.Is(err, r.err) {
			return r.word
		}
	}
	return "other"
}

// Order ranks the records of one signer about one thing.
type Order struct {
	Incarnation uint64 // of the signer: rises with every start
	Sequence    uint64 // within an incarnation: rises with every change
}

// Compare returns -1, 0 or +1 as o is before, equal to or after p.
func (o Order) Compare(p Order) int {
	return cmp.Or(cmp.Compare(o.Incarnation, p.Incarnation), cmp.Compare(o.Sequence, p.Sequence))
}

// Header is what all records have in common.
type Header struct {
	Domain  string
	Network identity.NetworkID
	Signer  identity.Key
	Order   Order
	Issued  time.Time     // by the signer's clock, in whole milliseconds
	TTL     time.Duration // in whole milliseconds; 0 withdraws
}

// window checks h as a certificate: valid from Issued to Issued + TTL, give or take MaxSkew.
func (h Header) window(now time.Time) error {
	switch {
	case h.Issued.After(now.Add(MaxSkew)):
		return fmt.Errorf("%w: issued %v ahead of this clock", ErrClock, h.Issued.Sub(now).Round(time.Second))
	case h.Issued.Add(h.TTL).Before(now.Add(-MaxSkew)):
		return fmt.Errorf("%w: %v ago", ErrStale, now.Sub(h.Issued.Add(h.TTL)).Round(time.Second))
	}
	return nil
}

type body struct {
	_           struct{} `cbor:",toarray"`
	Schema      uint8
	Domain      string
	Network     identity.NetworkID
	Signer      identity.Key
	Incarnation uint64
	Sequence    uint64
	Issued      int64
	TTL         uint64
	Payload     cbor.RawMessage
	Reserved    map[uint64]cbor.RawMessage
}

var encoding = func() cbor.EncMode {
	m, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err)
	}
	return m
}()

var decoding = func() cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  6,
		MaxArrayElements: 32,
		MaxMapPairs:      16,
		UTF8:             cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return m
}()

// Sign makes a record of h and payload. h.Signer is set from key. The error
// wraps [ErrSize] where the record would be too long to send.
func Sign(key identity.Private, h Header, payload any) ([]byte, error) {
	p, err := encoding.Marshal(payload)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	b, err := encoding.Marshal(body{
		Schema: schema, Domain: h.Domain, Network: h.Network, Signer: key.Public(),
		Incarnation: h.Order.Incarnation, Sequence: h.Order.Sequence,
		Issued: h.Issued.UnixMilli(), TTL: uint64(h.TTL.Milliseconds()),
		Payload: p, Reserved: map[uint64]cbor.RawMessage{},
	})
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	if len(b)+identity.SignatureSize > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, %d are allowed", ErrSize, len(b)+identity.SignatureSize, MaxSize)
	}
	return append(key.Sign(append([]byte(signaturePrefix), b...)), b...), nil
}

// Open checks a record's size, form, network, domain and signature, in this
// order, and only then decodes its payload into the value that payload points
// to. It does not judge freshness, order or authority.
func Open(raw []byte, network identity.NetworkID, domain string, payload any) (Header, error) {
	if len(raw) > MaxSize {
		return Header{}, fmt.Errorf("%w: %d bytes, %d are allowed", ErrSize, len(raw), MaxSize)
	}
	if len(raw) <= identity.SignatureSize {
		return Header{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(raw))
	}
	sig, signed := raw[:identity.SignatureSize], raw[identity.SignatureSize:]
	var b body
	if err := decoding.Unmarshal(signed, &b); err != nil {
		return Header{}, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	switch {
	case b.Schema != schema:
		return Header{}, fmt.Errorf("%w: %d, this node knows %d", ErrSchema, b.Schema, schema)
	case b.Network != network:
		return Header{}, ErrNetwork
	case b.Domain != domain:
		return Header{}, fmt.Errorf("%w: want %s", ErrDomain, domain)
	case len(b.Reserved) > maxReserved:
		return Header{}, fmt.Errorf("%w: %d reserved entries", ErrMalformed, len(b.Reserved))
	case b.TTL > uint64(maxTTL.Milliseconds()):
		return Header{}, fmt.Errorf("%w: ttl of %d ms", ErrMalformed, b.TTL)
	}
	if !b.Signer.Verify(append([]byte(signaturePrefix), signed...), sig) {
		return Header{}, ErrSignature
	}
	if err := decoding.Unmarshal(b.Payload, payload); err != nil {
		return Header{}, fmt.Errorf("%w: %s: %v", ErrMalformed, domain, err)
	}
	return Header{
		Domain: b.Domain, Network: b.Network, Signer: b.Signer,
		Order:  Order{b.Incarnation, b.Sequence},
		Issued: time.UnixMilli(b.Issued), TTL: time.Duration(b.TTL) * time.Millisecond,
	}, nil
}

// PeekSigner returns who is said to have signed a record. Nothing is verified.
func PeekSigner(raw []byte) (identity.Key, bool) {
	var b body
	if len(raw) <= identity.SignatureSize || len(raw) > MaxSize || decoding.Unmarshal(raw[identity.SignatureSize:], &b) != nil {
		return identity.Key{}, false
	}
	return b.Signer, true
}

// maxTTL bounds any TTL; certificates are the longest-lived records.
const maxTTL = 400 * 24 * time.Hour
