package frame

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// victim is a connection whose other end the test plays by hand.
func victim(t testing.TB, cfg Config) (*Conn, net.Conn) {
	t.Helper()
	a, b := socketPair(t)
	c := NewConn(a, cfg)
	t.Cleanup(func() { b.Close(); c.Close() })
	b.SetDeadline(time.Now().Add(10 * time.Second))
	return c, b
}

func write(t testing.TB, w io.Writer, frames ...[]byte) {
	t.Helper()
	if _, err := w.Write(bytes.Join(frames, nil)); err != nil {
		t.Fatal(err)
	}
}

func frameOf(h header, meta, body string) []byte {
	h.meta, h.length = uint16(len(meta)), uint32(len(meta)+len(body))
	return append(h.append(nil), meta+body...)
}

func readFrame(t testing.TB, r io.Reader) (h header, meta, body string) {
	t.Helper()
	b := make([]byte, HeaderSize)
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatal(err)
	}
	h, err := parseHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, h.length)
	if _, err := io.ReadFull(r, rest); err != nil {
		t.Fatal(err)
	}
	return h, string(rest[:h.meta]), string(rest[h.meta:])
}

func wantEnd(t testing.TB, c *Conn, want error) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("the connection goes on")
	}
	if !errors.Is(c.Err(), want) {
		t.Fatalf("end = %v, want %v", c.Err(), want)
	}
}

func TestBrokenStreams(t *testing.T) {
	request := frameOf(header{kind: kindRequest, call: 1}, "echo", "body")
	for _, c := range []struct {
		name string
		in   []byte
		want error
	}{
		{"nothing", nil, io.EOF},
		{"garbage", []byte(strings.Repeat("GET / HTTP/1.1\r\n", 10)), ErrMalformed},
		{"zeros", make([]byte, 100), ErrMalformed},
		{"4 GiB", header{kind: kindRequest, length: 1<<32 - 1}.append(nil), ErrMalformed},
		{"half a header", request[:10], io.ErrUnexpectedEOF},
		{"half a target", request[:34], io.ErrUnexpectedEOF},
		{"half a body", request[:38], io.ErrUnexpectedEOF},
		{"half a body after a whole frame", append(bytes.Clone(request), request[:38]...), ErrMalformed}, // the same number twice
		{"half a frame of a later kind", header{kind: 9, length: 100}.append(nil), io.ErrUnexpectedEOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			wait := func(ctx context.Context, r Request) (Response, error) { <-ctx.Done(); return Response{}, nil }
			conn, peer := victim(t, Config{Handler: wait})
			write(t, peer, c.in)
			peer.(*net.UnixConn).CloseWrite()
			wantEnd(t, conn, c.want)
			_, err := conn.Call(context.Background(), Request{})
			wantCode(t, err, NotSent, "closed")
		})
	}
}

