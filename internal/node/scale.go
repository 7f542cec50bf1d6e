package node

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"cell.network/cell/internal/autonomic"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/pulse"
	"cell.network/cell/internal/record"
)

// How often decisions are taken.
const (
	decideEvery = 500 * time.Millisecond // at least, give or take a tenth
	decideGap   = 20 * time.Millisecond  // at most
	knowSoon    = time.Second            // after the first search for who else has a cell; then twice as long each time
	knowEvery   = 30 * time.Second       // at most
	knowTime    = 5 * time.Second        // that such a search may take
	maxLooks    = 8                      // of them at a time
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
	for {
		select {
		case <-timer.C:
		case <-n.kicked:
		case <-ctx.Done():
			return nil
		}
		begin := time.Now()
		n.measureMachine()
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
	told     []autonomic.Action // for the journal
}

// decide takes one decision for every cell and carries out this node's part.
func (n *Node) decide() {
	rows := n.pulse.Rows()
	n.noteSilence(rows, time.Now())
	for _, v := range n.verdicts(rows) {
		for _, a := range v.told {
			n.tell(v.s, a, v.decision.Want)
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

// silentFor is how long a host that was not heard of stays out of use, unless it
// is heard again: longer than its leases last.
const silentFor = 5 * time.Minute

// noteSilence notes which hosts have fallen silent: no call goes there while others
// serve the cell or may soon.
func (n *Node) noteSilence(rows []pulse.Seen, now time.Time) {
	next := make(map[identity.Key]time.Time)
	if was := n.silent.Load(); was != nil {
		for node, since := range *was {
			if now.Sub(since) < silentFor {
				next[node] = since
			}
		}
	}
	for _, seen := range rows {
		node := seen.Row.Node()
		if _, known := next[node]; seen.Age <= hostSilent {
			delete(next, node)
		} else if !known {
			next[node] = now
		}
	}
	n.silent.Store(&next)
}

// isSilent reports whether a host was heard of, and is not any more.
func (n *Node) isSilent(node identity.Key) bool {
	silent := n.silent.Load()
	if silent == nil {
		return false
	}
	_, yes := (*silent)[node]
	return yes
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
			if len(v.own) == 0 { // else it is told when it is carried out
				v.told = v.decision.Actions[:1]
			}
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

// divide claims a vacancy, so that others count it, and starts a replica for it.
func (n *Node) divide(s *service, a autonomic.Action) {
	n.mu.Lock()
	taken := n.leaving || s.deploy == nil || slices.ContainsFunc(s.claims, func(c *claim) bool { return c.generation == a.Generation })
	if taken || s.drained || n.drained {
		n.mu.Unlock()
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.nextID++
	c := &claim{number: n.nextID, generation: a.Generation, deploy: s.deploy, cancel: cancel}
	s.claims = append(s.claims, c)
	n.wg.Add(1)
	n.mu.Unlock()
	n.changed()
	cause := n.event(journal.Mitosis, "", s.cell.String(), a.Reason.String(), reasonData(a, a.Reason.Want))
	go func() {
		defer n.wg.Done()
		defer cancel()
		n.fill(ctx, s, c, cause)
	}()
}

// claimNext claims the next replica of a cell for a start that the operator asked for.
func (n *Node) claimNext(s *service, d *deployment) (*claim, error) {
	rows := n.pulse.Rows()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.leaving || n.drained {
		return nil, NewError(CodeFailed, "this node takes no new replicas", "let it take them again: cell drain --undo")
	}
	n.services[s.cell] = s // a start that failed meanwhile may have removed it
	generation := uint64(1)
	for _, r := range n.viewLocked(s, n.siftLocked(rows, time.Now())[s.cell]).Replicas {
		if r.Generation < maxGeneration {
			generation = max(generation, r.Generation+1)
		}
	}
	n.nextID++
	c := &claim{number: n.nextID, generation: generation, deploy: d, ordered: true, cancel: func() {}}
	s.claims = append(s.claims, c)
	n.pulse.Changed()
	return c, nil
}

// fill starts the replica of a claim and makes it known.
func (n *Node) fill(ctx context.Context, s *service, c *claim, cause string) {
	defer n.changed()
	r, err := n.spawn(ctx, s, c.deploy, c, cause)
	if err != nil {
		n.mu.Lock()
		if s.dropClaim(c) {
			s.mourn(c.number, c.generation, record.ReplicaFailed)
		}
		n.mu.Unlock()
		return
	}
	n.mu.Lock()
	joined := n.joinLocked(s, c, r)
	n.mu.Unlock()
	if !joined {
		r.end()
	}
}

// end ends a replica that nobody has been told of.
func (r *replica) end() {
	r.parting.Store(true) // nobody mourns it
	_ = r.proc.Kill()
	<-r.done
}

// joinLocked makes a replica that is ready one of the cell's, and the cell
// known. It reports false where the claim was given up meanwhile, or is of an
// earlier deployment.
func (n *Node) joinLocked(s *service, c *claim, r *replica) bool {
	grant, member, err := n.certs.For(s.cell, n.self)
	held := s.dropClaim(c)
	ended := false
	select {
	case <-r.done:
		ended = true
	default:
	}
	if !held || c.deploy != s.deploy || n.leaving || err != nil || ended {
		return false
	}
	s.replicas = append(s.replicas, r)
	s.lease = n.mesh.Announce(s.cell, grant, member)
	n.endRelaysLocked(s.cell)
	return true
}

// dropClaim reports whether the claim was still held.
func (s *service) dropClaim(c *claim) bool {
	was := len(s.claims)
	s.claims = slices.DeleteFunc(s.claims, func(x *claim) bool { return x == c })
	return len(s.claims) < was
}

// mourn has the row tell of a replica that ended without being asked.
func (s *service) mourn(number, generation uint64, state record.ReplicaState) {
	s.mourned = append(s.mourned, mourned{number, generation, state, time.Now()})
	s.mourned = s.mourned[max(0, len(s.mourned)-maxMourned):]
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

// know keeps up, until ctx ends, with who else serves or seeds the cells that
// this node knows: these are the nodes to exchange rows with.
func (n *Node) know(ctx context.Context) error {
	for {
		n.mu.Lock()
		news, now := n.known, time.Now()
		next := now.Add(knowEvery)
		var due []*service
		for _, s := range n.services {
			if !s.search.After(now) {
				s.search = now.Add(n.vary(min(knowSoon<<min(s.searches, 16), knowEvery)))
				s.searches++
				due = append(due, s)
			}
			if s.search.Before(next) {
				next = s.search
			}
		}
		n.mu.Unlock()
		var looking sync.WaitGroup
		slots := make(chan struct{}, maxLooks)
		for _, s := range due {
			slots <- struct{}{}
			looking.Go(func() {
				defer func() { <-slots }()
				n.look(ctx, s)
			})
		}
		looking.Wait()
		if err := n.keepPartners(); err != nil {
			n.cfg.Log.Warn("keep partners", "err", err)
		}
		select {
		case <-time.After(time.Until(next)):
		case <-news:
		case <-ctx.Done():
			return nil
		}
	}
}

// look searches once for others who serve or seed a cell.
func (n *Node) look(ctx context.Context, s *service) {
	search, cancel := context.WithTimeout(ctx, knowTime)
	defer cancel()
	for _, topic := range []identity.Cell{s.cell, s.cell.Seeds()} {
		for range n.mesh.Discover(search, topic) { // what it finds, the mesh remembers
		}
	}
	n.mu.Lock()
	s.searched = true
	n.mu.Unlock()
	n.kick()
}

// vary returns d, give or take a tenth, so that nodes do not fall into step.
func (n *Node) vary(d time.Duration) time.Duration {
	return d + time.Duration((n.chance()-0.5)*0.2*float64(d))
}
