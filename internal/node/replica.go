package node

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"cell.network/cell/internal/autonomic"
	"cell.network/cell/internal/capsid"
	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/membrane"
	"cell.network/cell/internal/mesh"
	"cell.network/cell/internal/record"
)

const (
	readyTime = 8 * time.Second // for a replica to say that it is ready; less than a claim counts
	maxExited = 8               // ended replicas of a cell that `cell ps` still shows
)

// service is a cell that this node serves, could serve, or was told about.
type service struct {
	cell identity.Cell
	log  *replicaLog

	// All guarded by Node.mu.
	lease      *mesh.Lease
	replicas   []*replica  // in order of their start
	exited     []Replica   // the last few
	deploy     *deployment // nil: this node cannot start it
	drained    bool        // the operator wants none of it on this node
	claims     []*claim
	mourned    []mourned
	population record.Population // the operator's word on how many; zero: none
	refused    []byte            // a word on it that did not count
	waiting    int               // requests held until there is a replica
	searched   bool              // that was done at least once, so that decisions can be taken
	known      time.Time         // when this record was made
	search     time.Time         // when to look next for others who have it
	searches   int               // how often that was done
	memory     autonomic.Memory
	decision   autonomic.Decision
	said       string        // what the journal was last told of decisions
	decided    chan struct{} // closed and replaced with every decision
}

// replica is one process of a service.
type replica struct {
	id                 string
	number, generation uint64
	started            time.Time
	proc               capsid.Proc
	port               *membrane.Port
	trunk              *frame.Conn // carries the calls that this node passes on
	methods            []string
	drain              time.Duration // to finish what is in flight
	spawned            string        // id of the event
	done               chan struct{}

	served  atomic.Uint64 // calls that went through trunk
	parting atomic.Bool   // it drains soon: others have been told, and it takes requests until they know
	told    atomic.Bool   // it was told to drain

	handing sync.Mutex // held while a connection is handed over: none comes after the word to drain

	mu     sync.Mutex
	state  string // guarded by mu
	vitals vitals // guarded by mu
}

// hand gives the replica a connection of another one, unless it is to end.
func (r *replica) hand(c net.Conn) error {
	r.handing.Lock()
	defer r.handing.Unlock()
	if r.getState() != ReplicaAlive {
		_ = c.Close()
		return &frame.Error{Code: frame.Draining}
	}
	return r.port.Hand(c)
}

// tellDrain lets the replica finish what it has, and waits until it has or ctx ends.
func (r *replica) tellDrain(ctx context.Context) error {
	r.handing.Lock() // connections that were handed over before come first
	r.setState(ReplicaDraining)
	r.handing.Unlock()
	return r.port.Drain(ctx)
}

// call passes a request on to the replica.
func (r *replica) call(ctx context.Context, req frame.Request) (frame.Response, error) {
	res, err := r.trunk.Call(ctx, req)
	if !retriable(err) {
		r.served.Add(1)
	}
	return res, err
}

func (r *replica) setState(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = s
}

func (r *replica) getState() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// spawn starts the replica of a claim and waits until it is ready.
func (n *Node) spawn(ctx context.Context, s *service, d *deployment, c *claim, cause string) (*replica, error) {
	cell, m := s.cell, d.manifest
	id := string(cell.Name) + "-" + strconv.FormatUint(c.number, 10)
	proc, err := n.cfg.Starter.Start(ctx, capsid.Spec{
		Path: d.program, Args: []string{"--membrane"}, Env: []string{"CELL_NAME=" + cell.String(), "CELL_REPLICA=" + id},
		Log: s.log,
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", id, err)
	}
	r := &replica{id: id, number: c.number, generation: c.generation, started: time.Now(), proc: proc, drain: m.Run.Drain, done: make(chan struct{}), state: ReplicaStarting}
	r.spawned = n.event(journal.Spawn, cause, cell.String(), "started "+id, map[string]any{
		"replica": id, "pid": proc.PID(), "enforced": proc.Enforced(), "not_enforced": proc.NotEnforced(),
	})
	r.port = membrane.NewPort(proc.Link(), membrane.PortConfig{
		Pair:      n.cfg.Pair,
		OnConnect: func(_ context.Context, target string) (net.Conn, error) { return n.connectReplica(cell, id, m, target) },
	})
	ready, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	if err := r.handshake(ready); err != nil {
		_ = proc.Kill()
		_ = r.port.Close()
		_ = proc.Wait()
		n.event(journal.Exit, r.spawned, cell.String(), clipText(id+" never became ready: "+err.Error()), map[string]any{"replica": id})
		return nil, fmt.Errorf("start %s: %w", id, err)
	}
	n.event(journal.Ready, r.spawned, cell.String(), id+" takes requests", map[string]any{
		"replica": id, "methods": r.methods, "took_ms": time.Since(r.started).Milliseconds(),
	})
	r.setState(ReplicaAlive)
	n.wg.Go(func() { n.watch(s, r, proc.Wait()) })
	n.wg.Go(func() { n.observe(r, m.Limits.CPU) })
	return r, nil
}

// handshake waits until the replica serves, and opens the trunk.
func (r *replica) handshake(ctx context.Context) error {
	hello, err := capsid.Ready(ctx, r.proc, r.port)
	if err != nil {
		return err
	}
	r.methods = hello.Methods
	if r.trunk, err = r.port.Dial(ctx); err != nil {
		return err
	}
	_, _, err = r.port.Ping(ctx)
	return err
}

// watch waits in its own goroutine for the replica's end and clears up.
func (n *Node) watch(s *service, r *replica, exit error) {
	cell := s.cell
	words := "ended in good order"
	if exit != nil {
		words = exit.Error()
	}
	_ = r.trunk.Close()
	_ = r.port.Close()
	view := r.view(cell)
	view.State, view.Exit = ReplicaExited, words
	id := n.event(journal.Exit, r.spawned, cell.String(), r.id+": "+words, map[string]any{"replica": r.id})

	n.mu.Lock()
	s.replicas = slices.DeleteFunc(s.replicas, func(x *replica) bool { return x == r })
	s.exited = append(s.exited, view)
	s.exited = s.exited[max(0, len(s.exited)-maxExited):]
	last := len(s.replicas) == 0
	if r.rowState() != record.ReplicaDraining { // nobody asked it to end
		state := record.ReplicaDead
		if time.Since(r.started) < autonomic.Newborn {
			state = record.ReplicaFailed
		}
		s.mourn(r.number, r.generation, state)
	}
	n.mu.Unlock()
	if last {
		n.withdraw(s, id, func() bool { return len(s.replicas) == 0 })
	}
	close(r.done)
	n.changed()
}

func (r *replica) view(cell identity.Cell) Replica {
	state := r.getState()
	if r.parting.Load() && state == ReplicaAlive {
		state = ReplicaDraining
	}
	v := Replica{
		ID: r.id, Cell: cell.String(), State: state, PID: r.proc.PID(), Started: r.started,
		Methods: r.methods, Enforced: r.proc.Enforced(), NotEnforced: r.proc.NotEnforced(),
	}
	if r.trunk != nil {
		v.Served, v.Inflight = r.served.Load(), r.trunk.Inflight()
	}
	return v
}
