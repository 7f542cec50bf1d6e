package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"cell.network/cell/internal/identity"
)

// Limits of [Hints].
const (
	MaxHintsSize = 32 << 10 // bytes of the file
	MaxHints     = 64       // peers in it
	maxHintSize  = 256      // bytes of one peer's address
	MaxHintsLife = 400 * 24 * time.Hour
)

// Hints are addresses through which a network can be entered, signed by
// somebody whom the operator chose to believe. They are the one record that
// people keep as a file and put on a web server, so they are JSON:
//
//	{
//	  "schema": 1,
//	  "network": "public",
//	  "signer": "z6Mk…",
//	  "issued": "2026-11-23T21:00:00Z",
//	  "expires": "2027-11-23T21:00:00Z",
//	  "peers": ["/ip4/192.0.2.7/udp/4001/quic-v1/p2p/12D3Koo…"],
//	  "signature": "…"
//	}
//
// The signature, in base64, is over "cell-hints\x00" and then, each with a line
// feed after it: schema, network, signer, issued and expires as they stand, and
// every peer. None of them can hold a line feed. Unknown keys are refused:
// nobody could tell whether they were signed.
type Hints struct {
	Network identity.Network
	Signer  identity.Key
	Issued  time.Time // in whole seconds
	Expires time.Time
	Peers   []string // multiaddrs with /p2p, not looked into here
}

type hintsFile struct {
	Schema    int      `json:"schema"`
	Network   string   `json:"network"`
	Signer    string   `json:"signer"`
	Issued    string   `json:"issued"`
	Expires   string   `json:"expires"`
	Peers     []string `json:"peers"`
	Signature []byte   `json:"signature"`
}

func (f hintsFile) signed() []byte {
	lines := append([]string{fmt.Sprint(f.Schema), f.Network, f.Signer, f.Issued, f.Expires}, f.Peers...)
	return []byte("cell-hints\x00" + strings.Join(lines, "\n") + "\n")
}

// SignHints returns the text of a spores.json. Signer, Issued and Expires of h
// are set from key, now and life, which lies between a second and [MaxHintsLife].
func SignHints(key identity.Private, h Hints, now time.Time, life time.Duration) ([]byte, error) {
	now = now.UTC().Truncate(time.Second)
	f := hintsFile{
		Schema: schema, Network: string(h.Network), Signer: key.Public().String(),
		Issued: now.Format(time.RFC3339), Expires: now.Add(life).Format(time.RFC3339), Peers: h.Peers,
	}
	f.Signature = key.Sign(f.signed())
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("sign hints: %w", err)
	}
	text = append(text, '\n')
	if _, err := OpenHints(text, h.Network, key.Public(), now); err != nil {
		return nil, fmt.Errorf("sign hints: %w", err)
	}
	return text, nil
}

// OpenHints checks the text of a spores.json: its size, form, network,
// signature by signer, and that it is in force at now, give or take [MaxSkew].
// Good hints that are not in force come beside the error: older ones are still older.
func OpenHints(text []byte, network identity.Network, signer identity.Key, now time.Time) (Hints, error) {
	if len(text) > MaxHintsSize {
		return Hints{}, fmt.Errorf("%w: hints of %d bytes, %d are allowed", ErrSize, len(text), MaxHintsSize)
	}
	var f hintsFile
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return Hints{}, fmt.Errorf("%w: hints: %v", ErrMalformed, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Hints{}, fmt.Errorf("%w: hints: something follows them", ErrMalformed)
	}
	for _, s := range append([]string{f.Network, f.Signer, f.Issued, f.Expires}, f.Peers...) {
		if len(s) > maxHintSize || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return Hints{}, fmt.Errorf("%w: hints: %.40q is no plain text of at most %d bytes", ErrMalformed, s, maxHintSize)
		}
	}
	issued, err := time.Parse(time.RFC3339, f.Issued)
	expires, err2 := time.Parse(time.RFC3339, f.Expires)
	life := expires.Sub(issued)
	switch err := errors.Join(err, err2); {
	case f.Schema != schema:
		return Hints{}, fmt.Errorf("%w: hints of schema %d, this node knows %d", ErrSchema, f.Schema, schema)
	case err != nil:
		return Hints{}, fmt.Errorf("%w: hints: %v", ErrMalformed, err)
	case len(f.Peers) == 0 || len(f.Peers) > MaxHints:
		return Hints{}, fmt.Errorf("%w: hints of %d peers, 1 to %d are allowed", ErrMalformed, len(f.Peers), MaxHints)
	case life < time.Second || life > MaxHintsLife:
		return Hints{}, fmt.Errorf("%w: hints for %v", ErrMalformed, life)
	case f.Network != string(network):
		return Hints{}, fmt.Errorf("%w: hints of %.40q", ErrNetwork, f.Network)
	case f.Signer != signer.String():
		return Hints{}, fmt.Errorf("%w: hints signed by %s, not by %s", ErrSignature, f.Signer, signer.Short())
	case !signer.Verify(f.signed(), f.Signature):
		return Hints{}, fmt.Errorf("%w of hints", ErrSignature)
	}
	h := Hints{Network: network, Signer: signer, Issued: issued, Expires: expires, Peers: f.Peers}
	if err := (Header{Issued: issued, TTL: life}).window(now); err != nil {
		return h, fmt.Errorf("hints: %w", err)
	}
	return h, nil
}
