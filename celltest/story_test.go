package celltest_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cell.network/cell/internal/frame"
)

// slowTime is how long the greeter's method slow takes.
const slowTime = 400 * time.Millisecond

func slow(w world) string { return "greeter@" + w.Author() + "/slow" }

// pause is between two calls of a caller who calls all the time; without it
// virtual time would stand still.
const pause = time.Millisecond

// playTakeover runs a newer replica while all nodes call: no call fails.
func playTakeover(ctx context.Context, t *testing.T, w world) {
	mustRun(t, w, 0)
	for i := range 3 {
		eventually(ctx, t, w, i)
	}
	calling, stop := context.WithCancel(ctx)
	defer stop()
	var callers sync.WaitGroup
	var calls [3]atomic.Int64
	for i := range 3 {
		for _, target := range []string{greeter(w), greeter(w), slow(w)} {
			callers.Go(func() {
				for calling.Err() == nil {
					if out, err := w.Call(ctx, i, target); err != nil || out != "hello Ada" {
						t.Errorf("node %d, after %d calls: %q, %v", i, calls[i].Load(), out, err)
						return
					}
					calls[i].Add(1)
					time.Sleep(pause)
				}
			})
		}
	}
	for range 3 {
		before := calls[2].Load()
		mustRun(t, w, 0)
		for calls[2].Load() < before+5 && ctx.Err() == nil && !t.Failed() { // the new one is called, too
			time.Sleep(pause)
		}
	}
	stop()
	callers.Wait()
	t.Logf("calls: %d here, %d by LAN, %d by DHT", calls[0].Load(), calls[1].Load(), calls[2].Load())
}

// playDown ends a node with calls in flight: they finish, and the others know at once.
func playDown(ctx context.Context, t *testing.T, w world) {
	mustRun(t, w, 0)
	for i := range 3 {
		eventually(ctx, t, w, i)
	}
	var flying sync.WaitGroup
	for try := 1; ; try++ {
		for i := range 3 {
			flying.Go(func() {
				if out, err := w.Call(ctx, i, slow(w)); err != nil || out != "hello Ada" {
					t.Errorf("call in flight from node %d: %q, %v", i, out, err)
				}
			})
		}
		if w.Busy(0, 3) {
			break
		}
		flying.Wait() // the first had its answer before the last came
		if try == 20 || t.Failed() {
			t.Fatal("never three calls in flight")
		}
	}
	down := make(chan error, 1)
	begin := time.Now()
	go func() { down <- w.Down(0) }()
	for i := 1; i < 3; i++ { // whoever goes on calling is answered, or told that there is no replica
		flying.Go(func() {
			for {
				_, err := w.Call(ctx, i, greeter(w))
				if err == nil {
					time.Sleep(pause)
					continue
				}
				if !errors.Is(err, &frame.Error{Code: frame.NoReplica}) {
					t.Errorf("node %d: %v; want no replica", i, err)
				}
				t.Logf("node %d knows after %v: %v", i, time.Since(begin), err)
				return
			}
		})
	}
	if err := <-down; err != nil {
		t.Errorf("node 0 went down with %v", err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("node 0 took %v to go down", took)
	}
	flying.Wait()
	for i := 1; i < 3; i++ {
		wantNoReplica(ctx, t, w, i, 3*time.Second)
	}
}

// playRestart starts a node again after it said goodbye: what it says now
// outranks its own goodbye.
func playRestart(ctx context.Context, t *testing.T, w world) {
	mustRun(t, w, 0)
	for i := range 3 {
		eventually(ctx, t, w, i)
	}
	if err := w.Down(0); err != nil {
		t.Fatal(err)
	}
	if err := w.RestartNode(0); err != nil {
		t.Fatal(err)
	}
	mustRun(t, w, 0)
	limit, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for i := range 3 {
		eventually(limit, t, w, i)
	}
}
