package cell

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/membrane"
	"cell.network/cell/internal/sim"
)

type greetReq struct {
	Name string
	At   time.Time `json:"at,omitzero"`
}
type greetRes struct {
	Text string `json:"text"`
}

var (
	greet  = NewMethod[greetReq, greetRes]("greeter/hello")
	shout  = NewMethod[[]byte, []byte]("greeter/shout")
	relay  = NewMethod[greetReq, greetRes]("greeter/relay")
	fail   = NewMethod[struct{}, struct{}]("greeter/fail")
	burst  = NewMethod[struct{}, struct{}]("greeter/burst")
	broken = NewMethod[struct{}, chan int]("greeter/broken")
)

func services() []Service {
	return []Service{
		On(greet, func(_ context.Context, in greetReq) (greetRes, error) {
			if in.Name == "" {
				return greetRes{}, Errorf(Invalid, "name is empty")
			}
			return greetRes{Text: "hello " + in.Name}, nil
		}),
		On(shout, func(_ context.Context, in []byte) ([]byte, error) { return bytes.ToUpper(in), nil }),
		On(relay, func(ctx context.Context, in greetReq) (greetRes, error) { return greet.From("other").Call(ctx, in) }),
		On(fail, func(context.Context, struct{}) (struct{}, error) { return struct{}{}, errors.New("no luck") }),
		On(burst, func(context.Context, struct{}) (struct{}, error) { panic("oh") }),
		On(broken, func(context.Context, struct{}) (chan int, error) { return make(chan int), nil }),
	}
}

// serveFrames serves conn with the test's services, as a node's socket would.
func serveFrames(t *testing.T, rw io.ReadWriteCloser, log io.Writer) *frame.Conn {
	t.Helper()
	_, h, err := combine(services(), log)
	if err != nil {
		t.Fatal(err)
	}
	return frame.NewConn(rw, frame.Config{Handler: h})
}

// inMemory makes all calls of this process go to the test's services.
func inMemory(t *testing.T, log io.Writer) *frame.Conn {
	t.Helper()
	before := outward
	t.Cleanup(func() { outward = before })
	outward = new(synapse)
	outward.become(func(context.Context, string) (*frame.Conn, error) {
		a, b, err := membrane.SocketPair()
		if err != nil {
			return nil, err
		}
		server := serveFrames(t, b, log)
		client := frame.NewConn(a, frame.Config{})
		t.Cleanup(func() { client.Close(); server.Close() })
		return client, nil
	})
	c, err := outward.contact(context.Background(), "direct")
	if err != nil {
		t.Fatal(err)
	}
	return c.conn
}

