package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/mesh"
	"cell.network/cell/internal/ribosome"
)

// announceWait is how long RunCell waits for the first others to have heard.
const announceWait = 2 * time.Second

// RunCell builds the cell in dir, starts a replica, announces it and returns
// when it answers. The cell is the default author's. Errors are an [*APIError]
// or name what failed; progress is told as it goes.
func (n *Node) RunCell(ctx context.Context, dir string, progress func(Progress)) (Replica, error) {
	m, err := LoadManifest(dir)
	if err != nil {
		return Replica{}, err
	}
	cell, err := n.resolve(identity.Ref{Name: m.Cell.Name})
	if err != nil {
		return Replica{}, NewError(CodeRefused, err.Error(), "make your keys first: cell init")
	}
	return n.startCell(ctx, cell, m, n.adopt(ctx, cell, dir), progress)
}

// startCell builds and starts a cell from its source in dir. Replicas of an
// earlier start are drained once the new one takes requests.
func (n *Node) startCell(ctx context.Context, cell identity.Cell, m Manifest, dir string, progress func(Progress)) (Replica, error) {
	begin := time.Now()
	say := func(step Step, format string, args ...any) {
		progress(Progress{Step: step, Text: fmt.Sprintf(format, args...), TookMS: ms(time.Since(begin))})
		begin = time.Now()
	}
	n.mu.Lock()
	_, _, err := n.certs.For(cell, n.self)
	n.mu.Unlock()
	if err != nil {
		n.event(journal.Refuse, "", cell.String(), err.Error(), nil)
		return Replica{}, NewError(CodeRefused, err.Error(), "on a machine that holds the author's colony key: cell admit "+n.self.String())
	}
	if len(m.Run.Cmd) > 0 || len(m.Build.Cmd) > 0 {
		return Replica{}, NewError(CodeFailed, "[run] cmd and [build] cmd are not supported by this version, which runs Go cells", "write the cell with the Go SDK: cell new NAME shows how")
	}
	say(StepRead, "%s %s", cell.Short(), m.Cell.Version)

	made, err := n.cfg.Builder.Build(ctx, ribosome.Source{Dir: dir, Name: m.Cell.Name}, lineWriter(func(line string) {
		progress(Progress{Step: StepBuild, Text: line})
	}))
	if err != nil {
		n.event(journal.Build, "", cell.String(), "build failed", map[string]any{"dir": dir, "error": clipText(err.Error())})
		return Replica{}, err
	}
	how := "built with " + made.Toolchain
	if made.Cached {
		how = "already built with " + made.Toolchain
	}
	built := n.event(journal.Build, "", cell.String(), how, map[string]any{"key": made.Key, "cached": made.Cached, "took_ms": made.Took.Milliseconds()})
	say(StepBuild, "%s", how)

	deploy, err := n.newDeployment(cell, m, dir, made.Path)
	if err != nil {
		return Replica{}, err
	}
	s := n.service(cell)
	c, err := n.claimNext(s, deploy)
	if err != nil {
		return Replica{}, err
	}
	r, err := n.spawn(ctx, s, deploy, c, built)
	if err != nil {
		n.giveUp(s, c)
		if tail := s.log.tail(); tail != "" {
			return Replica{}, NewError(CodeFailed, err.Error(), "its last words:\n"+tail)
		}
		return Replica{}, err
	}
	say(StepReady, "%s takes requests, pid %d", r.id, r.proc.PID())

	if err := n.unstop(s); err != nil { // not before something runs that is worth it
		n.giveUp(s, c)
		r.end()
		return Replica{}, err
	}
	older, ok := n.replace(s, c, r)
	if !ok {
		r.end()
		return Replica{}, NewError(CodeFailed, r.id+" ended, or the node goes down", "see why: cell logs "+string(cell.Name)+", cell events")
	}
	if err := n.keepDeployment(s); err != nil {
		return Replica{}, err
	}
	n.changed()
	n.drainAll(cell, older)

	n.mu.Lock()
	lease := s.lease
	n.mu.Unlock()
	if lease != nil {
		say(StepAnnounce, "%s", n.announced(ctx, lease))
	}
	select {
	case <-r.done:
		if !r.parting.Load() { // else it was decided that others suffice
			return Replica{}, NewError(CodeFailed, r.id+" ended while it was announced", "its log: cell logs "+string(cell.Name))
		}
	default:
	}
	say(StepAlive, "%s", cell)
	return r.view(cell), nil
}

