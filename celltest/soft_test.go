package celltest_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"cell.network/cell/celltest"
	"cell.network/cell/internal/node"
)

// Where no system holds a program to its CPU limit, one that uses five times its
// limit still asks for more replicas.
func TestSoftLimitDivides(t *testing.T) {
	storm(t, celltest.Options{Nodes: 6}, func(ctx context.Context, t *testing.T, o *celltest.Organism, w simulated) {
		for _, i := range []int{0, 1, 3, 4} {
			if err := o.Node(i).Deploy("greeter", scaling, func(ctx context.Context, _ string, in []byte) ([]byte, error) {
				return fmt.Appendf(nil, "hello %s", in), celltest.Work(ctx, workTime, 1) // not held to 0.2
			}); err != nil {
				t.Fatal(err)
			}
		}
		calling, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { // 40 requests a second of 20 ms each: 4 CPU limits, which 7 replicas at 60 % bear
			defer close(done)
			for calling.Err() == nil {
				_, _ = w.Call(ctx, 5, greeter(w))
				time.Sleep(5 * time.Millisecond)
			}
		}()
		defer func() { stop(); <-done }()
		limit, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		until(limit, t, w, 0, "more replicas", func(c node.CellStatus) bool { return c.Live >= 5 })
	})
}
