package autonomic

import (
	"time"

	"cell.network/cell/internal/identity"
)

// drainTurn is how long the owner of the next oldest waits for the owner of the
// oldest, who may see things otherwise or not be honest.
const drainTurn = 5 * time.Second

// deaths lists the replicas of this host that should drain now.
func (m *Memory) deaths(v View, b *body, want int, now time.Duration) []Action {
	surplus := b.live - want
	turn := m.surplusSince
	first := place{}
	if len(b.living) > 0 {
		first = b.living[0].place()
	}
	if surplus <= 0 || first != m.oldest || len(b.draining) > 0 {
		turn.true = false
	}
	turn.hold(surplus > 0, now, 0)
	m.surplusSince, m.oldest = turn, first

	allowed := min(surplus, max(1, len(b.living)/10)-len(b.draining))
	if allowed <= 0 {
		return nil
	}
	passed := int((now - turn.at) / drainTurn)
	var actions []Action
	rank := 0
	for _, r := range b.living {
		if r.State != Live {
			continue
		}
		if r.Host == v.Self && rank < allowed+passed && len(actions) < allowed {
			actions = append(actions, drain(r, RuleOldest, rank))
		}
		rank++
	}
	return actions
}

// withdrawn lists claims of this host that it should give up: they took too
// long, or another host claimed the same vacancy and drew better.
func withdrawn(v View, b *body, up int) []Action {
	var actions []Action
	for _, r := range b.overdue {
		actions = append(actions, drain(r, RuleOverdue, 0))
	}
	spare := len(b.living) - up
	for _, r := range b.living {
		if spare > 0 && r.Host == v.Self && r.State == Starting && outdrawn(v.Cell, b, r) {
			actions = append(actions, drain(r, RuleOutdrawn, 0))
			spare--
		}
	}
	return actions
}

// outdrawn tells whether another host holds r's generation with a better right.
func outdrawn(cell identity.Cell, b *body, r Replica) bool {
	mine := score(cell, r.Generation, r.Host)
	for _, o := range b.living {
		if o.Generation == r.Generation && o.Host != r.Host &&
			(o.State == Live || score(cell, o.Generation, o.Host) > mine) {
			return true
		}
	}
	return false
}

// stop lists all replicas of this host.
func stop(v View, b *body) []Action {
	var actions []Action
	for _, r := range append(b.overdue, b.living...) {
		if r.Host == v.Self {
			actions = append(actions, drain(r, RuleStopped, 0))
		}
	}
	return actions
}

func drain(r Replica, rule Rule, rank int) Action {
	return Action{Kind: Drain, Host: r.Host, Replica: r.ID, Generation: r.Generation,
		Reason: Reason{Rule: rule, Generation: r.Generation, Rank: rank}}
}
