package pulse

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/swim"
	"github.com/fxamacker/cbor/v2"
)

// Limits on one message.
const (
	MaxMessage = 16 << 10 // bytes, its length not included
	aboutNodes = 1 << 15  // bit of the length that says that the message is one of swim
	maxNews    = 32       // rows and splices, each
	tagSize    = 8        // bytes of a key that stand for it among the nodes of one network
	baseSize   = 4        // bytes of a row's signature that tell it from the node's others
)

// tag is the start of a node's key. Two nodes with one tag do no harm: what
// follows from it is verified.
type tag [tagSize]byte

func tagOf(k identity.Key) tag { return tag(k[:tagSize]) }

// message is all that one end says to the other at one time (wire format in
// the package comment).
type message struct {
	_       struct{} `cbor:",toarray"`
	Rows    []fullNews
	Splices []spliceNews
	Holds   []holding
	All     bool // Holds is all that the sender holds
	Linked  [][]byte
	Told    bool // Linked is meant: it replaces what was said before

	nodes [][]byte // messages of swim that go before it, or the one that was read
}

// some reports whether m says anything of rows.
func (m message) some() bool {
	return m.Told || m.All || len(m.Holds)+len(m.Rows)+len(m.Splices) > 0
}

// fullNews is a row as its node signed it.
type fullNews struct {
	_   struct{} `cbor:",toarray"`
	Age uint32   // milliseconds since the node signed it, as far as the sender knows
	Row []byte
}

// spliceNews is a row as what it changes in one that the receiver holds.
type spliceNews struct {
	_       struct{} `cbor:",toarray"`
	Age     uint32
	Node    []byte // tag
	Base    []byte // first baseSize bytes of the base's signature
	Sig     []byte // of the row
	Patches []patch
}

// patch goes on in the base's body: it copies bytes, leaves some out and puts
// others in. What follows the last one is copied.
type patch struct {
	_    struct{} `cbor:",toarray"`
	Copy uint16
	Drop uint16
	Put  []byte
}

// holding tells which row of a node the sender holds; 0, 0 is none.
type holding struct {
	_           struct{} `cbor:",toarray"`
	Node        []byte   // tag
	Incarnation uint64
	Sequence    uint64
}

func (h holding) order() record.Order {
	return record.Order{Incarnation: h.Incarnation, Sequence: h.Sequence}
}

var encoding = func() cbor.EncMode {
	o := cbor.CoreDetEncOptions()
	o.NilContainers = cbor.NilContainerAsEmpty
	m, err := o.EncMode()
	if err != nil {
		panic(err)
	}
	return m
}()

var decoding = func() cbor.DecMode {
	m, err := cbor.DecOptions{
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  5,
		MaxArrayElements: MaxNodes,
		MaxMapPairs:      16,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return m
}()

var errWire = errors.New("malformed message")

func parseMessage(b []byte) (message, error) {
	var m message
	if err := decoding.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%w: %v", errWire, err)
	}
	if len(m.Rows) > maxNews || len(m.Splices) > maxNews || len(m.Linked) > MaxLinks {
		return m, fmt.Errorf("%w: %d rows, %d splices, %d links", errWire, len(m.Rows), len(m.Splices), len(m.Linked))
	}
	for _, s := range m.Splices {
		if len(s.Node) != tagSize || len(s.Base) != baseSize || len(s.Sig) != identity.SignatureSize || len(s.Patches) > maxPatches {
			return m, fmt.Errorf("%w: splice", errWire)
		}
	}
	for _, h := range m.Holds {
		if len(h.Node) != tagSize {
			return m, fmt.Errorf("%w: tag of %d bytes", errWire, len(h.Node))
		}
	}
	for _, l := range m.Linked {
		if len(l) != tagSize {
			return m, fmt.Errorf("%w: tag of %d bytes", errWire, len(l))
		}
	}
	return m, nil
}

// readMessage reads one message, of rows or of swim; memory grows with what has come.
func readMessage(r io.Reader) (message, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message{}, fmt.Errorf("read message: %w", err)
	}
	n, limit := int(binary.BigEndian.Uint16(head[:])), MaxMessage
	nodes := n&aboutNodes != 0
	if nodes {
		n, limit = n&^aboutNodes, swim.MaxMessage
	}
	if n > limit {
		return message{}, fmt.Errorf("%w: %d bytes, %d are allowed", errWire, n, limit)
	}
	var b bytes.Buffer
	if got, err := io.CopyN(&b, r, int64(n)); err != nil {
		return message{}, fmt.Errorf("read message: %d of %d bytes: %w", got, n, err)
	}
	if nodes {
		return message{nodes: [][]byte{b.Bytes()}}, nil
	}
	return parseMessage(b.Bytes())
}

