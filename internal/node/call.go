package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/mesh"
	"cell.network/cell/internal/record"
)

// Call sends a request of a program on this machine to a replica of the cell
// that its target names, here or on another host. Errors are a [*frame.Error].
//
// A request that certainly reached nobody is tried on the next endpoint; one
// whose outcome is unknown is not, so no request is executed twice.
func (n *Node) Call(ctx context.Context, r frame.Request) (frame.Response, error) {
	t, ok := n.targets.get(r.Target)
	if !ok {
		ref, method, err := identity.ParseMethod(r.Target)
		if err != nil {
			return frame.Response{}, &frame.Error{Code: frame.Invalid, Message: err.Error()}
		}
		cell, err := n.resolve(ref)
		if err != nil {
			return frame.Response{}, &frame.Error{Code: frame.NoReplica, Message: err.Error(), Hint: "name the author by key, or give him a petname: cell trust add NAME KEY"}
		}
		t = target{cell, cell.String() + "/" + method}
		n.targets.put(r.Target, t)
	}
	r.Target = t.full
	return n.callAnywhere(ctx, t.cell, r)
}

// callAnywhere sends a request to one of those who serve the cell, here or
// elsewhere. Where there is nobody, it may wait for one to come, and choose anew.
func (n *Node) callAnywhere(ctx context.Context, cell identity.Cell, r frame.Request) (frame.Response, error) {
	for until := (time.Time{}); ; {
		res, err := n.callCheapest(ctx, cell, r, &until)
		if !retriable(err) || codeOf(err) == frame.Overloaded || !n.hold(ctx, cell, &until) || time.Now().After(until) {
			return res, err
		}
	}
}

// callCheapest tries those who are known to serve the cell, the cheapest first,
// and then those who are discovered. Where none is known it may hold the request,
// but not beyond until.
func (n *Node) callCheapest(ctx context.Context, cell identity.Cell, r frame.Request, until *time.Time) (frame.Response, error) {
	var t tries
	var room [8]option
	for held := false; ; {
		options := n.options(room[:0], cell, &t)
		if len(options) == 0 && !held && n.knows(cell) { // its hosts are known: if it sleeps, they are told before anybody is searched for
			held = true
			n.hold(ctx, cell, until)
			continue
		}
		if len(options) == 0 {
			break
		}
		best, greet, s := 0, -1, sent{}
		if len(options) > 1 { // else there is nothing to choose, and nothing to remember
			best, greet, s = n.balance.choose(cell, options, time.Now())
		}
		if greet >= 0 {
			n.greet(cell, options[greet].via)
		}
		if res, err := n.send(ctx, cell, r, options[best], s, &t); !retriable(err) {
			return res, err
		}
	}
	for ep, err := range n.mesh.Discover(ctx, cell) {
		if err != nil {
			return frame.Response{}, t.failure(ctx, cell, err)
		}
		if ep.Node == n.self || t.asked(&ep) {
			continue
		}
		o := option{place: place{node: ep.Node}, via: &ep}
		if res, err := n.send(ctx, cell, r, o, sent{}, &t); !retriable(err) {
			return res, err
		}
	}
	return frame.Response{}, t.failure(ctx, cell, nil)
}

// options appends to list the places that are known to serve the cell and have
// not been tried. It looks anew each time: a replica that drains has a successor.
func (n *Node) options(list []option, cell identity.Cell, t *tries) []option {
	n.mu.Lock()
	if s := n.services[cell]; s != nil {
		for _, x := range s.replicas {
			if x.getState() == ReplicaAlive && !slices.Contains(t.replicas, x) {
				list = append(list, option{place: place{replica: x}, inflight: x.trunk.Inflight(), leaving: x.parting.Load()})
			}
		}
	}
	n.mu.Unlock()
	others := n.mesh.Cached(cell)
	for i := range others {
		if ep := &others[i]; !t.asked(ep) && !n.isSilent(ep.Node) {
			list = append(list, option{place: place{node: ep.Node}, leaving: ep.Draining(), via: ep})
		}
	}
	if len(list) == 0 {
		list = n.partnersWith(list, cell, t)
	}
	return list
}

