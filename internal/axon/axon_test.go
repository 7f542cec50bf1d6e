package axon

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"go.uber.org/goleak"
)

const testNet identity.Network = "test"

func key(n byte) identity.Private {
	return identity.PrivateFromSeed([32]byte{n, 'a', 'x', 'o', 'n'})
}

// node is a real host on loopback with an axon on it.
type node struct {
	*Axon
	host *host.Host
}

func (n *node) key() identity.Key { return n.host.Key() }
func (n *node) addrs() [][]byte   { return n.host.LeaseAddrs(true) }

func open(t testing.TB, n byte, c Config) *node {
	t.Helper()
	h, err := host.New(host.Config{Key: key(n), Network: testNet, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
	if err != nil {
		t.Fatal(err)
	}
	a := New(h, testNet, c)
	t.Cleanup(func() {
		a.Close()
		if err := h.Close(); err != nil {
			t.Errorf("close host: %v", err)
		}
	})
	return &node{a, h}
}

// echo answers with the body; other targets do as they are named.
func echo(ctx context.Context, from identity.Key, r frame.Request) (frame.Response, error) {
	switch r.Target {
	case "who":
		return frame.Response{Body: []byte(from.String())}, nil
	case "wait":
		<-ctx.Done()
		return frame.Response{}, ctx.Err()
	case "deadline":
		d, _ := ctx.Deadline()
		return frame.Response{Body: []byte(time.Until(d).String())}, nil
	case "big":
		return frame.Response{Body: make([]byte, frame.MaxBody)}, nil
	case "fail":
		return frame.Response{}, &frame.Error{Code: frame.Refused, Message: "not you", Hint: "ask"}
	}
	return frame.Response{Codec: r.Codec, Body: r.Body}, nil
}

// within gives a test's calls a generous deadline.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func wantCode(t *testing.T, err error, codes ...frame.Code) {
	t.Helper()
	var e *frame.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want a *frame.Error of %v", err, codes)
	}
	for _, c := range codes {
		if e.Code == c {
			return
		}
	}
	t.Fatalf("error %v: %q, want %v", e.Code, e.Message, codes)
}

// until waits for something to become true.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCall(t *testing.T) {
	a, b := open(t, 1, Config{}), open(t, 2, Config{Handler: echo})
	ctx := within(t)
	for _, size := range []int{0, 64, 100_000, frame.MaxBody} {
		body := bytes.Repeat([]byte{7}, size)
		got, err := a.Call(ctx, b.key(), b.addrs(), frame.Request{Target: "echo", Codec: frame.CBOR, Body: body})
		if err != nil || got.Codec != frame.CBOR || !bytes.Equal(got.Body, body) {
			t.Fatalf("echo of %d bytes: %d bytes in %v, %v", size, len(got.Body), got.Codec, err)
		}
	}
	got, err := a.Call(ctx, b.key(), nil, frame.Request{Target: "who"}) // the address is known by now
	if err != nil || string(got.Body) != a.key().String() {
		t.Errorf("the callee takes the caller for %s, %v; want %s", got.Body, err, a.key())
	}
	_, err = a.Call(ctx, b.key(), nil, frame.Request{Target: "fail"})
	wantCode(t, err, frame.Refused)
	if e := frame.AsError(err); e.Message != "not you" || e.Hint != "ask" {
		t.Errorf("the callee's error arrived as %+v", e)
	}
	_, err = b.Call(ctx, a.key(), a.addrs(), frame.Request{Target: "echo"})
	wantCode(t, err, frame.NoMethod) // a serves nothing
	if rtt, err := b.Ping(ctx, a.key(), nil); err != nil || rtt <= 0 {
		t.Errorf("ping of a node that serves nothing: %v, %v", rtt, err)
	}
	_, err = a.Call(ctx, a.key(), a.addrs(), frame.Request{Target: "echo"})
	wantCode(t, err, frame.NotSent)
}

func TestDeadlineAndCancelTravel(t *testing.T) {
	a, b := open(t, 1, Config{}), open(t, 2, Config{Handler: echo})
	ctx, cancel := context.WithTimeout(within(t), 5*time.Second)
	defer cancel()
	got, err := a.Call(ctx, b.key(), b.addrs(), frame.Request{Target: "deadline"})
	left, _ := time.ParseDuration(string(got.Body))
	if err != nil || left <= 0 || left > 5*time.Second {
		t.Errorf("the handler has %s left, %v; want up to 5s", got.Body, err)
	}
	short, cancel := context.WithTimeout(within(t), 50*time.Millisecond)
	defer cancel()
	_, err = a.Call(short, b.key(), nil, frame.Request{Target: "wait"})
	wantCode(t, err, frame.Timeout)
	given, give := context.WithCancel(within(t))
	time.AfterFunc(20*time.Millisecond, give)
	_, err = a.Call(given, b.key(), nil, frame.Request{Target: "wait"})
	wantCode(t, err, frame.Cancelled)
	// Close waits for handlers: it would hang had the two not been told.
	done := make(chan struct{})
	go func() { b.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("handlers go on after their callers have left")
	}
}

