// Package ops encodes what a replica and its node tell each other over file
// descriptor 3: that it is ready, whom it wants to call, when to stop.
//
// A message is one CBOR array of at most [MaxMessage] bytes (RFC 8949, definite
// lengths, no tags):
//
//	[ version  uint   1
//	, kind     uint   which of the table below
//	, payload  array  the fields of the kind, in the order of the table
//	]
//
//	 1  ready      replica → node   version text ≤ 64, methods [text ≤ 63], ≤ 128 of them
//	 2  serve      node → replica   no fields; one connection comes along: serve who calls on it
//	 3  connect    replica → node   seq uint, target text ≤ 512: I want to call this cell
//	 4  connected  node → replica   seq uint, code uint, message text ≤ 1024, hint text ≤ 512;
//	                                one connection comes along where code is 0
//	 5  ping       node → replica   seq uint
//	 6  pong       replica → node   seq uint, stats [served uint, serving uint, connections uint,
//	                                shed uint, p99 uint of microseconds < 2^32]
//	 7  drain      node → replica   milliseconds uint: finish what you have, take nothing new, exit
//	 8  stop       node → replica   no fields: exit now
//
// The stats of an early replica have only the first three elements; the others
// are then 0.
//
// A message of an unknown kind is skipped, one of an unknown version ends the
// conversation. Connections travel beside the message, never in it.
package ops

import (
	"errors"
	"fmt"
	"math"

	"github.com/fxamacker/cbor/v2"
)

// Limits of a message.
const (
	MaxMessage = 16 << 10 // bytes
	MaxMethods = 128      // methods of a replica; all of them fit in a message
	MaxTarget  = 512      // bytes of a target, as in package frame
	maxVersion = 64       // bytes of the SDK's version
	maxMethod  = 63       // bytes of a method's name
	maxText    = 1024     // bytes of an error's message
	maxHint    = 512      // bytes of an error's hint
	version    = 1
)

// What [Parse] reports.
var (
	ErrMalformed = errors.New("malformed message")
	ErrVersion   = errors.New("message of an unknown version")
	ErrUnknown   = errors.New("message of an unknown kind") // skip it
)

// Message is one of the types below.
type Message interface {
	kind() uint8
	check() error // limits of the fields
}

// Ready says that the replica serves from now on.
type Ready struct {
	_       struct{} `cbor:",toarray"`
	Version string   // of the SDK that the replica was built with, such as v0.1.0
	Methods []string // their own names: "hello"
}

// Serve hands the replica a connection on which others call it.
type Serve struct {
	_ struct{} `cbor:",toarray"`
}

// Connect asks for a connection to a cell.
type Connect struct {
	_      struct{} `cbor:",toarray"`
	Seq    uint64   // chosen by the replica, comes back in Connected
	Target string   // a reference as the cell's code has it: "ledger", "greeter@z6Mk…"
}

// Connected answers Connect: a connection comes along, or Code is not 0 and
// says with Message and Hint why there is none.
type Connected struct {
	_       struct{} `cbor:",toarray"`
	Seq     uint64
	Code    uint32 // a frame.Code
	Message string
	Hint    string
}

// Ping asks for a Pong with the same number.
type Ping struct {
	_   struct{} `cbor:",toarray"`
	Seq uint64
}

// Pong shows that the replica runs, and what it does.
type Pong struct {
	_     struct{} `cbor:",toarray"`
	Seq   uint64
	Stats Stats
}

// Stats is what a replica counts about itself.
type Stats struct {
	_           struct{} `cbor:",toarray"`
	Served      uint64   // calls served since the start
	Serving     uint64   // calls being served now
	Connections uint64   // connections on which it serves now
	Shed        uint64   // calls refused for load since the start
	P99         uint64   // microseconds that 99 of 100 calls took at most that ended in the last one to two seconds; 0: there were none
}

// UnmarshalCBOR implements [cbor.Unmarshaler], for the two lengths that stats have.
func (s *Stats) UnmarshalCBOR(b []byte) error {
	const arrayOf3 = 0x83
	if len(b) > 0 && b[0] == arrayOf3 {
		var early struct {
			_                            struct{} `cbor:",toarray"`
			Served, Serving, Connections uint64
		}
		err := decoding.Unmarshal(b, &early)
		*s = Stats{Served: early.Served, Serving: early.Serving, Connections: early.Connections}
		return err
	}
	type plain Stats // without this method
	return decoding.Unmarshal(b, (*plain)(s))
}

