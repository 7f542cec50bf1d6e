package mesh

import (
	"fmt"
	"strings"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// Tier is where an endpoint was learnt.
type Tier string

// The tiers, best first.
const (
	TierSelf  Tier = "self"
	TierLAN   Tier = "lan"
	TierDHT   Tier = "dht"
	TierCache Tier = "cache"
)

// Endpoint is a node that serves a cell, as said by a verified lease.
type Endpoint struct {
	Node  identity.Key
	Addrs [][]byte // binary multiaddrs: the LAN's first, then the DHT's; at most 2 × record.MaxAddrs
	Tier  Tier
	Lease record.Lease  // the newest one
	Took  time.Duration // from the question to this answer

	since time.Time // when the node was first learnt of
	near  bool      // the LAN told of it, too
}

// Draining reports whether the node asks callers to go elsewhere.
func (e Endpoint) Draining() bool { return e.Lease.State == record.StateDraining }

// TierReason is why one tier found nobody.
type TierReason struct {
	Tier Tier
	Why  string
	Err  error // what the tier reported, or nil
}

// NotFound says that no tier knows a node that serves the cell.
type NotFound struct {
	Cell    identity.Cell
	Reasons []TierReason
}

func (e *NotFound) Error() string {
	var why []string
	for _, r := range e.Reasons {
		why = append(why, fmt.Sprintf("%s: %s", r.Tier, r.Why))
	}
	return fmt.Sprintf("nobody found who serves %s (%s)", e.Cell.Short(), strings.Join(why, "; "))
}

// Unwrap returns what the tiers reported.
func (e *NotFound) Unwrap() []error {
	var errs []error
	for _, r := range e.Reasons {
		if r.Err != nil {
			errs = append(errs, r.Err)
		}
	}
	return errs
}
