package membrane

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/ops"
	"cell.network/cell/internal/sim"
)

// links makes the two sides of a link: over descriptors, or in memory.
var links = map[string]func(t *testing.T) (node, replica Link){
	"descriptor": func(t *testing.T) (Link, Link) {
		node, file, err := NewLink()
		if err != nil {
			t.Fatal(err)
		}
		replica, err := LinkFromFD(dupFD(t, file))
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		return node, replica
	},
	"memory": func(*testing.T) (Link, Link) { return MemLink() },
}

func onBoth(t *testing.T, f func(t *testing.T, node, replica Link)) {
	for name, make := range links {
		t.Run(name, func(t *testing.T) {
			node, replica := make(t)
			t.Cleanup(func() { node.Close(); replica.Close() })
			f(t, node, replica)
		})
	}
}

func echo(ctx context.Context, r frame.Request) (frame.Response, error) {
	if r.Target == "wait" {
		<-ctx.Done()
		return frame.Response{}, ctx.Err()
	}
	return frame.Response{Body: r.Body}, nil
}

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, node, replica Link, cfg PortConfig) (*Port, *Replica) {
	t.Helper()
	p := NewPort(node, cfg)
	r, err := Serve(context.Background(), replica, []string{"echo", "wait"}, echo)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(); r.Wait() })
	return p, r
}

