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
	Node   identity.Key
	Addrs  [][]byte // binary multiaddrs: the LAN's first, then the DHT's; at most 2 × record.MaxAddrs
	Tier   Tier
	Lease  record.Lease  // the newest one
	Hops   int           // as in [Finding]
	Holder identity.Key  // the same, this node's own key included; zero: no search of the DHT brought that lease first
	Took   time.Duration // from the question to this answer
	RTT    time.Duration // measured round trip to the node; 0: not known
	Why    string        // how that lease came, in one clause; only from Discover and Watch

	since    time.Time     // when the node was first learnt of
	told     told          // how the lease came
	distance time.Duration // for ranking
}

// told is how a lease came.
type told struct {
	tier   Tier
	pushed bool // the DHT's watch brought it
	hops   int
	holder identity.Key
	at     time.Time
}

// why says it in one clause.
func (t told) why(now time.Time) string {
	age := ago(now.Sub(t.at))
	switch {
	case t.tier == TierSelf:
		return "this node announces it"
	case t.tier == TierLAN:
		return "announced on the LAN " + age
	case t.pushed:
		return "told by the DHT's watch " + age
	case t.hops == 0:
		return "lease held by this node for the DHT"
	case t.hops == 1:
		return fmt.Sprintf("lease from holder %s after 1 hop, %s", t.holder.Short(), age)
	}
	return fmt.Sprintf("lease from holder %s after %d hops, %s", t.holder.Short(), t.hops, age)
}

// ago says how long since, for people.
func ago(d time.Duration) string {
	if d = d.Round(time.Second); d > 0 {
		return d.String() + " ago"
	}
	return "just now"
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
