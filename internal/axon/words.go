package axon

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/sec"
)

// What goes wrong between two hosts is told to people who look for the host,
// and know nothing of streams and their codes.

// unreached says why there is no connection to the node.
func (p *remote) unreached(err error) error {
	at := ""
	addrs := p.axon.host.Peerstore().Addrs(p.id)
	if len(addrs) > 0 {
		at = " at " + host.Foremost(addrs).String()
	}
	if more := len(addrs) - 1; more > 0 {
		at += fmt.Sprintf(" nor at %d other addresses", more)
	}
	var other sec.ErrPeerIDMismatch
	switch {
	case p.axon.ctx.Err() != nil:
		return errClosed
	case len(addrs) == 0:
		return errors.New("no address of the host is known")
	case errors.As(err, &other):
		return fmt.Errorf("the host is not%s: another one is", at)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("the host does not listen%s", at)
	case isSilence(err):
		return fmt.Errorf("the host does not answer%s", at)
	case isEnd(err):
		return fmt.Errorf("the host takes no connection%s", at)
	}
	return fmt.Errorf("the host cannot be reached%s", at)
}

// lost says how the connection that a lane was on came to its end.
func (p *remote) lost(cause error) string {
	p.mu.Lock()
	quiet := time.Since(p.heard)
	p.mu.Unlock()
	var conn *network.ConnError
	switch {
	case errors.Is(cause, frame.ErrClosed) || p.axon.ctx.Err() != nil:
		return "this node ended the connection"
	case isSilence(cause), errors.As(cause, &conn) && !conn.Remote && quiet >= silence: // given up by watch
		return fmt.Sprintf("the host fell silent %v ago", quiet.Round(max(time.Second, quiet/10)))
	case isEnd(cause):
		return "the host ended the connection"
	}
	return "the connection to the host broke"
}

// isSilence reports whether an error, or one of those that it joins, says that
// nothing came back.
func isSilence(err error) bool {
	if slow, ok := err.(interface{ Timeout() bool }); ok && slow.Timeout() {
		return true
	}
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), isSilence)
	case interface{ Unwrap() error }:
		return isSilence(e.Unwrap())
	}
	return false
}

// isEnd reports whether an error says that the other side hung up.
func isEnd(err error) bool {
	var conn *network.ConnError
	var stream *network.StreamError
	return errors.Is(err, io.EOF) || errors.As(err, &conn) && conn.Remote || errors.As(err, &stream) && stream.Remote
}