func TestNobodyThere(t *testing.T) {
	a := open(t, 1, Config{DialTimeout: time.Second})
	_, err := a.Call(within(t), key(9).Public(), nil, frame.Request{Target: "echo"})
	wantCode(t, err, frame.NotSent)
	if len(a.all()) != 0 {
		t.Error("a node that cannot be reached is remembered")
	}
	// A node of another network has nothing to say to this one.
	h, err := host.New(host.Config{Key: key(3), Network: "other", Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	other := New(h, "other", Config{Handler: echo})
	defer other.Close()
	_, err = a.Call(within(t), h.Key(), h.LeaseAddrs(true), frame.Request{Target: "echo"})
	wantCode(t, err, frame.Version)
	if !frame.AsError(err).Code.NotExecuted() {
		t.Error("a refusal to negotiate counts as executed")
	}
}

func TestWrongKeyAtTheAddress(t *testing.T) {
	a, b := open(t, 1, Config{DialTimeout: 2 * time.Second}), open(t, 2, Config{Handler: echo})
	_, err := a.Call(within(t), key(9).Public(), b.addrs(), frame.Request{Target: "who"})
	wantCode(t, err, frame.NotSent)
}

func TestLanesOpenUnderLoadOnly(t *testing.T) {
	var mu sync.Mutex
	waiting := 0
	release := make(chan struct{})
	a, b := open(t, 1, Config{Lanes: 3}), open(t, 2, Config{Handler: func(ctx context.Context, from identity.Key, r frame.Request) (frame.Response, error) {
		mu.Lock()
		waiting++
		mu.Unlock()
		select {
		case <-release:
		case <-ctx.Done():
		}
		return frame.Response{}, nil
	}})
	ctx := within(t)
	lanes := func() int {
		p := a.all()[0]
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.lanes)
	}
	for range 20 {
		if _, err := a.Ping(ctx, b.key(), b.addrs()); err != nil {
			t.Fatal(err)
		}
	}
	if n := lanes(); n != 1 {
		t.Errorf("calls one by one use %d lanes, want 1", n)
	}
	var calls sync.WaitGroup
	for range 200 {
		calls.Go(func() {
			if _, err := a.Call(ctx, b.key(), nil, frame.Request{Target: "hold"}); err != nil {
				t.Error(err)
			}
		})
	}
	until(t, "200 calls at once, on more than one lane", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return waiting == 200 && lanes() > 1
	})
	if n := lanes(); n > 3 {
		t.Errorf("200 calls at once use %d lanes, want 3 at most", n)
	}
	close(release)
	calls.Wait()
}

func TestLostLane(t *testing.T) {
	a, b := open(t, 1, Config{}), open(t, 2, Config{Handler: echo})
	ctx := within(t)
	if _, err := a.Ping(ctx, b.key(), b.addrs()); err != nil {
		t.Fatal(err)
	}
	lost := make(chan error)
	go func() {
		_, err := a.Call(ctx, b.key(), nil, frame.Request{Target: "wait"})
		lost <- err
	}()
	until(t, "the call is being served", func() bool { return b.serving() > 0 })
	for _, c := range b.host.Network().Conns() {
		c.Close()
	}
	err := <-lost
	wantCode(t, err, frame.Unavailable) // it was being served: nobody can know
	until(t, "the connection is gone from the books", func() bool { return len(a.host.Network().ConnsToPeer(b.host.ID())) == 0 })
	// The next call opens a lane anew and says nothing of it.
	if got, err := a.Call(ctx, b.key(), b.addrs(), frame.Request{Target: "echo", Body: []byte("x")}); err != nil || string(got.Body) != "x" {
		t.Errorf("after the loss: %q, %v", got.Body, err)
	}
}

func (n *node) serving() int {
	n.door.calls.mu.Lock()
	defer n.door.calls.mu.Unlock()
	return doorCalls - n.door.calls.free
}

func TestDrain(t *testing.T) {
	a, b := open(t, 1, Config{}), open(t, 2, Config{Handler: echo})
	ctx := within(t)
	if _, err := a.Ping(ctx, b.key(), b.addrs()); err != nil {
		t.Fatal(err)
	}
	if err := b.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	_, err := a.Call(ctx, b.key(), nil, frame.Request{Target: "echo"})
	wantCode(t, err, frame.Draining)
	// A lane that comes after Drain is refused, too.
	c := open(t, 3, Config{})
	_, err = c.Call(ctx, b.key(), b.addrs(), frame.Request{Target: "echo"})
	wantCode(t, err, frame.Draining)
}

func TestCloseEndsCalls(t *testing.T) {
	a, b := open(t, 1, Config{}), open(t, 2, Config{Handler: echo})
	ctx := within(t)
	ended := make(chan error)
	go func() {
		_, err := a.Call(ctx, b.key(), b.addrs(), frame.Request{Target: "wait"})
		ended <- err
	}()
	until(t, "the call is being served", func() bool { return b.serving() > 0 })
	go a.Close()
	wantCode(t, <-ended, frame.Unavailable)
	a.Close()
	_, err := a.Call(ctx, b.key(), b.addrs(), frame.Request{Target: "echo"})
	wantCode(t, err, frame.NotSent)
	if !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("error %q does not say why", err)
	}
}

func TestTooManyPeers(t *testing.T) {
	a, b, c := open(t, 1, Config{Peers: 1}), open(t, 2, Config{}), open(t, 3, Config{})
	if _, err := a.Ping(within(t), b.key(), b.addrs()); err != nil {
		t.Fatal(err)
	}
	_, err := a.Ping(within(t), c.key(), c.addrs())
	wantCode(t, err, frame.Overloaded)
}

func TestManyCallersBothWays(t *testing.T) {
	a, b := open(t, 1, Config{Handler: echo}), open(t, 2, Config{Handler: echo})
	ctx := within(t)
	var all sync.WaitGroup
	for i := range 64 {
		from, to := a, b
		if i%2 == 1 {
			from, to = b, a
		}
		all.Go(func() {
			for n := range 20 {
				body := bytes.Repeat([]byte{byte(i)}, n*997)
				got, err := from.Call(ctx, to.key(), to.addrs(), frame.Request{Target: "echo", Body: body})
				if err != nil || !bytes.Equal(got.Body, body) {
					t.Errorf("caller %d, call %d: %d bytes, %v", i, n, len(got.Body), err)
					return
				}
			}
		})
	}
	all.Wait()
}
