package frame

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"cell.network/cell/internal/sim"
)

// BenchmarkCall measures whole calls, both ends in this process: 64 bytes each
// way, and 64 KiB, with one caller and with 64. CPU per call is about what the
// wall clock shows times the number of busy cores.
func BenchmarkCall(b *testing.B) {
	for _, over := range []struct {
		name string
		pair func() (io.ReadWriteCloser, io.ReadWriteCloser)
	}{
		{"memory", func() (io.ReadWriteCloser, io.ReadWriteCloser) { return sim.Pipe() }},
		{"unix", func() (io.ReadWriteCloser, io.ReadWriteCloser) { return socketPair(b) }},
	} {
		for _, size := range []int{64, 64 << 10} {
			for _, callers := range []int{1, 64} {
				b.Run(fmt.Sprintf("%s/%dB/callers=%d", over.name, size, callers), func(b *testing.B) {
					x, y := over.pair()
					c, s := NewConn(x, Config{}), NewConn(y, Config{Handler: echo, Times: NewTimes()})
					defer s.Close()
					defer c.Close()
					benchmarkCalls(b, c, size, callers)
				})
			}
		}
	}
}

func benchmarkCalls(b *testing.B, c *Conn, size, callers int) {
	body := make([]byte, size)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.ReportAllocs()
	b.SetBytes(2 * int64(size))
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := c.Call(ctx, Request{Target: "greeter/hello", Codec: CBOR, Body: body}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}