// appendMessage encodes what m says of nodes and then, unless that is nothing
// and the former is something, what it says of rows.
func appendMessage(to []byte, m message) ([]byte, error) {
	for _, b := range m.nodes {
		if len(b) > swim.MaxMessage {
			return nil, fmt.Errorf("encode message: %d bytes about nodes, %d are allowed", len(b), swim.MaxMessage)
		}
		to = append(binary.BigEndian.AppendUint16(to, aboutNodes|uint16(len(b))), b...)
	}
	if len(m.nodes) > 0 && !m.some() {
		return to, nil
	}
	b, err := encoding.Marshal(m)
	if err == nil && len(b) > MaxMessage {
		err = fmt.Errorf("%d bytes, %d are allowed", len(b), MaxMessage)
	}
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	return append(binary.BigEndian.AppendUint16(to, uint16(len(b))), b...), nil
}

// writeMessage sends a message in one Write.
func writeMessage(w io.Writer, m message) (int, error) {
	b, err := appendMessage(nil, m)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(b)
	if err != nil {
		return n, fmt.Errorf("send message: %w", err)
	}
	return n, nil
}

// base names a row among those of its node.
func base(raw []byte) []byte { return raw[:baseSize] }

// splice says what to change in old to get raw.
func splice(old, raw []byte) spliceNews {
	s := spliceNews{Base: base(old), Sig: raw[:identity.SignatureSize]}
	a, b := old[identity.SignatureSize:], raw[identity.SignatureSize:]
	for {
		same := common(a, b)
		if a, b = a[same:], b[same:]; len(a)+len(b) == 0 {
			return s
		}
		drop, put := len(a), len(b)
		if len(s.Patches) < maxPatches-1 {
			drop, put = resume(a, b)
		}
		s.Patches = append(s.Patches, patch{Copy: uint16(same), Drop: uint16(drop), Put: b[:put]})
		a, b = a[drop:], b[put:]
	}
}

// common returns how many bytes a and b have in common at their start.
func common(a, b []byte) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// resume returns how much to leave out of each so that they are alike again
// for at least as long as a patch is: as little as possible, or all.
func resume(a, b []byte) (drop, put int) {
	for skip := 1; skip < maxSkip; skip++ {
		for drop := 0; drop <= min(skip, len(a)); drop++ {
			if put := skip - drop; put <= len(b) && common(a[drop:], b[put:]) >= patchSize {
				return drop, put
			}
		}
	}
	return len(a), len(b)
}

// Limits on patches. A patch costs patchSize bytes beside what it puts in.
const (
	maxPatches = 64
	patchSize  = 6
	maxSkip    = 128
)

// apply makes the row that s says of old.
func (s spliceNews) apply(old []byte) ([]byte, error) {
	body := old[identity.SignatureSize:]
	raw := append(make([]byte, 0, record.MaxRowSize), s.Sig...)
	for _, p := range s.Patches {
		if int(p.Copy)+int(p.Drop) > len(body) || len(raw)+int(p.Copy)+len(p.Put) > record.MaxRowSize {
			return nil, fmt.Errorf("%w: patch of %d bytes", errWire, len(p.Put))
		}
		raw = append(append(raw, body[:p.Copy]...), p.Put...)
		body = body[int(p.Copy)+int(p.Drop):]
	}
	if len(raw)+len(body) > record.MaxRowSize {
		return nil, fmt.Errorf("%w: splice makes %d bytes", errWire, len(raw)+len(body))
	}
	return bytes.Clone(append(raw, body...)), nil
}

// size is what s takes of a message, at most.
func (s spliceNews) size() int {
	n := identity.SignatureSize + tagSize + baseSize + 16
	for _, p := range s.Patches {
		n += len(p.Put) + 10
	}
	return n
}

// millis is an age as it is sent.
func millis(age time.Duration) uint32 {
	return uint32(min(max(age.Milliseconds(), 0), (2 * record.MaxRowTTL).Milliseconds()))
}