func TestCallAndPing(t *testing.T) {
	onBoth(t, func(t *testing.T, node, replica Link) {
		p, _ := start(t, node, replica, PortConfig{})
		ready, err := p.WaitReady(soon(t))
		if err != nil || strings.Join(ready.Methods, " ") != "echo wait" || ready.Version == "" {
			t.Fatalf("ready = %+v, %v", ready, err)
		}
		conn, err := p.Dial(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		got, err := conn.Call(soon(t), frame.Request{Target: "echo", Body: []byte("hi")})
		if err != nil || string(got.Body) != "hi" {
			t.Fatalf("%q, %v", got.Body, err)
		}
		s, took, err := p.Ping(soon(t))
		if err != nil || took <= 0 || s.Connections != 1 {
			t.Fatalf("stats = %+v after %v, %v", s, took, err)
		}
		for s.Served != 1 { // counted just after the response left
			if s, _, err = p.Ping(soon(t)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestStatsOfLoad knows how long calls take and how many are refused, and
// whether the node hears of it, also when the connection is gone.
func TestStatsOfLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node, replica := MemLink()
		p := NewPort(node, PortConfig{Pair: func() (net.Conn, net.Conn, error) { a, b := sim.Pipe(); return a, b, nil }})
		r, err := Serve(t.Context(), replica, []string{"sleep"}, func(context.Context, frame.Request) (frame.Response, error) {
			time.Sleep(80 * time.Millisecond)
			return frame.Response{}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { p.Close(); r.Wait() }()
		stats := func() ops.Stats {
			s, _, err := p.Ping(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		if s := stats(); s.Shed != 0 || s.P99 != 0 {
			t.Errorf("before the first call: %+v", s)
		}
		conn, err := p.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		const sent, fit = 6, 4 // requests of 4 MiB, of which a connection takes 16
		var refused atomic.Uint64
		var calls sync.WaitGroup
		for range sent {
			calls.Go(func() {
				_, err := conn.Call(t.Context(), frame.Request{Target: "sleep", Body: make([]byte, frame.MaxBody)})
				if errors.Is(err, &frame.Error{Code: frame.Overloaded}) {
					refused.Add(1)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		synctest.Wait()
		if n := refused.Load(); n != sent-fit {
			t.Fatalf("%d calls were refused", n)
		}
		s := stats()
		if s.Served != fit || s.Shed != sent-fit || s.P99 < 75_000 || s.P99 > 85_000 {
			t.Errorf("after %d calls of 80 ms and %d refused: %+v", fit, sent-fit, s)
		}
		conn.Close()
		synctest.Wait()
		if s := stats(); s.Connections != 0 || s.Served != fit || s.Shed != sent-fit || s.P99 == 0 {
			t.Errorf("after the end of the connection: %+v", s)
		}
		time.Sleep(2 * time.Second)
		if s := stats(); s.Shed != sent-fit || s.P99 != 0 {
			t.Errorf("two seconds later: %+v", s)
		}
	})
}

// TestTwoReplicas joins two replicas by their nodes; afterwards they talk
// alone, and each sees the other's end.
func TestTwoReplicas(t *testing.T) {
	onBoth(t, func(t *testing.T, node, replica Link) {
		server, _ := start(t, node, replica, PortConfig{})
		_, serverReady := server.WaitReady(soon(t))
		if serverReady != nil {
			t.Fatal(serverReady)
		}
		for name, make := range links {
			if !strings.HasSuffix(t.Name(), name) {
				continue
			}
			node2, replica2 := make(t)
			_, caller := start(t, node2, replica2, PortConfig{OnConnect: func(_ context.Context, target string) (net.Conn, error) {
				if target != "echo@alice" {
					return nil, &frame.Error{Code: frame.NoReplica, Message: "no replica of " + target, Hint: "run it"}
				}
				near, far, err := SocketPair()
				if err != nil {
					return nil, err
				}
				return near, server.Hand(far)
			}})
			conn, err := caller.Connect(soon(t), "echo@alice")
			if err != nil {
				t.Fatal(err)
			}
			got, err := conn.Call(soon(t), frame.Request{Target: "echo", Body: []byte("direct")})
			if err != nil || string(got.Body) != "direct" {
				t.Fatalf("%q, %v", got.Body, err)
			}
			_, err = caller.Connect(soon(t), "nothing")
			var e *frame.Error
			if !errors.As(err, &e) || e.Code != frame.NoReplica || e.Hint != "run it" {
				t.Fatalf("error = %#v", err)
			}
			if err := server.Stop(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-conn.Done(): // nobody keeps a copy of the other end
			case <-soon(t).Done():
				t.Fatal("the caller does not see that the server is gone")
			}
		}
	})
}

func TestEndOfNode(t *testing.T) {
	onBoth(t, func(t *testing.T, node, replica Link) {
		p := NewPort(node, PortConfig{})
		r, err := Serve(context.Background(), replica, nil, echo)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := p.Dial(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		waiting := make(chan error, 1)
		go func() {
			_, err := conn.Call(context.Background(), frame.Request{Target: "wait"})
			waiting <- err
		}()
		for s := r.Stats(); s.Serving == 0; s = r.Stats() {
			time.Sleep(time.Millisecond)
		}
		began := time.Now()
		p.Close()
		if err := r.Wait(); !errors.Is(err, ErrNode) {
			t.Fatalf("end = %v", err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
		if err := <-waiting; !errors.Is(err, &frame.Error{Code: frame.Unavailable}) {
			t.Errorf("call in flight: %v", err)
		}
		if _, err := r.Connect(soon(t), "x"); !errors.Is(err, &frame.Error{Code: frame.NotSent}) {
			t.Errorf("connect after the end: %v", err)
		}
	})
}

func TestEndOfReplica(t *testing.T) {
	onBoth(t, func(t *testing.T, node, replica Link) {
		p := NewPort(node, PortConfig{})
		replica.Close()
		if _, err := p.WaitReady(soon(t)); !errors.Is(err, io.EOF) {
			t.Fatalf("error = %v", err)
		}
		<-p.Done()
		if !errors.Is(p.Err(), io.EOF) {
			t.Fatalf("error = %v", p.Err())
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestStop(t *testing.T) {
	onBoth(t, func(t *testing.T, node, replica Link) {
		p, r := start(t, node, replica, PortConfig{})
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := r.Wait(); err != nil {
			t.Fatalf("end = %v", err)
		}
		<-p.Done()
	})
}

func TestContextEndsReplica(t *testing.T) {
	_, replica := MemLink()
	ctx, cancel := context.WithCancel(context.Background())
	r, err := Serve(ctx, replica, nil, echo)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := r.Wait(); err != nil {
		t.Fatalf("end = %v", err)
	}
}

// dupFD returns a copy of f's descriptor that is nobody's, as descriptor 3 is in a new process.
func dupFD(t *testing.T, f *os.File) uintptr {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd int
	var dupErr error
	if err := raw.Control(func(from uintptr) { fd, dupErr = syscall.Dup(int(from)) }); err != nil || dupErr != nil {
		t.Fatal(err, dupErr)
	}
	return uintptr(fd)
}
