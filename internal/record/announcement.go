package record

import (
	"errors"
	"time"

	"cell.network/cell/internal/identity"
)

// OpenAnnouncement checks what LAN and DHT carry: a lease, or a seed in the form
// of a lease for the topic [identity.Cell.Seeds].
func OpenAnnouncement(raw []byte, network identity.NetworkID, now time.Time) (Lease, error) {
	l, err := OpenLease(raw, network, now)
	if !errors.Is(err, ErrDomain) {
		return l, err
	}
	s, err := OpenSeed(raw, network, now)
	if err != nil {
		return Lease{}, err
	}
	return s.Lease(), nil
}

// Lease is the seed as discovery handles it: a lease that needs no grant.
func (s Seed) Lease() Lease {
	return Lease{Header: s.Header, Cell: s.Cell.Seeds(), State: StateAlive, Addrs: s.Addrs, Raw: s.Raw, Seed: &s}
}
