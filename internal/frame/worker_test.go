package frame

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestWorkersAreKeptAndSwept watches how many goroutines wait for calls.
func TestWorkersAreKeptAndSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := inMemory(t, func(context.Context, Request) (Response, error) {
			time.Sleep(time.Second)
			return Response{}, nil
		})
		wave := func(calls int) {
			var wg sync.WaitGroup
			for range calls {
				wg.Go(func() {
					if _, err := c.Call(context.Background(), Request{}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			synctest.Wait()
		}
		want := func(idle int, when string) {
			t.Helper()
			s.serving.mu.Lock()
			defer s.serving.mu.Unlock()
			if s.serving.pool.idle != idle {
				t.Errorf("%d goroutines wait %s, want %d", s.serving.pool.idle, when, idle)
			}
		}
		wave(maxIdle * 2)
		want(maxIdle, "after a large wave")
		wave(3)
		want(maxIdle, "after a small wave, which used them")
		start := time.Now()
		for time.Since(start) < 2*sweepIdle {
			wave(3)
		}
		want(3, "after a while of small waves")
		time.Sleep(3 * sweepIdle)
		synctest.Wait()
		want(0, "after a while of nothing")
		wave(3)
		c.Close()
		synctest.Wait()
		want(0, "after the end")
	})
}
