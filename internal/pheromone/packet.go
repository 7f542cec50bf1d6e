package pheromone

import (
	"encoding/binary"
	"errors"
	"fmt"

	"cell.network/cell/internal/identity"
)

// MaxPacket is the longest packet that is sent or accepted, in bytes.
const MaxPacket = 1400

const (
	magic      = "CELL"
	version    = 1
	headerSize = 16
	lengthSize = 2
	maxRecords = 255
)

// Kind says what a packet is for. Values cross the wire: add at the end.
type Kind uint8

// The kinds of packets.
const (
	KindAnnounce Kind = 1 // leases of the sender, to everybody
	KindQuery    Kind = 2 // one signed question, to everybody
	KindAnswer   Kind = 3 // leases of the sender, to whoever asked
	KindGoodbye  Kind = 4 // tombstones of the sender, to everybody
)

// What [ParsePacket] refuses.
var (
	ErrOversize  = errors.New("packet too long")
	ErrMalformed = errors.New("malformed packet")
	ErrVersion   = errors.New("packet of an unknown version or kind")
)

// Tag tells the packets of one network from those of another that shares the
// link: the first 8 bytes of the network's id. It proves nothing.
type Tag [8]byte

func tagOf(n identity.NetworkID) Tag { return Tag(n[:8]) }

// Packet is one datagram. The package comment has its layout.
type Packet struct {
	Kind    Kind
	Network Tag
	Records [][]byte
}

// Append adds the packet's bytes to b. It panics where they would be more than
// [MaxPacket]; see [Packet.Fits].
func (p Packet) Append(b []byte) []byte {
	start := len(b)
	b = append(b, magic...)
	b = append(b, version, byte(p.Kind), byte(len(p.Records)), 0)
	b = append(b, p.Network[:]...)
	for _, r := range p.Records {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(r)))
		b = append(b, r...)
	}
	if len(b)-start > MaxPacket || len(p.Records) > maxRecords {
		panic(fmt.Sprintf("pheromone: packet of %d bytes with %d records", len(b)-start, len(p.Records)))
	}
	return b
}

// Fits reports whether one more record of size bytes can join the packet.
func (p Packet) Fits(size int) bool {
	n := headerSize + lengthSize + size
	for _, r := range p.Records {
		n += lengthSize + len(r)
	}
	return n <= MaxPacket && len(p.Records) < maxRecords
}

// ParsePacket reads a packet; its records are parts of b. Errors wrap
// [ErrOversize], [ErrMalformed] or [ErrVersion]. It does not look into records.
func ParsePacket(b []byte) (Packet, error) {
	if len(b) > MaxPacket {
		return Packet{}, fmt.Errorf("%w: %d bytes, %d are allowed", ErrOversize, len(b), MaxPacket)
	}
	if len(b) < headerSize || string(b[:4]) != magic {
		return Packet{}, fmt.Errorf("%w: no header", ErrMalformed)
	}
	p := Packet{Kind: Kind(b[5]), Network: Tag(b[8:16])}
	if b[4] != version || p.Kind < KindAnnounce || p.Kind > KindGoodbye {
		return Packet{}, fmt.Errorf("%w: version %d, kind %d", ErrVersion, b[4], p.Kind)
	}
	count, rest := int(b[6]), b[headerSize:]
	for range count {
		if len(rest) < lengthSize {
			return Packet{}, fmt.Errorf("%w: %d of %d records", ErrMalformed, len(p.Records), count)
		}
		n := int(binary.LittleEndian.Uint16(rest))
		if rest = rest[lengthSize:]; n == 0 || n > len(rest) {
			return Packet{}, fmt.Errorf("%w: a record of %d bytes with %d left", ErrMalformed, n, len(rest))
		}
		p.Records = append(p.Records, rest[:n:n])
		rest = rest[n:]
	}
	if len(rest) > 0 || count == 0 {
		return Packet{}, fmt.Errorf("%w: %d records and %d bytes more", ErrMalformed, count, len(rest))
	}
	return p, nil
}