func TestCall(t *testing.T) {
	var log bytes.Buffer
	conn := inMemory(t, &log)
	ctx := context.Background()
	if out, err := greet.Call(ctx, greetReq{Name: "Ada", At: time.Now()}); err != nil || out.Text != "hello Ada" {
		t.Errorf("%+v, %v", out, err)
	}
	if out, err := shout.Call(ctx, []byte("hey")); err != nil || string(out) != "HEY" {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := Call[map[string]any](ctx, "greeter@alice:1.0/hello", map[string]any{"Name": "Bob"}); err != nil || out["text"] != "hello Bob" {
		t.Errorf("%v, %v", out, err)
	}
	resp, err := conn.Call(ctx, frame.Request{Target: "greeter/hello", Codec: frame.JSON, Body: []byte(`{"Name":"Cy"}`)})
	if err != nil || resp.Codec != frame.JSON || string(resp.Body) != `{"text":"hello Cy"}` {
		t.Errorf("%q, %v", resp.Body, err)
	}
	resp, err = conn.Call(ctx, frame.Request{Target: "hello", Codec: frame.JSON, Body: []byte(`{"Name":`)})
	if CodeOf(err) != Invalid {
		t.Errorf("half JSON: %q, %v", resp.Body, err)
	}
	resp, err = conn.Call(ctx, frame.Request{Target: "hello", Codec: 77, Body: []byte(`x`)})
	if CodeOf(err) != Invalid {
		t.Errorf("unknown codec: %q, %v", resp.Body, err)
	}
	for _, c := range []struct {
		name string
		do   func() error
		code Code
		text string
	}{
		{"own code", func() error { _, err := greet.Call(ctx, greetReq{}); return err }, Invalid, "call greeter/hello: name is empty"},
		{"plain error", func() error { _, err := fail.Call(ctx, struct{}{}); return err }, Failed, "call greeter/fail: no luck"},
		{"panic", func() error { _, err := burst.Call(ctx, struct{}{}); return err }, Internal, "panic in method burst: oh"},
		{"no method", func() error { _, err := Call[any](ctx, "greeter/nothing", 1); return err }, NoMethod, `no method "nothing"`},
		{"bad target", func() error { _, err := Call[any](ctx, "Greeter", 1); return err }, Invalid, "greeter/hello"},
		{"request that cannot be written", func() error { _, err := Call[any](ctx, "greeter/hello", make(chan int)); return err }, Invalid, "write request"},
		{"response that cannot be written", func() error { _, err := Call[any](ctx, "greeter/broken", nil); return err }, Internal, "write response"},
		{"response that cannot be read", func() error { _, err := Call[int](ctx, "greeter/hello", greetReq{Name: "x"}); return err }, Invalid, "read response"},
		{"failure of a further call", func() error { _, err := relay.Call(ctx, greetReq{}); return err }, Failed, "call greeter/relay: call other/hello: name is empty"},
		{"ended context", func() error {
			ended, cancel := context.WithCancel(ctx)
			cancel()
			_, err := greet.Call(ended, greetReq{Name: "x"})
			return err
		}, Cancelled, "context canceled"},
	} {
		err := c.do()
		var e *Error
		if !errors.As(err, &e) || e.Code != c.code || CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v (%v), want %v with %q", c.name, err, CodeOf(err), c.code, c.text)
		}
	}
	if !strings.Contains(log.String(), "cell_test.go") {
		t.Errorf("the stack of the panic is not in the log: %q", log.String())
	}
}

// TestReconnect ends connections under the caller.
func TestReconnect(t *testing.T) {
	inMemory(t, io.Discard)
	ctx := context.Background()
	for range 3 {
		if _, err := greet.Call(ctx, greetReq{Name: "Ada"}); err != nil {
			t.Fatal(err)
		}
		c, err := outward.contact(ctx, "greeter")
		if err != nil {
			t.Fatal(err)
		}
		c.conn.Close()
	}
}

// TestDraining calls a replica that takes nothing new: the next one is asked, once.
func TestDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clients, servers []*frame.Conn
		s := new(synapse)
		s.become(func(context.Context, string) (*frame.Conn, error) {
			a, b := sim.Pipe()
			drains := func(context.Context, frame.Request) (frame.Response, error) { // of a version that knows no leave frame
				return frame.Response{}, &frame.Error{Code: frame.Draining}
			}
			var server *frame.Conn
			if len(servers) == 1 { // all but the second are about to end
				server = serveFrames(t, b, io.Discard)
			} else {
				server = frame.NewConn(b, frame.Config{Handler: drains})
			}
			client := frame.NewConn(a, frame.Config{})
			clients, servers = append(clients, client), append(servers, server)
			return client, nil
		})
		r := frame.Request{Target: "shout", Body: []byte("x")}
		if resp, err := s.call(context.Background(), "greeter", r); err != nil || string(resp.Body) != "X" {
			t.Errorf("%q, %v", resp.Body, err)
		}
		clients[1].Close()
		if _, err := s.call(context.Background(), "greeter", r); CodeOf(err) != Draining || len(clients) != 4 {
			t.Errorf("%v after %d connections", err, len(clients))
		}
		if clients[0].Err() != nil {
			t.Error("the first connection is cut off at once")
		}
		time.Sleep(leaveTimeout)
		synctest.Wait()
		for i, c := range clients {
			if c.Err() == nil {
				t.Errorf("connection %d is left open", i)
			}
			servers[i].Close()
		}
	})
}

func TestDialErrorIsTriedAgain(t *testing.T) {
	dials := 0
	s := new(synapse)
	s.become(func(context.Context, string) (*frame.Conn, error) {
		dials++
		return nil, Errorf(NoReplica, "none, %d times", dials)
	})
	for n := 1; n <= 3; n++ {
		if _, err := s.call(context.Background(), "x", frame.Request{}); CodeOf(err) != NoReplica || dials != n {
			t.Fatalf("%v after %d dials", err, dials)
		}
	}
	if len(s.conns) != 0 {
		t.Errorf("%d contacts are kept", len(s.conns))
	}
}

