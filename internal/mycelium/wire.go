package mycelium

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/fxamacker/cbor/v2"
)

// Limits on what a peer may send.
const (
	MaxRequest = 512      // bytes
	MaxAnswer  = 16 << 10 // bytes, without the pack
)

var errWire = errors.New("malformed message")

type op uint8

// Values cross the wire: add at the end.
const (
	opRecord op = 1
	opPack   op = 2
	opHead   op = 3
)

type code uint8

// Values cross the wire: add at the end.
const (
	codeOK   code = 0
	codeNone code = 1
	codeBusy code = 2
)

type request struct {
	Op      op     `cbor:"1,keyasint"`
	Author  []byte `cbor:"2,keyasint"` // of an identity.Key's length: an array would be padded in silence
	Name    string `cbor:"3,keyasint"`
	Version string `cbor:"4,keyasint,omitempty"`
	Hash    []byte `cbor:"5,keyasint,omitempty"`
}

func (r request) cell() identity.Cell {
	return identity.Cell{Author: identity.Key(r.Author), Name: identity.Name(r.Name)}
}

type answer struct {
	Code   code     `cbor:"1,keyasint"`
	Spore  []byte   `cbor:"2,keyasint,omitempty"`
	Grants [][]byte `cbor:"3,keyasint,omitempty"`
	Size   uint64   `cbor:"4,keyasint,omitempty"`
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
		MaxNestedLevels:  4,
		MaxArrayElements: 16,
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
	if r.Op < opRecord || r.Op > opHead || len(r.Author) != identity.KeySize ||
		len(r.Hash) != 0 && len(r.Hash) != 32 || r.Op == opPack && len(r.Hash) == 0 {
		return r, fmt.Errorf("%w: request %d with an author of %d bytes and a hash of %d", errWire, r.Op, len(r.Author), len(r.Hash))
	}
	if _, err := identity.ParseName(r.Name); err != nil {
		return r, fmt.Errorf("%w: request: %w", errWire, err)
	}
	return r, nil
}

func parseAnswer(b []byte) (answer, error) {
	var a answer
	if err := decoding.Unmarshal(b, &a); err != nil {
		return a, fmt.Errorf("%w: answer: %v", errWire, err)
	}
	if a.Code > codeBusy || len(a.Spore) > record.MaxSpore || len(a.Grants) > MaxGrants {
		return a, fmt.Errorf("%w: answer %d with a record of %d bytes and %d grants", errWire, a.Code, len(a.Spore), len(a.Grants))
	}
	return a, nil
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