// partnersWith appends the hosts whose rows say that they have a live replica:
// they know of it before its lease has come.
func (n *Node) partnersWith(list []option, cell identity.Cell, t *tries) []option {
	if !n.knows(cell) {
		return list
	}
	rows := n.pulse.Rows()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, o := range n.siftLocked(rows, time.Now())[cell] {
		live := slices.ContainsFunc(o.cell.Replicas, func(r record.RowReplica) bool { return r.State == record.ReplicaLive })
		ep := &mesh.Endpoint{Node: o.node, Addrs: n.partnersKnown[o.node].addrs, Tier: mesh.TierCache}
		if live && o.age <= hostSilent && len(ep.Addrs) > 0 && !t.asked(ep) {
			list = append(list, option{place: place{node: o.node}, via: ep})
		}
	}
	return list
}

// knows reports whether this node has code of the cell, or was told about it.
func (n *Node) knows(cell identity.Cell) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.services[cell] != nil
}

// send sends a request to a place where a call was counted as begun, and notes
// a refusal.
func (n *Node) send(ctx context.Context, cell identity.Cell, r frame.Request, to option, s sent, t *tries) (res frame.Response, err error) {
	if to.replica != nil {
		res, err = to.replica.call(ctx, r)
	} else {
		if res, err = n.axon.Call(ctx, to.node, to.via.Addrs, r); codeOf(err) == frame.Unavailable {
			e := *frame.AsError(err)
			e.Message = to.node.Short() + ": " + e.Message // the host is to blame, not the cell
			err = &e
		}
	}
	if s.load != nil {
		n.balance.end(s, err, time.Now())
	}
	if !retriable(err) {
		return res, err
	}
	t.refused(to, err)
	switch {
	case to.replica != nil, codeOf(err) == frame.Overloaded, codeOf(err) == frame.Draining:
	default:
		n.mesh.Forget(cell, to.node)
	}
	return res, err
}

// greetTime is how long a node that is greeted may take to answer.
const greetTime = 2 * time.Second

// greet sees in the background whether a node can be reached, and how far it
// is, before requests depend on it.
func (n *Node) greet(cell identity.Cell, ep *mesh.Endpoint) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.leaving {
		return
	}
	n.wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), greetTime)
		defer cancel()
		trip, err := n.axon.Ping(ctx, ep.Node, ep.Addrs)
		n.balance.greeted(cell, ep.Node, trip, err, time.Now())
		if codeOf(err) == frame.NotSent {
			n.mesh.Forget(cell, ep.Node)
		}
	})
}

// tries are the places that refused a request, and why.
type tries struct {
	replicas []*replica
	nodes    []try
	here     error    // of the replicas
	busy     error    // of nodes that may be asked again
	others   []string // of other nodes, for people
}

// try is one attempt to have another node take the request.
type try struct {
	node  identity.Key
	order record.Order // of the lease
}

// asked reports whether a node was tried; one that has announced itself anew
// since, perhaps at another address, may be tried a second time.
func (t *tries) asked(ep *mesh.Endpoint) bool {
	times := 0
	for _, x := range t.nodes {
		if x.node == ep.Node {
			if times++; times == 2 || x.order == ep.Lease.Order {
				return true
			}
		}
	}
	return false
}

// refused notes why a place did not take the request.
func (t *tries) refused(by option, err error) {
	if by.replica != nil {
		t.replicas, t.here = append(t.replicas, by.replica), worse(err, t.here)
		return
	}
	t.nodes = append(t.nodes, try{by.node, by.via.Lease.Order})
	if codeOf(err) == frame.Overloaded {
		t.busy = err
		return
	}
	t.others = append(t.others, fmt.Sprintf("%s (%s): %v", by.node.Short(), by.via.Tier, err))
}

// failure is what a caller is told when nobody took the request; err is what
// discovery said, or nil.
func (t *tries) failure(ctx context.Context, cell identity.Cell, err error) error {
	return worse(t.here, worse(t.busy, notFound(ctx, cell, err, t.others)))
}

