package identity

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
)

// MaxName is the longest name of a cell, in bytes.
const MaxName = 63

// MaxMethod is the longest method name, in bytes.
const MaxMethod = 63

// maxVersion is the longest version text, in bytes.
const maxVersion = 64

// ErrName says that a text is not a name, reference or method.
var ErrName = errors.New("bad name")

// Name is what an author calls a cell: [a-z0-9-]{1,63}.
type Name string

// ParseName checks a name. Errors wrap [ErrName] and say which rule is broken.
func ParseName(s string) (Name, error) {
	if err := checkLabel(s, MaxName); err != nil {
		return "", fmt.Errorf("%w %q: %v", ErrName, clip(s), err)
	}
	return Name(s), nil
}

func checkLabel(s string, limit int) error {
	switch {
	case s == "":
		return errors.New("it is empty")
	case len(s) > limit:
		return fmt.Errorf("it has %d characters, %d are allowed", len(s), limit)
	case s[0] == '-' || s[len(s)-1] == '-':
		return errors.New("it starts or ends with a hyphen")
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("character %d is not one of a-z, 0-9 and -", i+1)
		}
	}
	return nil
}

// Cell is a cell's full identity: who wrote it and what he calls it.
type Cell struct {
	Author Key
	Name   Name
}

// String returns name@z6Mk….
func (c Cell) String() string { return string(c.Name) + "@" + c.Author.String() }

// Short returns name@z6Mk…xxxxxx, for lists that people read.
func (c Cell) Short() string { return string(c.Name) + "@" + c.Author.Short() }

// Seeds is the topic under which those who hand out c's source are found. Its
// name is no cell's, since names have no slash.
func (c Cell) Seeds() Cell { return Cell{Author: c.Author, Name: c.Name + "/seed"} }

// IsZero reports whether c names no cell.
func (c Cell) IsZero() bool { return c == Cell{} }

// NameKey is a cell's place in the DHT of one network: a SHA-256 sum.
type NameKey [sha256.Size]byte

// Key returns the place of c in network n (formula in the package comment).
func (c Cell) Key(n NetworkID) NameKey {
	h := sha256.New()
	h.Write([]byte("cell/name/1"))
	h.Write(n[:])
	h.Write(c.Author[:])
	h.Write([]byte{byte(len(c.Name))})
	h.Write([]byte(c.Name))
	return NameKey(h.Sum(nil))
}

// NetworkID separates networks: it is part of every signature and protocol name.
type NetworkID [sha256.Size]byte

// UnmarshalCBOR reads a byte string of exactly 32 bytes, as [Key.UnmarshalCBOR] does.
func (n *NetworkID) UnmarshalCBOR(b []byte) error { return unmarshalBytes32(n[:], b) }

// Network is a set of nodes that find each other, known by a short name.
type Network string

// Public is the network that a node joins unless told otherwise. Its nodes
// neither publish nor dial private addresses learnt from the DHT.
const Public Network = "public"

// ParseNetwork checks a network's name, which obeys the rules of [Name].
func ParseNetwork(s string) (Network, error) {
	if err := checkLabel(s, MaxName); err != nil {
		return "", fmt.Errorf("bad network name %q: %v", clip(s), err)
	}
	return Network(s), nil
}

// ID returns SHA-256("cell/network/1" ‖ name).
func (n Network) ID() NetworkID { return sha256.Sum256([]byte("cell/network/1" + string(n))) }

// Private reports whether n is not the public network.
func (n Network) Private() bool { return n != Public }

// Ref is a reference to a cell as people type it: greeter, greeter@alice,
// greeter@z6Mk…:1.4.0. Resolve it to a [Cell] before use.
type Ref struct {
	Name    Name
	Author  string // key, petname or empty for the default author
	Version string // empty: any
}

// String returns the reference in the form in which it was typed.
func (r Ref) String() string {
	s := string(r.Name)
	if r.Author != "" {
		s += "@" + r.Author
	}
	if r.Version != "" {
		s += ":" + r.Version
	}
	return s
}

// ParseRef reads name[@author][:version]. Errors wrap [ErrName].
func ParseRef(s string) (Ref, error) {
	var r Ref
	rest, version, hasVersion := strings.Cut(s, ":")
	name, author, hasAuthor := strings.Cut(rest, "@")
	n, err := ParseName(name)
	if err != nil {
		return r, err
	}
	if hasAuthor {
		if err := checkAuthor(author); err != nil {
			return r, fmt.Errorf("%w %q: %v", ErrName, clip(s), err)
		}
	}
	if hasVersion {
		if err := checkVersion(version); err != nil {
			return r, fmt.Errorf("%w %q: %v", ErrName, clip(s), err)
		}
	}
	return Ref{Name: n, Author: author, Version: version}, nil
}

// ParseMethod reads cell/method, as in greeter@alice/hello. Errors wrap [ErrName].
func ParseMethod(s string) (Ref, string, error) {
	cell, method, ok := strings.Cut(s, "/")
	if !ok {
		return Ref{}, "", fmt.Errorf("%w %q: a method is written cell/method, as in greeter/hello", ErrName, clip(s))
	}
	r, err := ParseRef(cell)
	if err != nil {
		return Ref{}, "", err
	}
	if err := CheckMethod(method); err != nil {
		return Ref{}, "", err
	}
	return r, method, nil
}

// CheckMethod checks a method's own name: letters, digits, '-', '_' and '.',
// 1 to 63 of them. Errors wrap [ErrName].
func CheckMethod(m string) error {
	if m == "" || len(m) > MaxMethod {
		return fmt.Errorf("%w: method %q has %d characters, 1 to %d are allowed", ErrName, clip(m), len(m), MaxMethod)
	}
	for i := range len(m) {
		if !word(m[i]) {
			return fmt.Errorf("%w: method %q: character %d is not a letter, digit, '-', '_' or '.'", ErrName, clip(m), i+1)
		}
	}
	return nil
}

func word(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
}

func checkVersion(v string) error {
	if v == "" || len(v) > maxVersion {
		return fmt.Errorf("a version has 1 to %d characters", maxVersion)
	}
	for i := range len(v) {
		if !word(v[i]) && v[i] != '+' {
			return fmt.Errorf("version %q: character %d is not allowed", clip(v), i+1)
		}
	}
	return nil
}

func checkAuthor(a string) error {
	if _, err := ParseKey(a); err == nil {
		return nil
	}
	if err := checkLabel(a, MaxName); err != nil {
		return fmt.Errorf("author %q is neither a key (z6Mk…) nor a petname: %v", clip(a), err)
	}
	return nil
}

// Petnames maps the names that this operator gave to authors to their keys.
type Petnames map[string]Key

// ErrUnknownAuthor says that a petname is not in this operator's list.
var ErrUnknownAuthor = errors.New("unknown author")

// Resolve turns a reference into a cell. A bare name takes def as its author.
// Errors wrap [ErrUnknownAuthor].
func (r Ref) Resolve(def Key, pets Petnames) (Cell, error) {
	switch {
	case r.Author == "" && def.IsZero():
		return Cell{}, fmt.Errorf("%w: %s names no author and there is no default author", ErrUnknownAuthor, r)
	case r.Author == "":
		return Cell{Author: def, Name: r.Name}, nil
	}
	if k, err := ParseKey(r.Author); err == nil {
		return Cell{Author: k, Name: r.Name}, nil
	}
	if k, ok := pets[r.Author]; ok {
		return Cell{Author: k, Name: r.Name}, nil
	}
	return Cell{}, fmt.Errorf("%w: no petname %q", ErrUnknownAuthor, r.Author)
}
