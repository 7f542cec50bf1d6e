package axon

import (
	"bytes"
	"context"
	"io"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// Both sides run in this process, so CPU per request is that of both.

// BenchmarkEcho sends 64 bytes there and back over loopback: on lanes, and for
// comparison as libp2p does it, with a stream for every request.
func BenchmarkEcho(b *testing.B) {
	a, c := open(b, 1, Config{}), open(b, 2, Config{Handler: echo})
	body := bytes.Repeat([]byte{7}, 64)
	ctx := context.Background()
	id, err := host.PeerID(c.key())
	if err != nil {
		b.Fatal(err)
	}
	if _, err := a.Ping(ctx, c.key(), c.addrs()); err != nil {
		b.Fatal(err)
	}
	onLane := func() error {
		_, err := a.Call(ctx, c.key(), nil, frame.Request{Target: "echo", Body: body})
		return err
	}
	const proto protocol.ID = "/bench/echo"
	c.host.SetStreamHandler(proto, func(s network.Stream) {
		defer s.Close()
		buf := make([]byte, 64)
		if _, err := io.ReadFull(s, buf); err == nil {
			s.Write(buf)
		}
	})
	onStream := func() error {
		s, err := a.host.NewStream(ctx, id, proto)
		if err != nil {
			return err
		}
		defer s.Close()
		if _, err := s.Write(body); err != nil {
			return err
		}
		_, err = io.ReadFull(s, make([]byte, 64))
		return err
	}
	for _, way := range []struct {
		name string
		call func() error
	}{{"lane", onLane}, {"stream", onStream}} {
		b.Run(way.name+"/one", func(b *testing.B) {
			defer reportCPU(b)()
			for b.Loop() {
				if err := way.call(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(way.name+"/many", func(b *testing.B) {
			defer reportCPU(b)()
			var failed atomic.Pointer[error]
			b.SetParallelism(32) // times GOMAXPROCS
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := way.call(); err != nil {
						failed.Store(&err)
						return
					}
				}
			})
			if err := failed.Load(); err != nil {
				b.Fatal(*err)
			}
		})
	}
}

// reportCPU adds the CPU time of the process per operation to the result.
func reportCPU(b *testing.B) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			return 0
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	b.ReportAllocs()
	b.ResetTimer()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}
