package autonomic

import (
	"fmt"
	"strings"

	"cell.network/cell/internal/identity"
)

// Rule is which law led to an action.
type Rule uint8

// The rules.
const (
	RuleEnough   Rule = iota + 1 // as many as wanted
	RuleVacancy                  // a vacancy, and whose it is
	RuleListen                   // a vacancy, but this host has not heard enough of the others yet
	RuleNoHost                   // a vacancy, but no host with room and code that is not resting
	RuleOldest                   // too many: the oldest drains
	RuleTurn                     // too many: not this host's turn, or enough are draining
	RuleOverdue                  // a claim that took too long
	RuleOutdrawn                 // a claim that another host has a better right to
	RuleStopped                  // the operator stopped the cell
)

// Reason is the numbers behind an action. They suffice to say why.
type Reason struct {
	Cell identity.Cell
	Kind Kind
	Rule Rule

	Want                     int
	Live, Starting, Draining int
	Signal                   string  // the number that decided
	Demand, Target           float64 // of the cell, of one replica
	Min, Max                 int
	Silent                   int    // hosts not heard of
	Generation               uint64 // of the replica that is meant
	Rank, Candidates         int    // place in line, from 0, and length of the line
}

// String returns one sentence, for people.
func (r Reason) String() string {
	var s strings.Builder
	switch r.Rule {
	case RuleEnough:
		fmt.Fprintf(&s, "wait: %d wanted", r.Want)
	case RuleVacancy:
		fmt.Fprintf(&s, "divide: %d wanted, number %d goes to ", r.Want, r.Generation)
		if r.Rank == 0 {
			fmt.Fprintf(&s, "the first of %d hosts with room", r.Candidates)
		} else {
			fmt.Fprintf(&s, "host %d of %d with room, since those before it kept silent", r.Rank+1, r.Candidates)
		}
	case RuleListen:
		fmt.Fprintf(&s, "wait: %d wanted, but this host only began to listen", r.Want)
	case RuleNoHost:
		fmt.Fprintf(&s, "wait: %d wanted, but no host has the code, room and no recent failure", r.Want)
	case RuleOldest:
		fmt.Fprintf(&s, "drain: %d wanted, number %d is the oldest", r.Want, r.Generation)
		if r.Rank > 0 {
			fmt.Fprintf(&s, " but %d", r.Rank)
		}
	case RuleTurn:
		fmt.Fprintf(&s, "wait: %d wanted, others drain first", r.Want)
	case RuleOverdue:
		fmt.Fprintf(&s, "drain: number %d has been starting for too long", r.Generation)
	case RuleOutdrawn:
		fmt.Fprintf(&s, "drain: another host has the better right to number %d", r.Generation)
	case RuleStopped:
		fmt.Fprintf(&s, "%s: the cell is stopped", r.Kind)
	}
	fmt.Fprintf(&s, "; %d live", r.Live)
	if r.Starting > 0 {
		fmt.Fprintf(&s, ", %d starting", r.Starting)
	}
	if r.Draining > 0 {
		fmt.Fprintf(&s, ", %d draining", r.Draining)
	}
	if r.Rule == RuleStopped {
		return s.String()
	}
	switch r.Signal {
	case signalInflight:
		fmt.Fprintf(&s, "; %.1f requests in flight at %g per replica", r.Demand, r.Target)
	case signalCPU:
		fmt.Fprintf(&s, "; CPU for %.2f replicas at %.0f %% each", r.Demand, 100*r.Target)
	case signalMin:
		fmt.Fprintf(&s, "; the minimum is %d", r.Min)
	case signalMax:
		fmt.Fprintf(&s, "; the maximum is %d", r.Max)
	case signalWound:
		fmt.Fprintf(&s, "; %.0f died and are replaced", r.Demand)
	case signalWaiting:
		fmt.Fprintf(&s, "; %.0f requests wait for a replica", r.Demand)
	}
	if r.Silent > 0 {
		fmt.Fprintf(&s, "; silent hosts: %d", r.Silent)
	}
	return s.String()
}
