package record

import (
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"cell.network/cell/internal/identity"
)

// tokenPrefix starts the text form of a join token.
const tokenPrefix = "cell-join-"

// maxToken bounds the text form of a join token, in bytes.
const maxToken = 8192

// Token makes a machine a member of a colony: it carries the colony's
// certificate of that machine's node key and the grants of the authors whose
// cells it may then serve. It holds no secret and is of use to that machine only.
//
// Text form: "cell-join-" ‖ base64url of the CBOR array [member, [grant, …]].
type Token struct {
	Member Member
	Grants []Grant
}

type tokenPayload struct {
	_      struct{} `cbor:",toarray"`
	Member []byte
	Grants [][]byte
}

// String returns the token's text form.
func (t Token) String() string {
	p := tokenPayload{Member: t.Member.Raw}
	for _, g := range t.Grants {
		p.Grants = append(p.Grants, g.Raw)
	}
	b, err := encoding.Marshal(p)
	if err != nil {
		panic(err) // byte strings always encode
	}
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// IsToken reports whether s looks like a join token.
func IsToken(s string) bool { return strings.HasPrefix(s, tokenPrefix) }

// ParseToken reads and verifies a token: every certificate is valid at now, and
// every grant is for the colony that signed the membership.
func ParseToken(s string, network identity.NetworkID, now time.Time) (Token, error) {
	if len(s) > maxToken {
		return Token{}, fmt.Errorf("%w: join token of %d characters", ErrSize, len(s))
	}
	if !IsToken(s) {
		return Token{}, fmt.Errorf("%w: a join token starts with %s", ErrMalformed, tokenPrefix)
	}
	b, err := base64.RawURLEncoding.DecodeString(s[len(tokenPrefix):])
	if err != nil {
		return Token{}, fmt.Errorf("%w: join token: %v", ErrMalformed, err)
	}
	var p tokenPayload
	if err := decoding.Unmarshal(b, &p); err != nil {
		return Token{}, fmt.Errorf("%w: join token: %v", ErrMalformed, err)
	}
	var t Token
	if t.Member, err = OpenMember(p.Member, network, now); err != nil {
		return Token{}, fmt.Errorf("join token: %w", err)
	}
	for _, raw := range p.Grants {
		g, err := OpenGrant(raw, network, now)
		if err != nil {
			return Token{}, fmt.Errorf("join token: %w", err)
		}
		if !g.Allows(identity.Cell{Author: g.Signer, Name: g.Name}, t.Member.Node, &t.Member) {
			return Token{}, fmt.Errorf("join token: %w: the author %s does not name this colony", ErrGrant, g.Signer.Short())
		}
		t.Grants = append(t.Grants, g)
	}
	return t, nil
}
