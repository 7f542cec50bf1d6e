package node

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/membrane"
)

// maxRelays is how many connections of one replica this node passes on: as many
// as an honest one opens. Each costs the node a descriptor, and a replica can
// spread its ends over many processes.
const maxRelays = membrane.MaxConns

// relayDrain bounds the calls in flight on a relay that is given up.
const relayDrain = time.Minute

// relay is what is known of a connection that this node passes on.
type relay struct {
	replica string        // that calls
	cell    identity.Cell // that it calls
}

// connectReplica gives a replica a connection to a cell that its manifest
// needs. Where the other one runs here too, the two talk directly afterwards;
// else this node passes the requests on.
func (n *Node) connectReplica(from identity.Cell, id string, m Manifest, target string) (net.Conn, error) {
	cell, ok, err := n.needed(m, target)
	if err != nil {
		return nil, err
	}
	if !ok {
		n.refuseReplica(from, target)
		return nil, &frame.Error{Code: frame.Refused, Message: fmt.Sprintf("%q is not in [needs] of %s", target, from.Name), Hint: "name it in Cell.toml under [needs], with its author"}
	}
	var tried []*replica
	for x := n.leastBusy(cell, tried); x != nil; x = n.leastBusy(cell, tried) {
		tried = append(tried, x)
		theirs, ours, err := n.cfg.Pair()
		if err != nil {
			return nil, fmt.Errorf("make connection: %w", err)
		}
		if x.hand(ours) == nil {
			return theirs, nil
		}
		_ = theirs.Close()
	}
	return n.passOn(relay{id, cell})
}

// needed returns the cell that a replica means by target: a name under [needs],
// or a cell named there in full, as in "ledger@z6Mk…".
func (n *Node) needed(m Manifest, target string) (cell identity.Cell, ok bool, err error) {
	if ref, ok := m.Needs[identity.Name(target)]; ok {
		if cell, err = n.resolve(ref); err != nil {
			return cell, false, &frame.Error{Code: frame.NoReplica, Message: err.Error()}
		}
		return cell, true, nil
	}
	ref, err := identity.ParseRef(target)
	if err != nil || ref.Author == "" {
		return cell, false, nil
	}
	if cell, err = n.resolve(ref); err != nil {
		return cell, false, nil
	}
	for _, need := range m.Needs {
		if c, err := n.resolve(need); err == nil && c == cell {
			return cell, true, nil
		}
	}
	return cell, false, nil
}

// passOn returns a connection on which this node takes requests for a cell that
// runs elsewhere.
func (n *Node) passOn(to relay) (net.Conn, error) {
	theirs, ours, err := n.cfg.Pair()
	if err != nil {
		return nil, fmt.Errorf("make connection: %w", err)
	}
	c := frame.NewConn(ours, frame.Config{Handler: func(ctx context.Context, r frame.Request) (frame.Response, error) {
		_, method, ok := strings.Cut(r.Target, "/")
		if !ok {
			return frame.Response{}, &frame.Error{Code: frame.Invalid, Message: "a target is written cell/method"}
		}
		r.Target = to.cell.String() + "/" + method
		return n.callAnywhere(ctx, to.cell, r)
	}})
	if !n.addRelay(c, to) {
		_, _ = c.Close(), theirs.Close()
		return nil, &frame.Error{Code: frame.Overloaded, Message: fmt.Sprintf("%d connections are open, no more are allowed", maxRelays)}
	}
	n.wg.Go(func() {
		<-c.Done()
		n.mu.Lock()
		delete(n.relays, c)
		n.mu.Unlock()
	})
	return theirs, nil
}

// addRelay notes a connection that is passed on for a replica, unless it has too many.
func (n *Node) addRelay(c *frame.Conn, to relay) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	open := 0
	for _, r := range n.relays {
		if r.replica == to.replica {
			open++
		}
	}
	if open >= maxRelays {
		return false
	}
	n.relays[c] = to
	return true
}

// endRelaysLocked gives up the relays to a cell that now runs here too: the replicas
// connect anew, and talk with it directly.
func (n *Node) endRelaysLocked(cell identity.Cell) {
	for c, r := range n.relays {
		if r.cell != cell {
			continue
		}
		n.wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), relayDrain)
			defer cancel()
			_ = c.Drain(ctx)
			_ = c.Close()
		})
	}
}
