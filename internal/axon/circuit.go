package axon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"github.com/libp2p/go-libp2p/core/network"
)

// A relay passes on a bounded number of bytes for each connection, and ends the
// connection with the first one beyond, with it every call under way. So what
// does not fit is refused before.
const (
	spare = 4 << 10 // bytes of what is left that no request may take: for acknowledgements and signs of life
	share = 16      // one byte in so many goes for packets and repetitions, at most
	chunk = 8 << 10 // bytes written at a time, so that what waits to be written is known well
)

// onCircuit returns how many bytes n bytes take on a circuit.
func onCircuit(n int) int64 { return int64(n + n/share + frame.HeaderSize) }

// superseded reports whether new calls belong on another connection.
func (l *lane) superseded() bool {
	return l.relayed && l.axon.host.Superseded(l.stream.Conn())
}

// admit takes note of a request that is about to go on a lane that pick
// returned; it is refused where a relay would not pass all of it on.
func (p *remote) admit(l *lane, r frame.Request) error {
	if !l.relayed {
		return nil
	}
	n := len(r.Target) + len(r.Body)
	need := onCircuit(n)
	if need+spare > host.RelayBytes {
		return &frame.Error{Code: frame.TooLarge,
			Message: fmt.Sprintf("the node is reached over a relay, which passes on %d bytes at most, and the request has %d", host.RelayBytes, len(r.Body)),
			Hint:    "send less at a time, or try again: a direct connection may come to be"}
	}
	c, ok := host.CircuitOf(l.stream.Conn())
	if !ok {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	left := c.Left - spare
	for _, o := range p.lanes {
		if o.stream.Conn() == l.stream.Conn() {
			left -= o.waitingLocked()
		}
	}
	if need > left {
		hint := "send less at a time, or try again: a direct connection may come to be"
		if !c.Until.IsZero() {
			hint += fmt.Sprintf(", and after %s the relay begins anew", c.Until.UTC().Format(time.TimeOnly+" MST"))
		}
		return &frame.Error{Code: frame.NotSent,
			Message: fmt.Sprintf("the relay to the node passes on %d more bytes, and the request has %d", max(0, left), len(r.Body)), Hint: hint}
	}
	l.handed += int64(frame.HeaderSize + n)
	return nil
}

// waitingLocked is what the requests that a lane has not written yet will take.
func (l *lane) waitingLocked() int64 {
	return onCircuit(int(max(0, l.handed-l.stream.written.Load())))
}

// mourn says of a call that was lost with its relayed connection why that
// ended: where it had come to a limit of the relay, nothing had broken.
func (l *lane) mourn(err error) error {
	cause := l.conn.Err()
	if !l.relayed || cause == nil || errors.Is(cause, frame.ErrClosed) {
		return err
	}
	e := *frame.AsError(err)
	c, _ := host.CircuitOf(l.stream.Conn())
	limit := ""
	switch {
	case host.Spent(cause):
		limit = "all that it does for one connection"
	case !c.Until.IsZero() && time.Until(c.Until) < time.Second:
		limit = "for as long as it does for one connection"
	}
	switch {
	case limit == "":
		e.Message += ": it went over a relay"
	case e.Code == frame.NotSent:
		e.Message = fmt.Sprintf("the relay to the host had passed on %s before the request was sent", limit)
	default:
		e.Message = fmt.Sprintf("the relay to the host had passed on %s and cut it off; whether the request was executed is not known", limit)
	}
	e.Hint = fmt.Sprintf("a relay passes on %d KiB each way and for %v at most, until the nodes reach each other directly", host.RelayBytes>>10, host.RelayTime)
	return &e
}

// answers returns a handler for a lane over a relay: responses that the relay
// would not pass on are replaced by an error.
func answers(c network.Conn, h frame.Handler) frame.Handler {
	return func(ctx context.Context, r frame.Request) (frame.Response, error) {
		resp, err := h(ctx, r)
		if left, ok := host.CircuitOf(c); ok && err == nil && len(resp.Body) > spare && onCircuit(len(resp.Body))+spare > left.Left {
			return frame.Response{}, &frame.Error{Code: frame.TooLarge,
				Message: fmt.Sprintf("the request was executed, but its response has %d bytes, and the relay passes on %d more", len(resp.Body), max(0, left.Left-spare)),
				Hint:    "ask for less at a time, or try again: a direct connection may come to be"}
		}
		return resp, err
	}
}
