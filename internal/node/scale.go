package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"cell.network/cell/internal/autonomic"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/pulse"
	"cell.network/cell/internal/record"
)

// How often decisions are taken.
const (
	decideEvery = 500 * time.Millisecond // at least, give or take a tenth
	decideGap   = 20 * time.Millisecond  // at most
)

// kick has the next decision taken now.
func (n *Node) kick() {
	select {
	case n.kicked <- struct{}{}:
	default:
	}
}

// changed tells others at once what this node's row says now, and decides anew.
func (n *Node) changed() {
	n.pulse.Changed()
	n.kick()
}

// scale decides, for every cell that this node could run, how many replicas
// there should be, and does what falls to it, until ctx ends.
func (n *Node) scale(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var measured time.Time
	for {
		select {
		case <-timer.C:
		case <-n.kicked:
		case <-ctx.Done():
			return nil
		}
		begin := time.Now()
		if begin.Sub(measured) >= decideEvery-decideGap { // over less, idle time is a matter of chance
			measured = begin
			n.measureMachine()
		}
		n.decide()
		select { // not more often than this, however much happens
		case <-time.After(decideGap - time.Since(begin)):
		case <-ctx.Done():
			return nil
		}
		timer.Reset(n.vary(decideEvery))
	}
}

// verdict is a decision for one cell, and what this node has to do about it.
type verdict struct {
	s        *service
	decision autonomic.Decision
	own      []autonomic.Action
	news     bool // the journal has not been told
}

// decide takes one decision for every cell and carries out this node's part.
func (n *Node) decide() {
	rows := n.rows()
	n.noteSilence(rows, time.Now())
	for _, v := range n.verdicts(rows) {
		if v.news {
			n.tell(v.s, v.decision.Actions[0], v.decision.Want)
		}
		for _, a := range v.own {
			switch a.Kind {
			case autonomic.Divide:
				n.divide(v.s, a)
			case autonomic.Drain:
				n.shrink(v.s, a)
			}
		}
	}
}

// firstLook is how long a node that knows a new cell waits to have looked for
// others who have it, before it decides anything.
const firstLook = 6 * time.Second

func (n *Node) verdicts(rows []pulse.Seen) []verdict {
	type question struct {
		s      *service
		policy autonomic.Policy
		view   autonomic.View
	}
	n.mu.Lock()
	if n.leaving {
		n.mu.Unlock()
		return nil
	}
	var questions []question
	sifted := n.siftLocked(rows, time.Now())
	for _, s := range n.services {
		s.searched = s.searched || time.Since(s.known) > firstLook
		if s.deploy == nil && len(s.replicas) == 0 && s.waiting == 0 || !s.searched {
			continue
		}
		questions = append(questions, question{s, s.policy(), n.viewLocked(s, sifted[s.cell])})
	}
	n.mu.Unlock()

	all := make([]verdict, 0, len(questions))
	for _, q := range questions {
		v := verdict{s: q.s}
		v.decision, q.s.memory = autonomic.Decide(q.policy, q.view, q.s.memory, n.uptime())
		for _, a := range v.decision.Actions {
			if a.Kind != autonomic.Wait && a.Host == n.self {
				v.own = append(v.own, a)
			}
		}
		if news := q.s.news(v.decision); news != q.s.said {
			q.s.said = news
			v.news = len(v.own) == 0 // else it is told when it is carried out
		}
		all = append(all, v)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, v := range all {
		v.s.decision = v.decision
		close(v.s.decided)
		v.s.decided = make(chan struct{})
	}
	return all
}

// news is what of a decision is worth a line in the journal when it changes.
func (s *service) news(d autonomic.Decision) string {
	a := d.Actions[0]
	return fmt.Sprint(d.Want, a.Kind, a.Host, a.Generation, a.Reason.Rule)
}

// tell writes a decision that this node does not act on to the journal.
func (n *Node) tell(s *service, a autonomic.Action, want int) {
	text := a.Reason.String()
	if a.Kind == autonomic.Divide {
		text += "; that is " + a.Host.Short()
	}
	n.event(journal.Decide, "", s.cell.String(), text, reasonData(a, want))
}

func reasonData(a autonomic.Action, want int) map[string]any {
	r := a.Reason
	return map[string]any{
		"action": a.Kind.String(), "host": a.Host.String(), "want": want, "live": r.Live, "starting": r.Starting, "draining": r.Draining,
		"signal": r.Signal, "demand": r.Demand, "target": r.Target, "min": r.Min, "max": r.Max, "generation": r.Generation, "silent": r.Silent,
	}
}

// shrink gives up a claim or has a replica part, as decided.
func (n *Node) shrink(s *service, a autonomic.Action) {
	n.mu.Lock()
	var gone *claim
	if i := slices.IndexFunc(s.claims, func(c *claim) bool { return c.number == a.Replica && !c.ordered }); i >= 0 {
		gone = s.claims[i]
		s.dropClaim(gone)
		if a.Reason.Rule == autonomic.RuleOverdue { // this host rests before it tries again
			s.mourn(gone.number, gone.generation, record.ReplicaFailed)
		}
	}
	var r *replica
	if i := slices.IndexFunc(s.replicas, func(r *replica) bool { return r.number == a.Replica }); i >= 0 {
		r = s.replicas[i]
	}
	if r != nil && (n.leaving || !r.parting.CompareAndSwap(false, true)) {
		r = nil
	}
	if r != nil {
		n.wg.Add(1)
	}
	n.mu.Unlock()
	if gone == nil && r == nil {
		return
	}
	cause := n.event(journal.Apoptosis, "", s.cell.String(), a.Reason.String(), reasonData(a, a.Reason.Want))
	if gone != nil {
		gone.cancel()
		n.changed()
		return
	}
	go func() {
		defer n.wg.Done()
		n.part(s, []*replica{r}, cause, nil)
	}()
}