// giveUp drops a claim that the operator asked for, and the service where that
// was all of it.
func (n *Node) giveUp(s *service, c *claim) {
	n.mu.Lock()
	s.dropClaim(c)
	if s.deploy == nil && len(s.replicas)+len(s.claims)+s.waiting == 0 && s.lease == nil && s.population.Raw == nil {
		delete(n.services, s.cell)
	}
	n.mu.Unlock()
	n.changed()
}

// replace makes a replica that is ready the first of a new deployment: those of
// earlier ones part, and what is being started of them is given up.
func (n *Node) replace(s *service, c *claim, r *replica) (older []*replica, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	older = slices.Clone(s.replicas)
	was := s.deploy
	s.deploy = c.deploy
	if !n.joinLocked(s, c, r) {
		s.deploy = was
		return nil, false
	}
	s.drained = false
	for _, x := range older {
		x.parting.Store(true)
	}
	s.claims = slices.DeleteFunc(s.claims, func(x *claim) bool {
		if x.ordered || x.deploy == s.deploy {
			return false
		}
		x.cancel()
		return true
	})
	return older, true
}

// announced waits a little for the DHT to hold a lease, and says how it stands.
func (n *Node) announced(ctx context.Context, l *mesh.Lease) string {
	wait, cancel := context.WithTimeout(ctx, announceWait)
	defer cancel()
	near := "told the local network"
	if n.lan == nil {
		near = "the local network is switched off"
	}
	for {
		updated := l.Updated()
		st := l.State()
		switch {
		case st.Phase == mesh.Held:
			return fmt.Sprintf("%s; %d nodes of the DHT hold it", near, st.Holders)
		case st.Phase == mesh.Failing && n.kad.Size() == 0:
			return near + "; no other node of the DHT is known yet"
		}
		select {
		case <-updated:
		case <-wait.Done():
			return near + "; the DHT has not answered yet"
		}
	}
}

// service returns the record of a cell that is or will be served here.
func (n *Node) service(cell identity.Cell) *service {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.services[cell]
	if s == nil {
		s = &service{cell: cell, log: newReplicaLog(), decided: make(chan struct{}), known: time.Now()}
		n.services[cell] = s
		close(n.known)
		n.known = make(chan struct{})
	}
	return s
}

func (n *Node) allServices() []*service {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []*service
	for _, s := range n.services {
		all = append(all, s)
	}
	return all
}

// drainAll lets replicas finish what they have and ends them, all at once and
// whoever waits for it: each takes at most the drain time of its Cell.toml.
func (n *Node) drainAll(cell identity.Cell, rs []*replica) {
	var wg sync.WaitGroup
	for _, r := range rs {
		wg.Go(func() {
			if !r.told.CompareAndSwap(false, true) { // somebody else sees to it
				<-r.done
				return
			}
			n.event(journal.Drain, r.spawned, cell.String(), r.id+" drains", map[string]any{"replica": r.id})
			limit, cancel := context.WithTimeout(context.Background(), r.drain)
			defer cancel()
			if r.tellDrain(limit) != nil {
				_ = r.proc.Kill()
			}
			select {
			case <-r.done:
			case <-limit.Done():
				_ = r.proc.Kill()
				<-r.done
			}
		})
	}
	wg.Wait()
}

