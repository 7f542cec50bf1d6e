package swim

import (
	"encoding/binary"
	"errors"
	"fmt"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/fxamacker/cbor/v2"
)

// Limits on one message.
const (
	MaxMessage  = 8 << 10 // bytes
	maxAcks     = 64
	maxContacts = 64
	maxAccuses  = 64
	maxAsks     = 8
	idSize      = 8
	buckets     = 64
	bucketSize  = 4 // bytes of a bucket's sum
)

// ErrMessage is returned for bytes that no honest node sends.
var ErrMessage = errors.New("malformed message")

// id names a contact: the first bytes of its signature.
type id [idSize]byte

func idOf(raw []byte) id { return id(raw[:idSize]) }

func (i id) number() uint64 { return binary.BigEndian.Uint64(i[:]) }

// message is all that one end says to the other at one time (wire format in
// the package comment).
type message struct {
	Ping     uint64    `cbor:"1,keyasint,omitempty"`
	Acks     []uint64  `cbor:"2,keyasint,omitempty"`
	Contacts [][]byte  `cbor:"3,keyasint,omitempty"`
	Haves    []byte    `cbor:"4,keyasint,omitempty"`
	Wants    []byte    `cbor:"5,keyasint,omitempty"`
	Accuses  []accusal `cbor:"6,keyasint,omitempty"`
	Asks     []ask     `cbor:"7,keyasint,omitempty"`
	Tells    []tell    `cbor:"8,keyasint,omitempty"`
	Sum      []byte    `cbor:"9,keyasint,omitempty"`
	Buckets  []byte    `cbor:"10,keyasint,omitempty"`
	About    uint64    `cbor:"11,keyasint,omitempty"`
	Holds    []byte    `cbor:"12,keyasint,omitempty"`
	Bye      bool      `cbor:"13,keyasint,omitempty"`
}

// accusal is a suspicion: a node signs that the signer of a contact does not answer.
type accusal struct {
	_       struct{} `cbor:",toarray"`
	ID      []byte
	Accuser identity.Key
	Sig     []byte
}

type ask struct {
	_     struct{} `cbor:",toarray"`
	Nonce uint64
	ID    []byte
}

type tell struct {
	_     struct{} `cbor:",toarray"`
	Nonce uint64
	OK    bool
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
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   4,
		MaxArrayElements:  64,
		MaxMapPairs:       16,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return m
}()

func parse(b []byte) (message, error) {
	var m message
	if len(b) > MaxMessage {
		return m, fmt.Errorf("%w: %d bytes, %d are allowed", ErrMessage, len(b), MaxMessage)
	}
	if err := decoding.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%w: %v", ErrMessage, err)
	}
	switch {
	case len(m.Acks) > maxAcks, len(m.Contacts) > maxContacts, len(m.Accuses) > maxAccuses, len(m.Asks) > maxAsks, len(m.Tells) > maxAsks:
		return m, fmt.Errorf("%w: too many of a kind", ErrMessage)
	case len(m.Haves)%idSize+len(m.Wants)%idSize+len(m.Holds)%idSize != 0:
		return m, fmt.Errorf("%w: part of an id", ErrMessage)
	case len(m.Sum) != 0 && len(m.Sum) != idSize, len(m.Buckets) != 0 && len(m.Buckets) != buckets*bucketSize:
		return m, fmt.Errorf("%w: sums of %d and %d bytes", ErrMessage, len(m.Sum), len(m.Buckets))
	}
	for _, c := range m.Contacts {
		if len(c) <= identity.SignatureSize || len(c) > record.MaxContactSize {
			return m, fmt.Errorf("%w: contact of %d bytes", ErrMessage, len(c))
		}
	}
	for _, a := range m.Accuses {
		if len(a.ID) != idSize || len(a.Sig) != identity.SignatureSize || a.Accuser.IsZero() {
			return m, fmt.Errorf("%w: suspicion", ErrMessage)
		}
	}
	for _, a := range m.Asks {
		if len(a.ID) != idSize {
			return m, fmt.Errorf("%w: id of %d bytes", ErrMessage, len(a.ID))
		}
	}
	return m, nil
}

func (m message) encode() []byte {
	b, err := encoding.Marshal(m)
	if err != nil {
		panic(err) // no value of message is without an encoding
	}
	return b
}

// ids returns the ids in one byte string.
func ids(b []byte) []id {
	all := make([]id, 0, len(b)/idSize)
	for ; len(b) >= idSize; b = b[idSize:] {
		all = append(all, id(b[:idSize]))
	}
	return all
}

const accusalPrefix = "cell-swim-suspect\x00"

func accusalText(network identity.NetworkID, i id) []byte {
	b := append([]byte(accusalPrefix), network[:]...)
	return append(b, i[:]...)
}
