package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
)

// peerKey carries the user id of a control connection's other end in its context.
type peerKey struct{}

type peerUID struct {
	uid int
	err error
}

// withPeer asks the system who opened a control connection.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	p := peerUID{err: errors.New("not a Unix socket")}
	if l, ok := c.(*limitedConn); ok {
		c = l.Conn
	}
	if u, ok := c.(*net.UnixConn); ok {
		p.uid, p.err = socketUID(u)
	}
	return context.WithValue(ctx, peerKey{}, p)
}

// checkPeer lets in the user that the node runs as, and root. The folder's mode
// keeps others out already; this holds where someone changed it.
func checkPeer(ctx context.Context) error {
	p, _ := ctx.Value(peerKey{}).(peerUID)
	switch {
	case p.err != nil:
		return NewError(CodeRefused, "cannot tell who asks: "+p.err.Error(), "")
	case p.uid != 0 && p.uid != os.Getuid():
		return NewError(CodeRefused, fmt.Sprintf("user %d may not steer the node of user %d", p.uid, os.Getuid()), "set CELL_HOME and start a node of your own: cell up")
	}
	return nil
}