// endService withdraws a cell first, so that callers move, and then drains its replicas.
func (n *Node) endService(s *service, why string) {
	id := n.event(journal.Stop, "", s.cell.String(), why, nil)
	n.withdraw(s, id, func() bool { return true })
	n.mu.Lock()
	rs := slices.Clone(s.replicas)
	for _, r := range rs {
		r.parting.Store(true)
	}
	for _, c := range s.claims {
		c.cancel()
	}
	s.claims = nil
	n.mu.Unlock()
	n.drainAll(s.cell, rs)
}

// withdraw tells others that the cell is no longer served here, if that is so
// under Node.mu. Neighbours have been told when it returns; the DHT is told in
// the background.
func (n *Node) withdraw(s *service, cause string, still func() bool) {
	n.mu.Lock()
	lease := s.lease
	if lease == nil || !still() {
		n.mu.Unlock()
		return
	}
	s.lease = nil
	_ = lease.Withdraw(gone) // before a new announcement can begin
	n.mu.Unlock()
	n.event(journal.Withdraw, cause, s.cell.String(), "no replica left here", nil)
	n.recall(lease)
}

// gone is a context that has ended: who waits with it does not wait.
var gone = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// farewellTime is how long a node that goes waits for the DHT to hear of what it
// withdraws. Neighbours hear at once, and leases lapse.
const farewellTime = 2 * time.Second

// recall withdraws an announcement: neighbours are told when it returns, the
// DHT in the background.
func (n *Node) recall(lease *mesh.Lease) {
	n.wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), farewellTime)
		defer cancel()
		if err := lease.Withdraw(ctx); err != nil {
			n.cfg.Log.Info("withdraw", "cell", lease.Cell(), "err", err)
		}
	})
}

// ErrNotServed says that this node runs no such cell or replica.
var ErrNotServed = errors.New("it does not run on this node")

// KillReplica ends a replica's processes as a crash would.
func (n *Node) KillReplica(id string) error {
	_, r := n.findReplica(id)
	if r == nil {
		return fmt.Errorf("kill %s: %w", id, ErrNotServed)
	}
	if err := r.proc.Kill(); err != nil {
		return fmt.Errorf("kill %s: %w", id, err)
	}
	<-r.done
	return nil
}

// Replicas lists the replicas of this node, the ended ones last.
func (n *Node) Replicas() []Replica {
	var alive, ended []Replica
	for _, s := range n.allServices() {
		n.mu.Lock()
		rs := slices.Clone(s.replicas)
		ended = append(ended, s.exited...)
		n.mu.Unlock()
		for _, r := range rs {
			alive = append(alive, n.measure(r.view(s.cell)))
		}
	}
	byStart := func(a, b Replica) int { return a.Started.Compare(b.Started) }
	slices.SortFunc(alive, byStart)
	slices.SortFunc(ended, byStart)
	return append(alive, ended...)
}

// measure adds what the replica's processes use, as far as the system tells.
func (n *Node) measure(v Replica) Replica {
	if n.cfg.Meter == nil {
		return v
	}
	if u, err := n.cfg.Meter.Sample(v.PID); err == nil { // else it has just ended
		v.CPUSeconds, v.Memory = u.CPU.Seconds(), u.Memory
	}
	return v
}

// lineWriter calls f for every whole line written to it.
func lineWriter(f func(string)) io.Writer { return &lines{f: f} }

type lines struct {
	f    func(string)
	rest []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := strings.Cut(string(l.rest), "\n")
		if !ok {
			if len(l.rest) > maxLog {
				l.rest = nil
			}
			return len(p), nil
		}
		l.f(line)
		l.rest = []byte(rest)
	}
}

func clipText(s string) string {
	const limit = 2048
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// absDir checks a folder that a caller of the control API names.
func absDir(dir string) error {
	if !filepath.IsAbs(dir) {
		return NewError(CodeUsage, fmt.Sprintf("folder %q is not an absolute path", dir), "")
	}
	return nil
}
