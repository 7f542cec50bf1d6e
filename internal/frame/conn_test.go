package frame

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// echo answers with the body it got; the targets name other behaviour.
func echo(ctx context.Context, r Request) (Response, error) {
	switch r.Target {
	case "fail":
		return Response{}, errors.New("no luck")
	case "refuse":
		return Response{}, &Error{Code: Refused, Message: "not you", Hint: "ask nicely"}
	case "wait":
		<-ctx.Done()
		return Response{}, ctx.Err()
	}
	return Response{Codec: r.Codec, Body: r.Body}, nil
}

// socketPair returns the two ends of a Unix stream socket.
func socketPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return ends[0], ends[1]
}

// connect joins two connections, client and server, that end with the test.
func connect(t testing.TB, client, server Config) (*Conn, *Conn) {
	t.Helper()
	a, b := socketPair(t)
	c, s := NewConn(a, client), NewConn(b, server)
	t.Cleanup(func() {
		c.Close()
		s.Close()
		for s.Serving() > 0 || c.Serving() > 0 { // handlers saw their contexts end
			time.Sleep(time.Millisecond)
		}
	})
	return c, s
}

func wantCode(t *testing.T, err error, code Code, text string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, text) {
		t.Fatalf("error = %v (%#v), want %v with %q", err, err, code, text)
	}
}

func TestCall(t *testing.T) {
	c, s := connect(t, Config{}, Config{Handler: echo})
	ctx := context.Background()
	for _, size := range []int{0, 1, 100, readBuffer, firstChunk - 1, firstChunk, firstChunk + 1, 1 << 20, MaxBody} {
		body := []byte(strings.Repeat("x", size))
		got, err := c.Call(ctx, Request{Target: "echo", Codec: JSON, Body: body})
		if err != nil || got.Codec != JSON || string(got.Body) != string(body) {
			t.Fatalf("%d bytes: %d bytes of %v, %v", size, len(got.Body), got.Codec, err)
		}
	}
	_, err := c.Call(ctx, Request{Target: "fail"})
	wantCode(t, err, Failed, "no luck")
	_, err = c.Call(ctx, Request{Target: "refuse"})
	wantCode(t, err, Refused, "not you")
	if e := new(Error); !errors.As(err, &e) || e.Hint != "ask nicely" {
		t.Fatalf("hint = %q", e.Hint)
	}
	_, err = c.Call(ctx, Request{Body: make([]byte, MaxBody+1)})
	wantCode(t, err, TooLarge, "4194305 bytes")
	_, err = c.Call(ctx, Request{Target: strings.Repeat("x", MaxMeta+1)})
	wantCode(t, err, TooLarge, "513 bytes")
	_, err = s.Call(ctx, Request{Target: "echo"})
	wantCode(t, err, NoMethod, "serves nothing")
	if c.Inflight() != 0 || s.Serving() != 0 {
		t.Fatalf("in flight: %d, %d", c.Inflight(), s.Serving())
	}
}

func TestManyCallers(t *testing.T) {
	c, s := connect(t, Config{Handler: echo}, Config{Handler: echo})
	var wg sync.WaitGroup
	for i := range 64 {
		conn := []*Conn{c, s}[i%2]
		wg.Go(func() {
			for n := range 200 {
				body := []byte(strings.Repeat(string(rune('a'+i%26)), n))
				got, err := conn.Call(context.Background(), Request{Target: "echo", Body: body})
				if err != nil || string(got.Body) != string(body) {
					t.Errorf("caller %d, call %d: %q, %v", i, n, got.Body, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
