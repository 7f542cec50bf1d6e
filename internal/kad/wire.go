package kad

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/fxamacker/cbor/v2"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Limits on what a peer may send.
const (
	MaxRequest     = 2048      // bytes
	MaxAnswer      = 192 << 10 // bytes
	MaxLeases      = 96        // records in an answer
	MaxCloser      = 36        // peers in an answer
	closerPerPlace = 12        // of them for one place: some of the Holders may be dead
	MaxCloserAddrs = 4         // addresses of one of them
	maxReason      = 32        // bytes of the word that says why
)

var errWire = errors.New("malformed message")

type op uint8

// Values cross the wire: add at the end.
const (
	opNear  op = 1
	opGet   op = 2
	opPut   op = 3
	opWatch op = 4
)

type code uint8

// Values cross the wire: add at the end.
const (
	codeOK      code = 0
	codeRefused code = 1
	codeBusy    code = 2
)

type request struct {
	Op     op     `cbor:"1,keyasint"`
	Key    []byte `cbor:"2,keyasint"` // of an identity.NameKey's length: an array would be padded in silence
	Lease  []byte `cbor:"3,keyasint,omitempty"`
	Places uint8  `cbor:"4,keyasint,omitempty"` // of the name, by bit, whose closest peers are of interest
}

type answer struct {
	Code   code     `cbor:"1,keyasint"`
	Leases [][]byte `cbor:"2,keyasint,omitempty"`
	Closer []node   `cbor:"3,keyasint,omitempty"`
	Reason string   `cbor:"5,keyasint,omitempty"`
}

// node is a peer as it is named to others.
type node struct {
	Key   []byte   `cbor:"1,keyasint"` // of an identity.Key's length
	Addrs [][]byte `cbor:"2,keyasint"`
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
		MaxArrayElements: 128,
		MaxMapPairs:      16,
		UTF8:             cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return m
}()

func parseRequest(b []byte) (request, error) {
	var r request
	if err := decoding.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%w: request: %v", errWire, err)
	}
	switch {
	case r.Op < opNear || r.Op > opWatch || r.Places >= 1<<Keys:
		return r, fmt.Errorf("%w: request with op %d", errWire, r.Op)
	case len(r.Key) != len(identity.NameKey{}):
		return r, fmt.Errorf("%w: request with a key of %d bytes", errWire, len(r.Key))
	case (r.Op == opPut) != (len(r.Lease) > 0) || len(r.Lease) > record.MaxLeaseSize:
		return r, fmt.Errorf("%w: request with op %d and a lease of %d bytes", errWire, r.Op, len(r.Lease))
	}
	return r, nil
}

func parseAnswer(b []byte) (answer, error) {
	var a answer
	if err := decoding.Unmarshal(b, &a); err != nil {
		return a, fmt.Errorf("%w: answer: %v", errWire, err)
	}
	if len(a.Leases) > MaxLeases || len(a.Closer) > MaxCloser || len(a.Reason) > maxReason || a.Code > codeBusy {
		return a, fmt.Errorf("%w: answer %d with %d leases and %d peers", errWire, a.Code, len(a.Leases), len(a.Closer))
	}
	for _, l := range a.Leases {
		if len(l) > record.MaxLeaseSize {
			return a, fmt.Errorf("%w: answer with a lease of %d bytes", errWire, len(l))
		}
	}
	for _, n := range a.Closer {
		if len(n.Key) != identity.KeySize || len(n.Addrs) > MaxCloserAddrs {
			return a, fmt.Errorf("%w: answer with a peer of %d key bytes and %d addresses", errWire, len(n.Key), len(n.Addrs))
		}
	}
	return a, nil
}

// peers returns the peers that an answer names, with those of their addresses
// that this network's nodes may dial. Peers without any are left out.
func (a answer) peers(n identity.Network) []peer.AddrInfo {
	var out []peer.AddrInfo
	for _, c := range a.Closer {
		id, err := host.PeerID(identity.Key(c.Key))
		if err != nil {
			continue
		}
		p := peer.AddrInfo{ID: id}
		for _, raw := range c.Addrs {
			if m, err := ma.NewMultiaddrBytes(raw); err == nil && host.Dialable(n, m) {
				p.Addrs = append(p.Addrs, m)
			}
		}
		if len(p.Addrs) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// writeMessage sends one message with its length in front.
func writeMessage(w io.Writer, m any) error {
	b, err := encoding.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if _, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// readMessage reads one message of at most limit bytes; memory grows with what
// has come, not with what was announced.
func readMessage(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > uint32(limit) {
		return nil, fmt.Errorf("%w: %d bytes, %d are allowed", errWire, n, limit)
	}
	var b bytes.Buffer
	if got, err := io.CopyN(&b, r, int64(n)); err != nil {
		return nil, fmt.Errorf("read message: %d of %d bytes: %w", got, n, err)
	}
	return b.Bytes(), nil
}

// printable keeps a stranger's word fit for a terminal and a log.
func printable(s string) string {
	for i := range len(s) {
		if s[i] < 'a' || s[i] > 'z' {
			return "for no known reason"
		}
	}
	return s
}