// TestOneDialForAll lets many callers wait for one connection; one of them gives up.
func TestOneDialForAll(t *testing.T) {
	release := make(chan bool)
	var mu sync.Mutex
	dials := 0
	s := new(synapse)
	s.become(func(context.Context, string) (*frame.Conn, error) {
		mu.Lock()
		dials++
		mu.Unlock()
		<-release
		a, b, err := membrane.SocketPair()
		if err == nil {
			server := serveFrames(t, b, io.Discard)
			t.Cleanup(func() { server.Close() })
		}
		return frame.NewConn(a, frame.Config{}), err
	})
	impatient, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.call(impatient, "greeter", frame.Request{Target: "shout"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("impatient: %v", err)
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := s.call(context.Background(), "greeter", frame.Request{Target: "shout"}); err != nil {
				t.Error(err)
			}
		})
	}
	close(release)
	wg.Wait()
	if dials != 1 {
		t.Errorf("%d dials", dials)
	}
	s.conns["greeter"].conn.Close()
}

func TestNumberOfCellsIsBounded(t *testing.T) {
	s := new(synapse)
	s.become(func(context.Context, string) (*frame.Conn, error) {
		a, b, err := membrane.SocketPair()
		if err == nil {
			b.Close()
		}
		return frame.NewConn(a, frame.Config{}), err
	})
	for i := range maxCells + 50 {
		s.call(context.Background(), "cell"+string(rune('a'+i%26))+strings.Repeat("x", i/26), frame.Request{})
	}
	if len(s.conns) > maxCells {
		t.Errorf("%d connections are kept", len(s.conns))
	}
	for _, c := range s.conns {
		c.conn.Close()
	}
}

func TestCombineRefuses(t *testing.T) {
	for _, c := range []struct {
		in   []Service
		want string
	}{
		{[]Service{{}}, "empty"},
		{append(services(), services()[0]), "two services for the method hello"},
	} {
		var stderr bytes.Buffer
		if code := run(nil, &stderr, c.in); code != 2 || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("status %d, %q; want %q", code, stderr.String(), c.want)
		}
	}
}

func TestNewMethodPanics(t *testing.T) {
	for _, name := range []string{"", "greeter", "Greeter/hello", "greeter/", "greeter/a b", "/hello"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%q is taken for a method", name)
				}
			}()
			NewMethod[int, int](name)
		}()
	}
}

// node plays the control socket of a node in a home of its own.
func node(t *testing.T, serve func(conn net.Conn)) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cell") // short: the path of a socket is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("CELL_HOME", dir)
	before := outward
	outward = &synapse{dial: dialNode, shared: true}
	t.Cleanup(func() { outward = before })
	if serve == nil {
		return
	}
	if err := os.MkdirAll(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "run", "cell.sock"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
}

func TestCallThroughNode(t *testing.T) {
	var seen string
	node(t, func(conn net.Conn) {
		request := make([]byte, len(upgrade))
		io.ReadFull(conn, request)
		seen = string(request)
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: cell-frame/1\r\nConnection: Upgrade\r\n\r\n")
		<-serveFrames(t, conn, io.Discard).Done()
	})
	for _, target := range []string{"greeter/hello", "greeter@alice/hello"} {
		out, err := Call[greetRes](context.Background(), target, greetReq{Name: "Ada"})
		if err != nil || out.Text != "hello Ada" {
			t.Errorf("%s: %+v, %v", target, out, err)
		}
	}
	if len(outward.conns) != 1 {
		t.Errorf("%d connections lead to one node", len(outward.conns))
	}
	outward.conns[""].conn.Close()
	if seen != upgrade {
		t.Errorf("asked with %q", seen)
	}
}

