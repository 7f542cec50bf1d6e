package axon

import (
	"context"
	"errors"
	"sync"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// What other nodes may take of this one: each of them, and all together.
const (
	guestLanes = 8 // twice what an honest node opens: it may replace lanes before this one sees them end
	doorLanes  = 1024

	guestCalls = frame.MaxInflight / 4 // being served: one of them must not take all that a replica is asked at once
	doorCalls  = 8192

	small        = 64 << 10 // bytes of a body that is not counted
	guestReading = 8 << 20  // bytes of requests that are being received; more wait
	doorReading  = 64 << 20
	guestMemory  = 32 << 20 // bytes of requests being served and responses being sent; more are refused
	doorMemory   = 256 << 20
)

// valued is how much a node with lanes to this one counts when the connection
// manager chooses whom to disconnect.
const valued = 10

// door lets in the lanes of other nodes.
type door struct {
	axon    *Axon
	calls   budget
	reading budget
	memory  budget

	mu       sync.Mutex // guards what follows
	guests   map[peer.ID]*guest
	lanes    map[*visit]struct{}
	shut     bool
	draining bool
}

// guest is a node that calls this one.
type guest struct {
	door    *door
	id      peer.ID
	key     identity.Key
	lanes   int // guarded by door.mu
	calls   budget
	reading budget
	memory  budget
}

// visit is a lane of a guest.
type visit struct {
	conn   *frame.Conn
	served uint64    // when last looked at; guarded by door.mu
	active time.Time // when that had changed; guarded by door.mu
}

func newDoor(a *Axon) *door {
	return &door{
		axon: a, guests: make(map[peer.ID]*guest), lanes: make(map[*visit]struct{}),
		calls: budget{free: doorCalls}, reading: budget{free: doorReading}, memory: budget{free: doorMemory},
	}
}

// accept serves a lane until it ends.
func (d *door) accept(s network.Stream) {
	d.mu.Lock()
	g, err := d.admitLocked(s.Conn().RemotePeer())
	if err != nil {
		d.mu.Unlock()
		_ = s.ResetWithError(network.StreamResourceLimitExceeded)
		return
	}
	ctx, stop := context.WithCancel(d.axon.ctx)
	in := &inward{Stream: s, guest: g, ctx: ctx, stop: stop}
	v := &visit{active: time.Now()}
	serve := frame.Handler(g.serve)
	if s.Conn().Stat().Limited {
		serve = answers(s.Conn(), serve)
	}
	v.conn = frame.NewConn(in, frame.Config{Handler: serve})
	d.lanes[v] = struct{}{}
	if d.draining {
		over, cancel := context.WithCancel(ctx)
		cancel()
		_ = v.conn.Drain(over) // refuses from now on
	}
	d.axon.work.Go(func() {
		<-v.conn.Done()
		in.release()
		stop()
		d.leave(g, v)
	})
	d.mu.Unlock()
}

var (
	errFull = errors.New("no room for another lane")
	errShut = errors.New("shutting down")
)

// admitLocked counts a new lane of a node.
func (d *door) admitLocked(id peer.ID) (*guest, error) {
	g := d.guests[id]
	switch {
	case d.shut:
		return nil, errShut
	case len(d.lanes) >= doorLanes, g != nil && g.lanes >= guestLanes:
		return nil, errFull
	case g == nil:
		key, err := host.KeyOf(id)
		if err != nil {
			return nil, err
		}
		g = &guest{
			door: d, id: id, key: key,
			calls: budget{free: guestCalls}, reading: budget{free: guestReading}, memory: budget{free: guestMemory},
		}
		d.guests[id] = g
		d.axon.host.ConnManager().TagPeer(id, protected, valued)
	}
	g.lanes++
	return g, nil
}

func (d *door) leave(g *guest, v *visit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.lanes, v)
	if g.lanes--; g.lanes == 0 {
		delete(d.guests, g.id)
		d.axon.host.ConnManager().UntagPeer(g.id, protected)
	}
}

// serve answers one request of a guest.
func (g *guest) serve(ctx context.Context, r frame.Request) (frame.Response, error) {
	switch {
	case r.Target == "":
		return frame.Response{}, nil
	case g.door.axon.cfg.Handler == nil:
		return frame.Response{}, refuse(frame.NoMethod, "this node serves nothing")
	case !take(1, &g.calls, &g.door.calls):
		return frame.Response{}, refuse(frame.Overloaded, "this node serves too many requests already")
	}
	defer give(1, &g.calls, &g.door.calls)
	if n := len(r.Body); n > small {
		if !take(n, &g.memory, &g.door.memory) {
			return frame.Response{}, refuse(frame.Overloaded, "requests and responses under way hold too much memory of this node")
		}
		defer give(n, &g.memory, &g.door.memory)
	}
	resp, err := g.door.axon.cfg.Handler(ctx, g.key, r)
	if n := len(resp.Body); err == nil && n > small {
		if !take(n, &g.memory, &g.door.memory) {
			return frame.Response{}, refuse(frame.Unavailable, "the response was dropped: others that wait to be read hold too much memory of this node")
		}
		context.AfterFunc(ctx, func() { g.sent(ctx, n) })
	}
	return resp, err
}

// sent gives the memory of a response back. The context of a call ends when its
// response is written; where it ends with the caller's deadline the response
// may still wait, though not for longer than a Write may take.
func (g *guest) sent(ctx context.Context, n int) {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		time.AfterFunc(allowance(n), func() { give(n, &g.memory, &g.door.memory) })
		return
	}
	give(n, &g.memory, &g.door.memory)
}

// take takes n of each budget, or nothing.
func take(n int, one, all *budget) bool {
	if !one.try(n) {
		return false
	}
	if !all.try(n) {
		one.give(n)
		return false
	}
	return true
}

func give(n int, one, all *budget) {
	one.give(n)
	all.give(n)
}

// closeIdle closes the lanes on which nothing has been served since before:
// honest callers close theirs earlier.
func (d *door) closeIdle(before time.Time) {
	d.mu.Lock()
	var idle []*frame.Conn
	for v := range d.lanes {
		if n := v.conn.Served(); n != v.served || v.conn.Serving() > 0 {
			v.served, v.active = n, time.Now()
		} else if v.active.Before(before) {
			idle = append(idle, v.conn)
		}
	}
	d.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
}

func (d *door) conns() []*frame.Conn {
	all := make([]*frame.Conn, 0, len(d.lanes))
	for v := range d.lanes {
		all = append(all, v.conn)
	}
	return all
}

func (d *door) drain(ctx context.Context) error {
	d.mu.Lock()
	d.draining = true
	all := d.conns()
	d.mu.Unlock()
	var lanes sync.WaitGroup
	errs := make([]error, len(all))
	for i, c := range all {
		lanes.Go(func() { errs[i] = c.Drain(ctx) })
	}
	lanes.Wait()
	return errors.Join(errs...)
}

// close ends all lanes and waits for their handlers.
func (d *door) close() {
	d.mu.Lock()
	d.shut = true
	all := d.conns()
	d.mu.Unlock()
	var lanes sync.WaitGroup
	for _, c := range all {
		lanes.Go(func() { c.Close() })
	}
	lanes.Wait()
	_ = d.calls.wait(context.Background(), doorCalls) // all of them are back
}
