package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"cell.network/cell/internal/frame"
)

// callerBusy is how many calls of a caller are in flight at most.
const callerBusy = 64

// caller calls a method at a steady rate through some nodes in turn, until it is
// told to stop; it then waits for what is in flight. While too many calls are in
// flight it waits as well.
type caller struct {
	conns    []*frame.Conn
	stopping chan struct{} // closed by stop
	ended    chan struct{} // closed when nothing is in flight any more
	once     sync.Once

	mu     sync.Mutex // guards what follows
	sent   int
	failed map[string]int // by what the error says
}

// startCaller begins to call: rate calls a second, so many of them at once.
func startCaller(ctx context.Context, nodes []*demoNode, r frame.Request, rate, burst int) (*caller, error) {
	c := &caller{stopping: make(chan struct{}), ended: make(chan struct{}), failed: make(map[string]int)}
	for _, n := range nodes {
		stream, err := n.client.Connect(ctx)
		if err != nil {
			c.close()
			return nil, fmt.Errorf("call through node %s: %w", n.name, err)
		}
		c.conns = append(c.conns, frame.NewConn(stream, frame.Config{}))
	}
	go c.run(r, rate, burst)
	return c, nil
}

func (c *caller) run(r frame.Request, rate, burst int) {
	defer close(c.ended)
	defer c.close()
	slots := make(chan struct{}, callerBusy)
	tick := time.NewTicker(time.Second * time.Duration(burst) / time.Duration(rate))
	defer tick.Stop()
	var calls sync.WaitGroup
	defer calls.Wait()
	for i := 0; ; i++ {
		if i%burst == 0 {
			select {
			case <-tick.C:
			case <-c.stopping:
				return
			}
		}
		select {
		case slots <- struct{}{}:
			calls.Go(func() {
				c.call(c.conns[i%len(c.conns)], r)
				<-slots
			})
		case <-c.stopping:
			return
		}
	}
}

func (c *caller) call(conn *frame.Conn, r frame.Request) {
	ctx, cancel := context.WithTimeout(context.Background(), loadDeadline)
	defer cancel()
	_, err := conn.Call(ctx, r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent++
	if err == nil {
		return
	}
	why := err.Error()
	var e *frame.Error
	if errors.As(err, &e) {
		why = e.Code.String() + ": " + e.Message
	}
	c.failed[why]++
}

// stop waits for the calls in flight. It may be called more than once.
func (c *caller) stop() {
	c.once.Do(func() { close(c.stopping) })
	<-c.ended
}

// wait lets so many more calls end.
func (c *caller) wait(ctx context.Context, calls int) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for end := (tally{}).plus(c).sent + calls; (tally{}).plus(c).sent < end; {
		select {
		case <-tick.C:
		case <-c.ended:
			return errors.New("nobody calls any more")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (c *caller) close() {
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}

// tally is what callers have counted.
type tally struct {
	sent, failed int
	why          map[string]int // failures by what the error says
}

// plus adds what a caller has counted so far; nil has counted nothing.
func (t tally) plus(c *caller) tally {
	if c == nil {
		return t
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t.sent += c.sent
	all := maps.Clone(c.failed)
	for _, n := range all {
		t.failed += n
	}
	for why, n := range t.why {
		all[why] += n
	}
	t.why = all
	return t
}

// err is nil unless a call failed.
func (t tally) err() error {
	if t.failed == 0 {
		return nil
	}
	var why []string
	for _, text := range slices.Sorted(maps.Keys(t.why)) {
		why = append(why, fmt.Sprintf("%d × %s", t.why[text], text))
	}
	return fmt.Errorf("%d of %d calls failed: %s", t.failed, t.sent, strings.Join(why, "; "))
}
