package pheromone

import (
	"fmt"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/fxamacker/cbor/v2"
)

// DomainQuery is the domain of questions.
const DomainQuery = "query"

// queryTTL is said in a query's header; holders go by record.MaxSkew, since clocks differ.
const queryTTL = 10 * time.Second

// question is what a query asks: who serves the cell at Key; the zero key means
// any cell. Payload: [name key bytes 32 or empty, nonce uint].
type question struct {
	asker identity.Key
	key   identity.NameKey
}

type queryPayload struct {
	_     struct{} `cbor:",toarray"`
	Key   cbor.ByteString
	Nonce uint64
}

func signQuery(asker identity.Private, network identity.NetworkID, key identity.NameKey, nonce uint64, issued time.Time) ([]byte, error) {
	p := queryPayload{Nonce: nonce}
	if key != (identity.NameKey{}) {
		p.Key = cbor.ByteString(key[:])
	}
	raw, err := record.Sign(asker, record.Header{Domain: DomainQuery, Network: network, Issued: issued, TTL: queryTTL}, p)
	if err != nil {
		return nil, fmt.Errorf("sign query: %w", err)
	}
	return raw, nil
}

// openQuery checks a query's form, signature and age. Errors wrap those of package record.
func openQuery(raw []byte, network identity.NetworkID, now time.Time) (question, error) {
	var p queryPayload
	h, err := record.Open(raw, network, DomainQuery, &p)
	if err != nil {
		return question{}, err
	}
	q := question{asker: h.Signer}
	switch age := now.Sub(h.Issued); {
	case age < -record.MaxSkew:
		return question{}, fmt.Errorf("%w: query issued %v ahead of this clock", record.ErrClock, -age)
	case age > record.MaxSkew+queryTTL:
		return question{}, fmt.Errorf("%w: query of %v ago", record.ErrStale, age)
	case len(p.Key) == 0:
	case len(p.Key) == len(q.key):
		q.key = identity.NameKey([]byte(p.Key))
	default:
		return question{}, fmt.Errorf("%w: query for a key of %d bytes", record.ErrMalformed, len(p.Key))
	}
	return q, nil
}
