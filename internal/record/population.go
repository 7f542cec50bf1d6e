package record

import (
	"bytes"
	"cmp"
	"fmt"
	"time"

	"cell.network/cell/internal/identity"
)

// DomainPopulation is the domain of populations.
const DomainPopulation = "population"

// Limits on populations.
const (
	MaxPopulationSize = 384    // bytes: with the longest name about 290 are in use
	MaxPopulation     = 10_000 // replicas that a population may ask for
)

// Population is an operator's word on how many replicas a cell shall have in a
// whole network. It holds as a certificate does, from Issued to Issued + TTL;
// then, and where nobody has spoken, the bounds of Cell.toml hold. A newer one
// replaces an older one wholly ([Population.Supersedes]), which is how one
// takes it back.
//
// Payload: [author, name, min, max, stopped bool]. Anybody may sign one: see
// [Population.Counts].
type Population struct {
	Header
	Cell    identity.Cell
	Min     int    // replicas
	Max     int    // replicas, Min to MaxPopulation; 0: the bounds are those of Cell.toml, and Min is 0
	Stopped bool   // no replica at all until a newer record says otherwise; the bounds are kept for then
	Raw     []byte // as received; do not modify
}

type populationPayload struct {
	_       struct{} `cbor:",toarray"`
	Author  identity.Key
	Name    string
	Min     int
	Max     int
	Stopped bool
}

// PopulationOffer is what an operator puts into a population.
type PopulationOffer struct {
	Cell    identity.Cell
	Min     int
	Max     int // 0: the bounds of Cell.toml
	Stopped bool
	Order   Order // among all who may say so, not only of this signer
	Issued  time.Time
	TTL     time.Duration // 1 ms to 400 days
}

// SignPopulation makes a population and checks it as a stranger would.
func SignPopulation(signer identity.Private, network identity.NetworkID, o PopulationOffer) (Population, error) {
	h := Header{Domain: DomainPopulation, Network: network, Order: o.Order, Issued: o.Issued, TTL: o.TTL}
	raw, err := Sign(signer, h, populationPayload{
		Author: o.Cell.Author, Name: string(o.Cell.Name), Min: o.Min, Max: o.Max, Stopped: o.Stopped,
	})
	if err != nil {
		return Population{}, err
	}
	return OpenPopulation(raw, network, o.Issued)
}

// OpenPopulation checks a population's size, form, network, signature and
// validity at now. Whether its signer may say so is told by
// [Population.Counts].
func OpenPopulation(raw []byte, network identity.NetworkID, now time.Time) (Population, error) {
	if len(raw) > MaxPopulationSize {
		return Population{}, fmt.Errorf("%w: population of %d bytes, %d are allowed", ErrSize, len(raw), MaxPopulationSize)
	}
	var p populationPayload
	h, err := Open(raw, network, DomainPopulation, &p)
	if err != nil {
		return Population{}, err
	}
	if h.TTL == 0 {
		return Population{}, fmt.Errorf("%w: population without a ttl", ErrMalformed)
	}
	if err := h.window(now); err != nil {
		return Population{}, fmt.Errorf("population: %w", err)
	}
	cell, err := p.check()
	if err != nil {
		return Population{}, err
	}
	return Population{Header: h, Cell: cell, Min: p.Min, Max: p.Max, Stopped: p.Stopped, Raw: raw}, nil
}

// check returns the cell that p is about where p keeps the rules of form.
func (p populationPayload) check() (identity.Cell, error) {
	name, err := identity.ParseName(p.Name)
	if err != nil {
		return identity.Cell{}, fmt.Errorf("%w: population: %v", ErrMalformed, err)
	}
	if p.Author.IsZero() {
		return identity.Cell{}, fmt.Errorf("%w: population of %s of no author", ErrMalformed, name)
	}
	if p.Min < 0 || p.Max < p.Min || p.Max > MaxPopulation {
		return identity.Cell{}, fmt.Errorf("%w: population of %d to %d replicas", ErrMalformed, p.Min, p.Max)
	}
	return identity.Cell{Author: p.Author, Name: name}, nil
}

// Counts reports whether the signer may say how many replicas the cell has on
// the machines of colony: its author may, and so may that colony's operator. A
// node of no colony passes the zero key and obeys the author only.
func (p Population) Counts(colony identity.Key) bool {
	return p.Signer == p.Cell.Author || p.Signer == colony && !colony.IsZero()
}

// Supersedes reports whether p holds where q was said before. Two of one order,
// by operators who did not know of each other, are ranked by their bytes, so
// that all nodes agree.
func (p Population) Supersedes(q Population) bool {
	return cmp.Or(p.Order.Compare(q.Order), bytes.Compare(p.Raw, q.Raw)) > 0
}
