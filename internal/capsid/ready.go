package capsid

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cell.network/cell/internal/membrane"
	"cell.network/cell/internal/ops"
)

// exitGrace is how long a program that closed its link may take to end, so that
// the reason can be given instead of the symptom.
const exitGrace = 500 * time.Millisecond

// ErrNotReady is wrapped by every error of [Ready].
var ErrNotReady = errors.New("not ready")

// Ready waits until the program says over port, which speaks over p's link,
// that it serves. A program that ends instead, or says nothing until ctx is
// done, gives an error that says so. The program is not killed.
func Ready(ctx context.Context, p Proc, port *membrane.Port) (ops.Ready, error) {
	r, err := port.WaitReady(ctx)
	if err == nil {
		return r, nil
	}
	if ctx.Err() != nil {
		return ops.Ready{}, fmt.Errorf("%w: the program runs and has said nothing yet (is cell.Main the last call of its main?): %w", ErrNotReady, context.Cause(ctx))
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Wait() }()
	select {
	case status := <-ended:
		if status == nil {
			status = errors.New("exit status 0")
		}
		return ops.Ready{}, fmt.Errorf("%w: the program ended before it said so: %w", ErrNotReady, status)
	case <-time.After(exitGrace):
		return ops.Ready{}, fmt.Errorf("%w: %w", ErrNotReady, err)
	}
}