func (n *Node) resolve(ref identity.Ref) (identity.Cell, error) {
	n.mu.Lock()
	s := n.settings
	n.mu.Unlock()
	return ref.Resolve(s.DefaultAuthor(n.cfg.Author), s.Authors)
}

// retriable reports whether err says that this endpoint did not take the
// request, so that another may be tried. A refusal for cause, such as an
// unknown method, is an answer.
func retriable(err error) bool {
	switch codeOf(err) {
	case frame.NotSent, frame.NoReplica, frame.Draining, frame.Overloaded:
		return true
	}
	return false
}

// codeOf returns the code of an error, OK for nil and for one that has none.
func codeOf(err error) frame.Code {
	if err == nil {
		return frame.OK
	}
	if e, ok := err.(*frame.Error); ok {
		return e.Code
	}
	var e *frame.Error
	if !errors.As(err, &e) {
		return frame.OK
	}
	return e.Code
}

// worse keeps the error that tells a caller more: that a replica is overloaded
// rather than that another is gone.
func worse(a, b error) error {
	if c := codeOf(a); c != frame.OK && c != frame.NoReplica {
		return a
	}
	return b
}

// callHere tries the replicas on this node, the least busy first.
func (n *Node) callHere(ctx context.Context, cell identity.Cell, r frame.Request) (frame.Response, error) {
	var last error
	var tried []*replica
	for x := n.leastBusy(cell, tried); x != nil; x = n.leastBusy(cell, tried) {
		res, err := x.call(ctx, r)
		if !retriable(err) {
			return res, err
		}
		last, tried = worse(err, last), append(tried, x)
	}
	if last == nil {
		last = &frame.Error{Code: frame.NoReplica, Message: "no replica of " + cell.Short() + " on this node"}
	}
	return frame.Response{}, last
}

// leastBusy returns the replica to call next, nil where there is none but
// tried. It looks anew each time: one that drains has a successor.
func (n *Node) leastBusy(cell identity.Cell, tried []*replica) *replica {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.services[cell]
	if s == nil {
		return nil
	}
	var best *replica
	for _, x := range s.replicas {
		if x.getState() != ReplicaAlive || slices.Contains(tried, x) {
			continue
		}
		if best == nil || x.trunk.Inflight() < best.trunk.Inflight() {
			best = x
		}
	}
	return best
}

// notFound says why no replica was found, and what to do.
func notFound(ctx context.Context, cell identity.Cell, err error, tried []string) error {
	e := &frame.Error{
		Code: frame.NoReplica, Message: "no replica of " + cell.Short() + " answers",
		Hint: nobodyHint(err, "see who serves it: cell lookup "+string(cell.Name)+"; start it where its source is: cell run DIR"),
	}
	if ctx.Err() != nil {
		e.Code, e.Message = frame.Timeout, "time ran out before a replica of "+cell.Short()+" was found"
	}
	var nf *mesh.NotFound
	switch {
	case len(tried) > 0:
		e.Message += ": " + strings.Join(tried, "; ")
	case errors.As(err, &nf):
		e.Message = nf.Error()
	case err != nil:
		e.Message += ": " + err.Error()
	}
	return e.Clip()
}

// serveRemote answers another node's request from replicas on this node only:
// requests are never passed on a second time.
func (n *Node) serveRemote(ctx context.Context, _ identity.Key, r frame.Request) (frame.Response, error) {
	t, ok := n.served.get(r.Target)
	if !ok {
		ref, _, err := identity.ParseMethod(r.Target)
		if err != nil {
			return frame.Response{}, &frame.Error{Code: frame.Invalid, Message: err.Error()}
		}
		author, err := identity.ParseKey(ref.Author)
		if err != nil {
			return frame.Response{}, &frame.Error{Code: frame.Invalid, Message: "a request between nodes names the author by key"}
		}
		t = target{identity.Cell{Author: author, Name: ref.Name}, r.Target}
		n.served.put(r.Target, t)
	}
	return n.callHere(ctx, t.cell, r)
}
