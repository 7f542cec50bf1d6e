// Package identity holds Ed25519 keys, the names of cells, networks and
// methods, and the one text form that each of them has everywhere.
//
// Text forms:
//
//	key       z6Mk…               multibase base58btc of 0xed 0x01 ‖ 32-byte Ed25519 public key (as did:key)
//	name      greeter             [a-z0-9-]{1,63}, no hyphen at either end
//	cell      greeter@AUTHOR      AUTHOR is a key or a petname; a bare name means the default author
//	release   greeter@AUTHOR:1.4.0
//	method    greeter@AUTHOR/hello
//
// NameKey = SHA-256("cell/name/1" ‖ network id ‖ author ‖ len(name) as one byte ‖ name)
// is where a cell lives in the DHT: the author is part of it, so nobody can
// squat another author's name.
package identity

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/big"
)

// KeySize is the length of a Key in bytes.
const KeySize = ed25519.PublicKeySize

// SignatureSize is the length of a signature in bytes.
const SignatureSize = ed25519.SignatureSize

// maxKeyText bounds the text form of a key: z + base58(34 bytes) is 48 characters.
const maxKeyText = 64

// Key is an Ed25519 public key: of an author, of a colony or of a node. The
// zero Key is no key. Keys are comparable.
type Key [KeySize]byte

// multicodec prefix of an Ed25519 public key, as an unsigned varint.
var codecEd25519 = []byte{0xed, 0x01}

// IsZero reports whether k is no key at all.
func (k Key) IsZero() bool { return k == Key{} }

// String returns the key as z6Mk…, 48 characters.
func (k Key) String() string {
	return "z" + encodeBase58(append(append([]byte(nil), codecEd25519...), k[:]...))
}

// Short returns a form for people to tell keys apart in a list, such as
// z6Mk…p4Qx. It is not unique and never parsed.
func (k Key) Short() string {
	s := k.String()
	return s[:4] + "…" + s[len(s)-6:]
}

// Verify reports whether sig is k's signature over msg. A zero key verifies nothing.
func (k Key) Verify(msg, sig []byte) bool {
	return !k.IsZero() && len(sig) == SignatureSize && ed25519.Verify(k[:], msg, sig)
}

// MarshalText implements [encoding.TextMarshaler].
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (k *Key) UnmarshalText(b []byte) error {
	got, err := ParseKey(string(b))
	if err != nil {
		return err
	}
	*k = got
	return nil
}

// UnmarshalCBOR reads a byte string of exactly [KeySize] bytes. Left to itself
// the CBOR library pads a short one with zeros and cuts a long one.
func (k *Key) UnmarshalCBOR(b []byte) error { return unmarshalBytes32(k[:], b) }

// unmarshalBytes32 reads a CBOR byte string of 32 bytes with its shortest head.
func unmarshalBytes32(into, b []byte) error {
	if len(b) != 2+32 || b[0] != 0x58 || b[1] != 32 {
		return errors.New("not a byte string of 32 bytes")
	}
	copy(into, b[2:])
	return nil
}

// ErrKey says that a text is not a key.
var ErrKey = errors.New("not a key")

// ParseKey reads the text form of a key. Errors wrap [ErrKey] and name the text.
func ParseKey(s string) (Key, error) {
	if len(s) < 2 || len(s) > maxKeyText || s[0] != 'z' {
		return Key{}, fmt.Errorf("%w: %q (a key starts with z6Mk and has 48 characters)", ErrKey, clip(s))
	}
	b, err := decodeBase58(s[1:])
	if err != nil {
		return Key{}, fmt.Errorf("%w: %q: %v", ErrKey, clip(s), err)
	}
	if len(b) != len(codecEd25519)+KeySize || b[0] != codecEd25519[0] || b[1] != codecEd25519[1] {
		return Key{}, fmt.Errorf("%w: %q (not an Ed25519 public key)", ErrKey, clip(s))
	}
	k := Key(b[2:])
	if k.IsZero() {
		return Key{}, fmt.Errorf("%w: %q (all zero)", ErrKey, clip(s))
	}
	return k, nil
}

// clip shortens a hostile text so that it fits in an error message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

const base58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

var radix = big.NewInt(58)

func encodeBase58(b []byte) string {
	n := new(big.Int).SetBytes(b)
	var out []byte
	for rem := new(big.Int); n.Sign() > 0; {
		n.DivMod(n, radix, rem)
		out = append(out, base58[rem.Int64()])
	}
	for _, c := range b {
		if c != 0 {
			break
		}
		out = append(out, base58[0])
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return string(out)
}

func decodeBase58(s string) ([]byte, error) {
	n := new(big.Int)
	zeros, leading := 0, true
	for i := range len(s) {
		digit := -1
		for j := range len(base58) {
			if base58[j] == s[i] {
				digit = j
				break
			}
		}
		if digit < 0 {
			return nil, fmt.Errorf("character %q is not base58", s[i])
		}
		if leading = leading && digit == 0; leading {
			zeros++
		}
		n.Add(n.Mul(n, radix), big.NewInt(int64(digit)))
	}
	return append(make([]byte, zeros), n.Bytes()...), nil
}