// TestEarlyFrames sends a frame in the same packet as the answer.
func TestEarlyFrames(t *testing.T) {
	node(t, func(conn net.Conn) {
		io.ReadFull(conn, make([]byte, len(upgrade)))
		cancel := append(make([]byte, 4), 3)
		cancel = append(cancel, make([]byte, frame.HeaderSize-5)...)
		conn.Write(append([]byte("HTTP/1.1 101 Switching Protocols\r\n\r\n"), cancel...))
		<-serveFrames(t, conn, io.Discard).Done()
	})
	if out, err := greet.Call(context.Background(), greetReq{Name: "Ada"}); err != nil || out.Text != "hello Ada" {
		t.Errorf("%+v, %v", out, err)
	}
	outward.conns[""].conn.Close()
}

func TestNodeRefuses(t *testing.T) {
	api, _ := json.Marshal(map[string]any{"error": map[string]string{"message": "protocol 2 is spoken here", "hint": "update"}})
	for _, c := range []struct {
		name, answer string
		code         Code
		text, hint   string
	}{
		{"plain text", "HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nnot today", Refused, "not today", ""},
		{"an error of the API", "HTTP/1.1 400 Bad Request\r\ncontent-length: " + "66\r\n\r\n" + string(api), Refused, "protocol 2", "update"},
		{"nothing to say", "HTTP/1.1 500 Internal Server Error\r\n\r\n", Refused, "status 500", ""},
		{"not HTTP", "220 smtp.example.com\r\n", NotSent, "not HTTP", ""},
		{"cut short", "HTTP/1.1 101 Swit", NotSent, "unexpected EOF", ""},
		{"no end", "HTTP/1.1 101 x\r\n" + strings.Repeat("A: b\r\n", 10_000), NotSent, "unexpected EOF", ""},
		{"a long line", "HTTP/1.1 101 " + strings.Repeat("x", 10_000), NotSent, "buffer full", ""},
		{"a bad length", "HTTP/1.1 403 x\r\nContent-Length: -1\r\n\r\n", NotSent, "content length", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			node(t, func(conn net.Conn) {
				defer conn.Close()
				io.ReadFull(conn, make([]byte, len(upgrade)))
				io.WriteString(conn, c.answer)
			})
			_, err := greet.Call(context.Background(), greetReq{Name: "Ada"})
			var e *Error
			if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(err.Error(), c.text) || e.Hint != c.hint {
				t.Errorf("%v (%#v)", err, e)
			}
		})
	}
}

func TestNoNode(t *testing.T) {
	node(t, nil)
	_, err := greet.Call(context.Background(), greetReq{Name: "Ada"})
	var e *Error
	if !errors.As(err, &e) || e.Code != NotSent || e.Hint != "start it with: cell up" {
		t.Errorf("%#v", err)
	}
}

func FuzzReadHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: cell-frame/1\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nnot today"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := memory{bytes.NewReader(b)}
		rest, err := shake(a)
		if err != nil && rest != nil || len(rest) > len(b) {
			t.Fatalf("%q, %v", rest, err)
		}
		var e *Error
		if err != nil && (!errors.As(err, &e) || len(e.Message) > frame.MaxMessage) {
			t.Fatalf("%#v", err)
		}
	})
}

// memory is a connection that says what is in it and swallows the rest.
type memory struct{ *bytes.Reader }

func (memory) Write(b []byte) (int, error)        { return len(b), nil }
func (memory) Close() error                       { return nil }
func (memory) LocalAddr() net.Addr                { return nil }
func (memory) RemoteAddr() net.Addr               { return nil }
func (memory) SetDeadline(t time.Time) error      { return nil }
func (memory) SetReadDeadline(t time.Time) error  { return nil }
func (memory) SetWriteDeadline(t time.Time) error { return nil }

// BenchmarkCall measures typed calls over a Unix socket, both ends in this process.
func BenchmarkCall(b *testing.B) {
	before := outward
	defer func() { outward = before }()
	outward = new(synapse)
	outward.become(func(context.Context, string) (*frame.Conn, error) {
		x, y, err := membrane.SocketPair()
		if err != nil {
			return nil, err
		}
		_, h, err := combine(services(), io.Discard)
		frame.NewConn(y, frame.Config{Handler: h})
		return frame.NewConn(x, frame.Config{}), err
	})
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := greet.Call(context.Background(), greetReq{Name: "Ada"}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	outward.conns["greeter"].conn.Close()
}
