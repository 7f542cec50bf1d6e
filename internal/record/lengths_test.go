package record

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"github.com/fxamacker/cbor/v2"
)

// The CBOR library fills an array from a byte string of any length: it pads a
// short one with zeros and cuts a long one. A key or network of another length
// than its own is no key, whoever signed it.
func TestKeysHaveTheirLength(t *testing.T) {
	key := identity.PrivateFromSeed([32]byte{1})
	network := identity.Network("test").ID()
	member := identity.PrivateFromSeed([32]byte{2}).Public()
	signer := key.Public()
	for name, c := range map[string]struct {
		network, signer, node any
		good                  bool
	}{
		"as it should be":  {network[:], signer[:], member[:], true},
		"longer network":   {append(bytes.Clone(network[:]), 0), signer[:], member[:], false},
		"longer signer":    {network[:], append(bytes.Clone(signer[:]), 7), member[:], false},
		"longer key":       {network[:], signer[:], append(bytes.Clone(member[:]), 7), false},
		"shorter key":      {network[:], signer[:], member[:31], false},
		"empty key":        {network[:], signer[:], []byte{}, false},
		"no key":           {network[:], signer[:], nil, false},
		"an array of ints": {network[:], signer[:], []int{1, 2, 3}, false},
		"a text":           {network[:], signer[:], "0123456789abcdef0123456789abcdef", false},
	} {
		payload, err := cbor.Marshal([]any{c.node})
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		b, err := cbor.Marshal([]any{schema, DomainMember, c.network, c.signer, 1, 0, now.UnixMilli(), 3600_000, cbor.RawMessage(payload), map[uint64]int{}})
		if err != nil {
			t.Fatal(err)
		}
		raw := append(key.Sign(append([]byte(signaturePrefix), b...)), b...)
		if _, err := OpenMember(raw, network, now); (err == nil) != c.good || !c.good && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
