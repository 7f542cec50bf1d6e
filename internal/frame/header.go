// Package frame carries many requests and their responses at once over one
// byte stream: a Unix socket, a QUIC stream, a pipe in memory.
//
// Both ends of a stream are alike: each may call and each may serve. Every
// frame is a header of 32 bytes, little endian, then meta, then body:
//
//	 0  u32  length     bytes after the header, meta included; ≤ MaxMeta + MaxBody
//	 4  u8   kind       1 request, 2 response, 3 cancel, 4 leave; 0 is malformed, others are skipped
//	 5  u8   codec      of the body: 0 raw, 1 CBOR, 2 JSON
//	 6  u16  meta       bytes of meta; ≤ length and ≤ MaxMeta
//	 8  u64  call       chosen by the caller, unique among its calls in flight
//	16  u64  remaining  request: microseconds until the caller's deadline, 0 for none
//	24  u32  code       response: 0 for success, else a Code
//	28  u32  reserved   sent as 0, ignored
//
// meta is the target of a request ("greeter@z6Mk…/hello"), the hint of an
// error response and otherwise empty. The body of an error response is its
// message in UTF-8. A cancel frame has neither; a call that was cancelled gets
// no response, and a response to a call that nobody waits for is dropped. A
// leave frame, sent empty, says that its sender takes no new calls: the other
// end, unless it serves as well, hangs up as soon as it has its responses, so
// that no request is lost under way.
//
// A frame that breaks these rules, or a request with the number of another one
// in flight, ends the connection with [ErrMalformed]. Memory follows the bytes
// that arrive, never the length that a header claims.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Limits of every connection; [Config] can lower some of them.
const (
	HeaderSize  = 32      // bytes
	MaxBody     = 4 << 20 // bytes of a body
	MaxMeta     = 512     // bytes of a target or hint
	MaxMessage  = 1024    // bytes of an error's message
	MaxInflight = 1024    // calls in flight per connection and direction
)

// ErrMalformed says that the peer sent what no correct peer sends.
var ErrMalformed = errors.New("malformed frame")

// Codec says how a body is encoded. It crosses the wire: append only.
type Codec uint8

// The codecs. A frame of another one is carried all the same; whoever reads
// the body decides.
const (
	Raw  Codec = 0 // bytes as they are
	CBOR Codec = 1 // RFC 8949
	JSON Codec = 2 // RFC 8259
)

// String returns the codec's name.
func (c Codec) String() string {
	switch c {
	case Raw:
		return "raw"
	case CBOR:
		return "cbor"
	case JSON:
		return "json"
	}
	return fmt.Sprintf("codec %d", uint8(c))
}

type kind uint8

const (
	kindRequest  kind = 1
	kindResponse kind = 2
	kindCancel   kind = 3
	kindLeave    kind = 4
)

// header is the first 32 bytes of a frame, in the order of the wire.
type header struct {
	length    uint32
	kind      kind
	codec     Codec
	meta      uint16
	call      uint64
	remaining uint64
	code      Code
}

// body is the number of bytes after the meta.
func (h header) body() int { return int(h.length) - int(h.meta) }

func (h header) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, h.length)
	b = append(b, byte(h.kind), byte(h.codec))
	b = binary.LittleEndian.AppendUint16(b, h.meta)
	b = binary.LittleEndian.AppendUint64(b, h.call)
	b = binary.LittleEndian.AppendUint64(b, h.remaining)
	b = binary.LittleEndian.AppendUint32(b, uint32(h.code))
	return append(b, 0, 0, 0, 0)
}

// parseHeader reads the first HeaderSize bytes of b. Errors wrap [ErrMalformed].
func parseHeader(b []byte) (header, error) {
	_ = b[HeaderSize-1]
	h := header{
		length:    binary.LittleEndian.Uint32(b),
		kind:      kind(b[4]),
		codec:     Codec(b[5]),
		meta:      binary.LittleEndian.Uint16(b[6:]),
		call:      binary.LittleEndian.Uint64(b[8:]),
		remaining: binary.LittleEndian.Uint64(b[16:]),
		code:      Code(binary.LittleEndian.Uint32(b[24:])),
	}
	switch {
	case h.kind == 0:
		return h, fmt.Errorf("%w: kind 0", ErrMalformed)
	case h.meta > MaxMeta:
		return h, fmt.Errorf("%w: meta of %d bytes, %d are allowed", ErrMalformed, h.meta, MaxMeta)
	case uint32(h.meta) > h.length:
		return h, fmt.Errorf("%w: meta of %d bytes in a frame of %d", ErrMalformed, h.meta, h.length)
	case h.length-uint32(h.meta) > MaxBody:
		return h, fmt.Errorf("%w: body of %d bytes, %d are allowed", ErrMalformed, h.length-uint32(h.meta), MaxBody)
	case h.kind == kindCancel && h.length != 0:
		return h, fmt.Errorf("%w: cancel of %d bytes", ErrMalformed, h.length)
	case h.kind == kindResponse && h.code != OK && h.body() > MaxMessage:
		return h, fmt.Errorf("%w: error message of %d bytes, %d are allowed", ErrMalformed, h.body(), MaxMessage)
	}
	return h, nil
}
