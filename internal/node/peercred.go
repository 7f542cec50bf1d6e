package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
)

// peerKey carries who is at the other end of a control connection in its context.
type peerKey struct{}

type localPeer struct {
	uid  int
	err  error // uid is not known
	conn *limitedConn
}

// withPeer asks the system who opened a control connection.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	p := localPeer{err: errors.New("not a Unix socket")}
	if l, ok := c.(*limitedConn); ok {
		c, p.conn = l.Conn, l
	}
	if u, ok := c.(*net.UnixConn); ok {
		p.uid, p.err = socketUID(u)
	}
	return context.WithValue(ctx, peerKey{}, p)
}

// asked says that a request has come in full on the connection of ctx.
func asked(ctx context.Context) {
	if p, _ := ctx.Value(peerKey{}).(localPeer); p.conn != nil {
		p.conn.asked()
	}
}

// checkPeer lets in the user that the node runs as, and root. The folder's mode
// keeps others out already; this holds where someone changed it.
func checkPeer(ctx context.Context) error {
	p, _ := ctx.Value(peerKey{}).(localPeer)
	switch {
	case p.err != nil:
		return NewError(CodeRefused, "cannot tell who asks: "+p.err.Error(), "")
	case p.uid != 0 && p.uid != os.Getuid():
		return NewError(CodeRefused, fmt.Sprintf("user %d may not steer the node of user %d", p.uid, os.Getuid()), "set CELL_HOME and start a node of your own: cell up")
	}
	return nil
}
