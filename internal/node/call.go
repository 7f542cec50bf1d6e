package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/mesh"
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

// callAnywhere tries this node's replicas, then those of others.
func (n *Node) callAnywhere(ctx context.Context, cell identity.Cell, r frame.Request) (frame.Response, error) {
	res, here := n.callHere(ctx, cell, r)
	if !retriable(here) {
		return res, here
	}
	res, there := n.callThere(ctx, cell, r)
	if retriable(there) {
		return res, worse(here, there)
	}
	return res, there
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
	var e *frame.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case frame.NotSent, frame.NoReplica, frame.Draining, frame.Overloaded:
		return true
	}
	return false
}

// worse keeps the error that tells a caller more: that a replica is overloaded
// rather than that another is gone.
func worse(a, b error) error {
	var e *frame.Error
	if errors.As(a, &e) && e.Code != frame.NoReplica {
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

// callThere discovers other nodes that serve the cell and tries them as they
// are found.
func (n *Node) callThere(ctx context.Context, cell identity.Cell, r frame.Request) (frame.Response, error) {
	var tried []string
	var last error
	for ep, err := range n.mesh.Discover(ctx, cell) {
		if err != nil {
			return frame.Response{}, notFound(ctx, cell, err, tried)
		}
		if ep.Node == n.self {
			continue
		}
		res, err := n.axon.Call(ctx, ep.Node, ep.Addrs, r)
		if !retriable(err) {
			return res, err
		}
		if errors.Is(err, &frame.Error{Code: frame.Overloaded}) {
			last = err // it is there, and may be asked again
			continue
		}
		if !errors.Is(err, &frame.Error{Code: frame.Draining}) {
			n.mesh.Forget(cell, ep.Node)
		}
		tried = append(tried, fmt.Sprintf("%s (%s): %v", ep.Node.Short(), ep.Tier, err))
	}
	return frame.Response{}, worse(last, notFound(ctx, cell, nil, tried))
}

// notFound says why no replica was found, and what to do.
func notFound(ctx context.Context, cell identity.Cell, err error, tried []string) error {
	e := &frame.Error{
		Code: frame.NoReplica, Message: "no replica of " + cell.Short() + " answers",
		Hint: "see who serves it: cell lookup " + string(cell.Name) + "; start it where its source is: cell run DIR",
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