// TestHalfFrameTakesNoMemory claims the largest body on many connections and sends nothing of it.
func TestHalfFrameTakesNoMemory(t *testing.T) {
	const conns = 50
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range conns {
		c, peer := victim(t, Config{Handler: echo})
		write(t, peer, header{kind: kindRequest, call: 1, length: MaxBody}.append(nil), make([]byte, 100))
		peer.(*net.UnixConn).CloseWrite()
		wantEnd(t, c, io.ErrUnexpectedEOF)
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / conns; each > 4*firstChunk {
		t.Errorf("each connection took %d bytes", each)
	}
}

func TestUnknownNumbers(t *testing.T) {
	c, peer := victim(t, Config{Handler: echo})
	write(t, peer,
		header{kind: kindCancel, call: 77}.append(nil),
		frameOf(header{kind: kindResponse, call: 77}, "", "nobody asked"),
		frameOf(header{kind: kindResponse, call: 78, code: Failed}, "hint", "nobody asked"),
		frameOf(header{kind: kindResponse, call: 79}, "", strings.Repeat("x", 1<<20)),
		frameOf(header{kind: 200, call: 1}, "meta", "of a later version"),
		frameOf(header{kind: kindRequest, call: 5, codec: 99}, "echo", "still there"))
	h, _, body := readFrame(t, peer)
	if h.call != 5 || h.code != OK || h.codec != 99 || body != "still there" {
		t.Fatalf("%+v %q", h, body)
	}
	if c.Err() != nil {
		t.Fatal(c.Err())
	}
}

func TestSameNumberTwice(t *testing.T) {
	c, peer := victim(t, Config{Handler: echo})
	r := frameOf(header{kind: kindRequest, call: 5}, "wait", "")
	write(t, peer, r, r)
	wantEnd(t, c, ErrMalformed)
}

func TestOverload(t *testing.T) {
	c, peer := victim(t, Config{Handler: echo, MaxInflight: 2, MaxBuffered: 100, MaxBody: 80})
	write(t, peer,
		frameOf(header{kind: kindRequest, call: 1}, "wait", ""),
		frameOf(header{kind: kindRequest, call: 2}, "wait", strings.Repeat("x", 60)),
		frameOf(header{kind: kindRequest, call: 3}, "echo", "one too many"))
	h, _, body := readFrame(t, peer)
	if h.call != 3 || h.code != Overloaded || !strings.Contains(body, "2 calls") {
		t.Fatalf("%+v %q", h, body)
	}
	write(t, peer, header{kind: kindCancel, call: 1}.append(nil))
	for c.Serving() != 1 {
		runtime.Gosched()
	}
	write(t, peer, frameOf(header{kind: kindRequest, call: 4}, "echo", strings.Repeat("x", 60)))
	if h, _, body = readFrame(t, peer); h.call != 4 || h.code != Overloaded || !strings.Contains(body, "120 bytes") {
		t.Fatalf("%+v %q", h, body)
	}
	write(t, peer, frameOf(header{kind: kindRequest, call: 5}, "echo", strings.Repeat("x", 81)))
	if h, _, body = readFrame(t, peer); h.call != 5 || h.code != TooLarge {
		t.Fatalf("%+v %q", h, body)
	}
	write(t, peer, frameOf(header{kind: kindRequest, call: 6}, "echo", "fits"))
	if h, _, body = readFrame(t, peer); h.call != 6 || h.code != OK || body != "fits" {
		t.Fatalf("%+v %q", h, body)
	}
	if n := c.Shed(); n != 2 { // 3 and 4; one that is too large is none
		t.Errorf("%d calls were shed, want 2", n)
	}
}

// TestShedIsOfThisEnd has a handler that answers Overloaded, as one does whose
// own calls are refused: its replica was not the one that had too much.
func TestShedIsOfThisEnd(t *testing.T) {
	c, s := connect(t, Config{}, Config{Handler: func(context.Context, Request) (Response, error) {
		return Response{}, &Error{Code: Overloaded, Message: "the ledger has too much to do"}
	}})
	_, err := c.Call(context.Background(), Request{})
	wantCode(t, err, Overloaded, "ledger")
	if s.Shed() != 0 || c.Shed() != 0 {
		t.Errorf("shed: %d, %d", s.Shed(), c.Shed())
	}
}

// TestFloodWithoutReading sends requests for ever and reads no answer: the
// connection must end, and hold no more than its limits until then.
func TestFloodWithoutReading(t *testing.T) {
	c, peer := victim(t, Config{Handler: echo, MaxInflight: 4})
	call := uint64(0)
	for c.Err() == nil {
		call++
		if _, err := peer.Write(frameOf(header{kind: kindRequest, call: call}, "wait", "")); err != nil {
			break
		}
		if call > 1_000_000 {
			t.Fatal("a million requests and no end")
		}
	}
	wantEnd(t, c, errFlood)
}

// TestResponsesThatNobodyReads asks for large responses and reads none.
func TestResponsesThatNobodyReads(t *testing.T) {
	var made atomic.Int64
	large := func(ctx context.Context, r Request) (Response, error) {
		defer made.Add(1)
		return Response{Body: make([]byte, 1<<20)}, nil
	}
	const buffered = 1 << 20
	c, peer := victim(t, Config{Handler: large, MaxBuffered: buffered})
	for call := range uint64(500) {
		write(t, peer, frameOf(header{kind: kindRequest, call: call}, "large", ""))
	}
	for made.Load() < 500 {
		runtime.Gosched()
	}
	c.serving.mu.Lock()
	waiting := c.serving.answers
	c.serving.mu.Unlock()
	if waiting > answersPerBuffered*buffered {
		t.Errorf("%d bytes wait to be read", waiting)
	}
	// who reads late still gets an answer to each call
	ok, dropped := 0, 0
	for range 500 {
		switch h, _, body := readFrame(t, peer); {
		case h.code == OK && len(body) == 1<<20:
			ok++
		case h.code == Unavailable && strings.Contains(body, "dropped"):
			dropped++
		default:
			t.Fatalf("%+v", h)
		}
	}
	if ok == 0 || dropped == 0 {
		t.Errorf("%d answers, %d dropped", ok, dropped)
	}
}

// TestPeerThatDoesNotRead shows that a caller's deadline holds even while nothing can be written.
func TestPeerThatDoesNotRead(t *testing.T) {
	c, _ := victim(t, Config{})
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	results := make(chan error, 100)
	for range 100 {
		go func() {
			_, err := c.Call(ctx, Request{Target: "x", Body: make([]byte, 1<<20)})
			results <- err
		}()
	}
	for range 100 {
		wantCode(t, <-results, Timeout, "")
	}
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if len(c.out.buf) > maxQueue+2<<20 {
		t.Errorf("%d bytes are queued", len(c.out.buf))
	}
}

func TestHostileErrorText(t *testing.T) {
	c, peer := victim(t, Config{})
	go func() {
		h, _, _ := readFrame(t, peer)
		write(t, peer, frameOf(header{kind: kindResponse, call: h.call, code: 4242}, "\xff\xfehint", strings.Repeat("\xff", MaxMessage)))
	}()
	_, err := c.Call(context.Background(), Request{Target: "x"})
	var e *Error
	if !errors.As(err, &e) || e.Code != 4242 || e.Hint != "?hint" || e.Code.String() != "code_4242" {
		t.Fatalf("%#v", err)
	}
	if len(e.Message) > MaxMessage {
		t.Fatalf("message of %d bytes", len(e.Message))
	}
}

// FuzzStream feeds a connection with whatever a peer may send.
func FuzzStream(f *testing.F) {
	request := frameOf(header{kind: kindRequest, call: 1, remaining: 1000}, "echo", "body")
	f.Add(request)
	f.Add(append(bytes.Clone(request), header{kind: kindCancel, call: 1}.append(nil)...))
	f.Add(frameOf(header{kind: kindResponse, call: 1}, "", "body"))
	f.Add(frameOf(header{kind: kindResponse, call: 2, code: Failed}, "hint", "message"))
	f.Add(binary.LittleEndian.AppendUint32(nil, 1<<32-1))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := &script{in: bytes.NewReader(in), closed: make(chan struct{})}
		c := NewConn(s, Config{Handler: echo})
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		c.Call(ctx, Request{Target: "echo"})
		<-c.Done()
		if c.Err() == nil {
			t.Fatal("ended without a reason")
		}
		c.Close()
	})
}

// script is a peer that says in and swallows all answers.
type script struct {
	in     *bytes.Reader
	closed chan struct{}
}

func (s *script) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *script) Write(b []byte) (int, error) { return len(b), nil }
func (s *script) Close() error                { close(s.closed); return nil }
