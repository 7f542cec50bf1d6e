package frame

import (
	"context"
	"math"
	"sync"
	"time"
)

// inbound is one call of the peer while it is served, and the context of its
// handler. A context of its own kind costs a fraction of the standard ones:
// the channel and the timer are made only for handlers that ask for them.
type inbound struct {
	server   *server
	call     uint64
	request  Request
	deadline time.Time // zero: none
	gone     bool      // nobody waits for the response; guarded by server.mu
	start    uint32    // from Times; 0: nobody measures

	mu    sync.Mutex // guards all below
	err   error      // why the context ended
	done  chan struct{}
	timer *time.Timer
	after map[*func()]struct{} // run when the context ends
}

// deadlineIn turns the remaining microseconds of a header into a time.
func deadlineIn(remaining uint64) time.Time {
	if remaining == 0 || remaining > math.MaxInt64/uint64(time.Microsecond) {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(remaining) * time.Microsecond)
}

// Deadline implements [context.Context].
func (in *inbound) Deadline() (time.Time, bool) { return in.deadline, !in.deadline.IsZero() }

// Value implements [context.Context].
func (in *inbound) Value(any) any { return nil }

// Err implements [context.Context].
func (in *inbound) Err() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.err == nil && !in.deadline.IsZero() && !time.Now().Before(in.deadline) {
		in.endLocked(context.DeadlineExceeded)
	}
	return in.err
}

// Done implements [context.Context].
func (in *inbound) Done() <-chan struct{} {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.done == nil {
		in.done = make(chan struct{})
		if in.err != nil {
			close(in.done)
		}
		in.armLocked()
	}
	return in.done
}

// AfterFunc makes contexts derived from this one cost no goroutine; see [context.AfterFunc].
func (in *inbound) AfterFunc(f func()) (stop func() bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.err != nil {
		go f()
		return func() bool { return false }
	}
	if in.after == nil {
		in.after = make(map[*func()]struct{})
	}
	in.after[&f] = struct{}{}
	in.armLocked()
	return func() bool {
		in.mu.Lock()
		defer in.mu.Unlock()
		_, waiting := in.after[&f]
		delete(in.after, &f)
		return waiting
	}
}

func (in *inbound) armLocked() {
	if in.timer == nil && in.err == nil && !in.deadline.IsZero() {
		in.timer = time.AfterFunc(time.Until(in.deadline), func() { in.end(context.DeadlineExceeded) })
	}
}

// end ends the context; the first reason stays.
func (in *inbound) end(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.err == nil {
		in.endLocked(err)
	}
}

func (in *inbound) endLocked(err error) {
	in.err = err
	if in.done != nil {
		close(in.done)
	}
	if in.timer != nil {
		in.timer.Stop()
	}
	for f := range in.after {
		go (*f)()
	}
	in.after = nil
}