// Drain asks the replica to finish the calls in flight, to take no new ones, and to exit.
type Drain struct {
	_            struct{} `cbor:",toarray"`
	Milliseconds uint64   // after which it exits all the same
}

// Stop asks the replica to exit at once.
type Stop struct {
	_ struct{} `cbor:",toarray"`
}

const (
	kindReady     = 1
	kindServe     = 2
	kindConnect   = 3
	kindConnected = 4
	kindPing      = 5
	kindPong      = 6
	kindDrain     = 7
	kindStop      = 8
)

func (Ready) kind() uint8     { return kindReady }
func (Serve) kind() uint8     { return kindServe }
func (Connect) kind() uint8   { return kindConnect }
func (Connected) kind() uint8 { return kindConnected }
func (Ping) kind() uint8      { return kindPing }
func (Pong) kind() uint8      { return kindPong }
func (Drain) kind() uint8     { return kindDrain }
func (Stop) kind() uint8      { return kindStop }

func (m Ready) check() error {
	if len(m.Version) > maxVersion {
		return fmt.Errorf("version of %d bytes, %d are allowed", len(m.Version), maxVersion)
	}
	if len(m.Methods) > MaxMethods {
		return fmt.Errorf("%d methods, %d are allowed", len(m.Methods), MaxMethods)
	}
	for _, name := range m.Methods {
		if name == "" || len(name) > maxMethod {
			return fmt.Errorf("method name of %d bytes, 1 to %d are allowed", len(name), maxMethod)
		}
	}
	return nil
}

func (m Connect) check() error {
	if m.Target == "" || len(m.Target) > MaxTarget {
		return fmt.Errorf("target of %d bytes, 1 to %d are allowed", len(m.Target), MaxTarget)
	}
	return nil
}

func (m Connected) check() error {
	if len(m.Message) > maxText || len(m.Hint) > maxHint {
		return fmt.Errorf("message of %d and hint of %d bytes, %d and %d are allowed", len(m.Message), len(m.Hint), maxText, maxHint)
	}
	return nil
}

func (m Pong) check() error {
	if m.Stats.P99 > math.MaxUint32 {
		return fmt.Errorf("p99 of %d microseconds, %d are allowed", m.Stats.P99, uint32(math.MaxUint32))
	}
	return nil
}

func (Serve) check() error { return nil }
func (Ping) check() error  { return nil }
func (Drain) check() error { return nil }
func (Stop) check() error  { return nil }

type envelope struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Kind    uint8
	Payload cbor.RawMessage
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
		MaxArrayElements: MaxMethods,
		MaxMapPairs:      16,
		UTF8:             cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return m
}()

// Encode returns m as it crosses the descriptor. A message over its limits is
// an error that wraps [ErrMalformed].
func Encode(m Message) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	payload, err := encoding.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	b, err := encoding.Marshal(envelope{Version: version, Kind: m.kind(), Payload: payload})
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("%w: %d bytes, %d are allowed", ErrMalformed, len(b), MaxMessage)
	}
	return b, nil
}

// Parse reads one message. Errors wrap [ErrMalformed], [ErrVersion] or
// [ErrUnknown]; only the last may be skipped.
func Parse(b []byte) (Message, error) {
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("%w: %d bytes, %d are allowed", ErrMalformed, len(b), MaxMessage)
	}
	var e envelope
	if err := decoding.Unmarshal(b, &e); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if e.Version != version {
		return nil, fmt.Errorf("%w: %d, this side knows %d", ErrVersion, e.Version, version)
	}
	switch e.Kind {
	case kindReady:
		return parse[Ready](e.Payload)
	case kindServe:
		return parse[Serve](e.Payload)
	case kindConnect:
		return parse[Connect](e.Payload)
	case kindConnected:
		return parse[Connected](e.Payload)
	case kindPing:
		return parse[Ping](e.Payload)
	case kindPong:
		return parse[Pong](e.Payload)
	case kindDrain:
		return parse[Drain](e.Payload)
	case kindStop:
		return parse[Stop](e.Payload)
	}
	return nil, fmt.Errorf("%w: %d", ErrUnknown, e.Kind)
}

func parse[M Message](payload []byte) (Message, error) {
	var m M
	if err := decoding.Unmarshal(payload, &m); err != nil {
		return nil, fmt.Errorf("%w: %T: %v", ErrMalformed, m, err)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%w: %T: %v", ErrMalformed, m, err)
	}
	return m, nil
}
