package autonomic

import (
	"time"

	"cell.network/cell/internal/identity"
)

// Kind is what an action does.
type Kind uint8

// The kinds of action.
const (
	Wait Kind = iota + 1
	Divide
	Drain
)

// String returns the kind in lower case.
func (k Kind) String() string {
	switch k {
	case Wait:
		return "wait"
	case Divide:
		return "divide"
	case Drain:
		return "drain"
	}
	return "unknown"
}

// Action is one thing to do, or to expect of another host.
type Action struct {
	Kind       Kind
	Host       identity.Key // who acts. Drain and Wait always name the host that decided
	Generation uint64       // Divide: of the new replica, to be claimed first; Drain: of the old one
	Replica    uint64       // Drain: its id
	Reason     Reason
}

// Decision is what one host concludes for one cell.
type Decision struct {
	Want    int      // replicas there should be, within the policy; 0 if stopped
	Actions []Action // never empty: a single Wait where nothing is to be done
}

// Decide takes the decision of host v.Self. now is any clock of this host that
// never goes back, the same for all decisions on one memory.
//
// The caller claims a vacancy (a Starting replica of the action's generation in
// its own row, sent at once) before it starts a program, and decides again on
// every event, at least every 500 ms.
func Decide(p Policy, v View, m Memory, now time.Duration) (Decision, Memory) {
	p = p.normal()
	now = max(now, m.last)
	if !m.begun {
		m.begun, m.start, m.last = true, now, now
	}
	b := look(p, v, &m, now)
	m.noteFailures(b, now)
	d := m.desire(p, v, b, now)
	n := len(b.living)
	m.settle(b, m.restSince.hold(!v.Stopped && d.want(n) <= n && b.starting() == 0, now, Newborn))

	var decision Decision
	base := Reason{Cell: v.Cell, Signal: d.signal, Demand: d.demand, Target: d.target, Live: b.live,
		Starting: b.starting(), Draining: len(b.draining), Silent: b.silent, Min: p.Min, Max: p.Max}
	if v.Stopped {
		m.open = nil
		decision.Actions = stop(v, b)
		base.Rule = RuleStopped
	} else {
		decision.Want = d.want(n)
		decision.Actions = withdrawn(v, b, d.up)
		switch {
		case decision.Want > n && now-m.start < p.Listen:
			base.Rule = RuleListen
		case decision.Want > n:
			decision.Actions = append(decision.Actions, m.births(p, v, b, decision.Want-n, now)...)
			base.Rule = RuleNoHost
		case decision.Want < n:
			m.open = nil
			if len(decision.Actions) == 0 {
				decision.Actions = m.deaths(v, b, decision.Want, now)
			}
			base.Rule = RuleTurn
		default:
			m.open = nil
			base.Rule = RuleEnough
		}
		if decision.Want >= n {
			m.surplusSince = since{}
		}
	}
	m.last = now

	base.Want = decision.Want
	if len(decision.Actions) == 0 {
		decision.Actions = []Action{{Kind: Wait, Host: v.Self, Reason: Reason{Rule: base.Rule}}}
	}
	for i := range decision.Actions {
		r := &decision.Actions[i].Reason
		own := *r
		*r = base
		r.Kind, r.Rule, r.Generation, r.Rank, r.Candidates = decision.Actions[i].Kind, own.Rule, own.Generation, own.Rank, own.Candidates
	}
	return decision, m
}
