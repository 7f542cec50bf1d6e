package membrane

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/ops"
	"cell.network/cell/internal/sim"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rawLink returns a link, and the bare other end of its socket.
func rawLink(t testing.TB, maxEnds int) (*fdLink, *net.UnixConn) {
	t.Helper()
	a, b, err := SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	l := newFDLink(a.(*net.UnixConn), maxEnds)
	t.Cleanup(func() { l.Close(); b.Close() })
	return l, b.(*net.UnixConn)
}

func message(length, ends int, body string) []byte {
	b := binary.LittleEndian.AppendUint16(nil, uint16(length))
	return append(append(b, byte(ends), 0), body...)
}

// openFiles counts the descriptors of this process.
func openFiles(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no list of open descriptors here")
	}
	return len(all)
}

// descriptors opens n sockets; their numbers may be sent more than once.
func descriptors(t *testing.T, n int) []int {
	t.Helper()
	var fds []int
	for len(fds) < n {
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, pair[:]...)
	}
	t.Cleanup(func() {
		for _, fd := range fds {
			syscall.Close(fd)
		}
	})
	return fds[:n]
}

// TestDescriptorsAreCounted sends what no correct peer sends, and looks whether
// a descriptor stays open.
func TestDescriptorsAreCounted(t *testing.T) {
	file, err := os.Open(filepath.Join(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fds := descriptors(t, 16)
	type part struct {
		b   []byte
		fds []int
	}
	whole := message(2, 1, "hi")
	for _, c := range []struct {
		name    string
		maxEnds int
		parts   []part
		want    error
	}{
		{"one as announced", 1, []part{{whole, fds[:1]}}, nil},
		{"one byte at a time", 1, []part{{whole[:1], fds[:1]}, {whole[1:2], nil}, {whole[2:5], nil}, {whole[5:], nil}}, nil},
		{"announced, none came", 1, []part{{whole, nil}}, ErrLink},
		{"not announced", 1, []part{{message(2, 0, "hi"), fds[:1]}}, ErrLink},
		{"two", 1, []part{{message(2, 2, "hi"), fds[:2]}}, ErrLink},
		{"sixteen", 1, []part{{message(2, 16, "hi"), fds}}, ErrLink},
		{"two with the header in parts", 1, []part{{whole[:1], fds[:1]}, {whole[1:], fds[1:2]}}, ErrLink},
		{"in the middle of the message", 1, []part{{message(2, 0, ""), nil}, {[]byte("hi"), fds[:1]}}, ErrLink},
		{"a second one in the middle", 1, []part{{message(2, 1, ""), fds[:1]}, {[]byte("hi"), fds[1:2]}}, ErrLink},
		{"of a folder", 1, []part{{whole, []int{int(file.Fd())}}}, ErrLink},
		{"from a replica", 0, []part{{whole, fds[:1]}}, ErrLink},
		{"from a replica, not announced", 0, []part{{message(2, 0, "hi"), fds[:1]}}, ErrLink},
		{"sixteen from a replica", 0, []part{{whole, fds}}, ErrLink},
		{"half a message with one", 1, []part{{whole[:5], fds[:1]}}, io.ErrUnexpectedEOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, peer := rawLink(t, c.maxEnds)
			before := openFiles(t)
			go func() {
				for _, p := range c.parts {
					var oob []byte
					if len(p.fds) > 0 {
						oob = syscall.UnixRights(p.fds...)
					}
					if _, _, err := peer.WriteMsgUnix(p.b, oob, nil); err != nil {
						t.Error(err)
					}
				}
				peer.CloseWrite()
			}()
			msg, ends, err := l.Recv()
			if !errors.Is(err, c.want) || err == nil && (string(msg) != "hi" || len(ends) != 1) {
				t.Fatalf("%q with %d ends, %v; want %v", msg, len(ends), err, c.want)
			}
			closeAll(ends)
			if err != nil {
				before-- // the link closed itself
			}
			if after := openFiles(t); after != before {
				t.Errorf("%d descriptors, %d before", after, before)
			}
		})
	}
}

func TestBrokenLinks(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want error
	}{
		{"nothing", nil, io.EOF},
		{"empty message", message(0, 0, ""), ErrLink},
		{"long message", message(ops.MaxMessage+1, 0, ""), ErrLink},
		{"reserved byte", []byte{1, 0, 0, 9, 'x'}, ErrLink},
		{"half a header", []byte{1, 0}, io.ErrUnexpectedEOF},
		{"half a message", message(5, 0, "hi"), io.ErrUnexpectedEOF},
		{"garbage", []byte("GET / HTTP/1.1\r\n"), ErrLink},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, peer := rawLink(t, 1)
			if _, err := peer.Write(c.in); err != nil {
				t.Fatal(err)
			}
			peer.CloseWrite()
			if msg, _, err := l.Recv(); !errors.Is(err, c.want) {
				t.Fatalf("%q, %v; want %v", msg, err, c.want)
			}
			if _, _, err := l.Recv(); err == nil {
				t.Error("the link goes on")
			}
		})
	}
}

// TestNodeKeepsNothing hands over many connections and counts what stays open.
func TestNodeKeepsNothing(t *testing.T) {
	l, peer := rawLink(t, 1)
	other := newFDLink(peer, 1)
	before := openFiles(t)
	for range 50 {
		a, b, err := SocketPair()
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Send([]byte("x"), b); err != nil {
			t.Fatal(err)
		}
		_, ends, err := other.Recv()
		if err != nil {
			t.Fatal(err)
		}
		ends[0].Close()
		a.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := a.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("the end is still held: %v", err)
		}
		a.Close()
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func TestSendRefuses(t *testing.T) {
	l, peer := rawLink(t, 1)
	a, b, _ := SocketPair()
	if err := l.Send([]byte("x"), a, b); err == nil {
		t.Error("two connections went out")
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a connection that could not be sent is open: %v", err)
	}
	if err := l.Send(nil); err == nil {
		t.Error("an empty message went out")
	}
	if err := l.Send(make([]byte, ops.MaxMessage+1)); err == nil {
		t.Error("a message over the limit went out")
	}
	c, d := sim.Pipe()
	defer d.Close()
	if err := l.Send([]byte("x"), c); err == nil {
		t.Error("a connection in memory went out")
	}
	if err := l.Send([]byte("still works")); err != nil {
		t.Error(err)
	}
	peer.Close()
}

// TestPeerThatDoesNotRead fills a link that nobody reads.
func TestPeerThatDoesNotRead(t *testing.T) {
	l, _ := rawLink(t, 0)
	l.timeout = 50 * time.Millisecond
	var err error
	for range 10_000 {
		if err = l.Send(make([]byte, ops.MaxMessage)); err != nil {
			break
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("error = %v", err)
	}
	if _, _, err := l.Recv(); !errors.Is(err, ErrClosed) {
		t.Errorf("the link goes on: %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		a, b := MemLink()
		defer b.Close()
		for range maxQueued {
			if err := a.Send([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		if err := a.Send([]byte("x")); err != ErrClosed || time.Since(start) != SendTimeout {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
	})
}

// TestMemLinkEnd closes a link with connections under way.
func TestMemLinkEnd(t *testing.T) {
	a, b := MemLink()
	near, far := sim.Pipe()
	if err := a.Send([]byte("x"), far); err != nil {
		t.Fatal(err)
	}
	b.Close()
	b.Close()
	if _, err := near.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection under way is open: %v", err)
	}
	if _, _, err := a.Recv(); err != io.EOF {
		t.Errorf("receive: %v", err)
	}
	near, far = sim.Pipe()
	if err := a.Send([]byte("x"), far); err != io.ErrClosedPipe {
		t.Errorf("send: %v", err)
	}
	if _, err := near.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection that could not be sent is open: %v", err)
	}
}

// TestHostileReplica says to a node what a replica must not say.
func TestHostileReplica(t *testing.T) {
	encode := func(m ops.Message) []byte {
		b, err := ops.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	ready := encode(ops.Ready{Version: "v1", Methods: []string{"hello"}})
	for _, c := range []struct {
		name string
		in   [][]byte
		want error
	}{
		{"ready twice", [][]byte{ready, ready}, ErrLink},
		{"a method with a slash", [][]byte{encode(ops.Ready{Methods: []string{"a/b"}})}, ErrLink},
		{"the node's words", [][]byte{encode(ops.Stop{})}, ErrLink},
		{"garbage", [][]byte{[]byte("garbage")}, ops.ErrMalformed},
		{"another version", [][]byte{{0x83, 2, 8, 0x80}}, ops.ErrVersion},
		{"a pong that nobody asked for, and a later kind", [][]byte{encode(ops.Pong{Seq: 9}), {0x83, 1, 0x18, 99, 0x80}}, io.EOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			node, replica := MemLink()
			p := NewPort(node, PortConfig{})
			for _, m := range c.in {
				if err := replica.Send(m); err != nil {
					break
				}
			}
			if c.want == io.EOF {
				replica.Close()
			}
			<-p.Done()
			if !errors.Is(p.Err(), c.want) {
				t.Errorf("end = %v, want %v", p.Err(), c.want)
			}
		})
	}
}

// TestConnectFlood asks for more connections at once than a node makes.
func TestConnectFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node, replica := MemLink()
		var at, most atomic.Int64
		p := NewPort(node, PortConfig{MaxConnects: 3, OnConnect: func(ctx context.Context, target string) (net.Conn, error) {
			n := at.Add(1)
			defer at.Add(-1)
			most.Store(max(most.Load(), n))
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			return nil, errors.New("none")
		}})
		r, err := Serve(context.Background(), replica, nil, echo)
		if err != nil {
			t.Fatal(err)
		}
		codes := make(chan frame.Code, 100)
		for range 100 {
			go func() {
				_, err := r.Connect(context.Background(), "x")
				var e *frame.Error
				if !errors.As(err, &e) {
					t.Errorf("error = %v", err)
					e = new(frame.Error)
				}
				codes <- e.Code
			}()
		}
		count := map[frame.Code]int{}
		for range 100 {
			count[<-codes]++
		}
		if most.Load() != 3 || count[frame.Failed] != 3 || count[frame.Overloaded] != 97 {
			t.Errorf("%d at once, codes %v", most.Load(), count)
		}
		p.Close()
		r.Wait()
	})
}

// TestConnectGivenUp gives up just before the connection arrives: it must be closed.
func TestConnectGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node, replica := MemLink()
		far := make(chan net.Conn, 1)
		p := NewPort(node, PortConfig{OnConnect: func(context.Context, string) (net.Conn, error) {
			time.Sleep(time.Second)
			a, b := sim.Pipe()
			far <- b
			return a, nil
		}})
		r, err := Serve(context.Background(), replica, nil, echo)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second-1)
		defer cancel()
		if _, err := r.Connect(ctx, "x"); !errors.Is(err, &frame.Error{Code: frame.Timeout}) {
			t.Errorf("error = %v", err)
		}
		if _, err := (<-far).Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the connection is open: %v", err)
		}
		p.Close()
		r.Wait()
	})
}

// TestDrain ends a replica with one call in flight and refuses the next one.
func TestDrain(t *testing.T) {
	for _, patient := range []bool{true, false} {
		t.Run(fmt.Sprintf("patient=%v", patient), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				node, replica := MemLink()
				p := NewPort(node, PortConfig{Pair: func() (net.Conn, net.Conn, error) { a, b := sim.Pipe(); return a, b, nil }})
				r, err := Serve(context.Background(), replica, []string{"slow"}, func(ctx context.Context, _ frame.Request) (frame.Response, error) {
					select {
					case <-time.After(3 * time.Second):
					case <-ctx.Done():
					}
					return frame.Response{Body: []byte("done")}, ctx.Err()
				})
				if err != nil {
					t.Fatal(err)
				}
				conn, err := p.Dial(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				result := make(chan error, 1)
				go func() { _, err := conn.Call(context.Background(), frame.Request{}); result <- err }()
				synctest.Wait()
				limit := 10 * time.Second
				if !patient {
					limit = time.Second
				}
				start := time.Now()
				drained := make(chan error, 1)
				go func() {
					ctx, cancel := context.WithTimeout(context.Background(), limit+time.Millisecond)
					defer cancel()
					drained <- p.Drain(ctx)
				}()
				synctest.Wait()
				_, err = conn.Call(context.Background(), frame.Request{})
				if !errors.Is(err, &frame.Error{Code: frame.Draining}) {
					t.Errorf("a new call: %v", err)
				}
				if err := r.Wait(); err != nil {
					t.Errorf("end = %v", err)
				}
				want, took := 3*time.Second, time.Since(start)
				if !patient {
					want = limit
				}
				if took.Round(10*time.Millisecond) != want {
					t.Errorf("it took %v, want %v", took, want)
				}
				if err := <-result; (err == nil) != patient {
					t.Errorf("the call in flight: %v", err)
				}
				<-drained
				p.Close()
			})
		})
	}
}

func TestIsLink(t *testing.T) {
	node, file, err := NewLink()
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	defer file.Close()
	named, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer named.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, c := range []struct {
		name string
		of   syscall.Conn
		want bool
	}{{"link", file, true}, {"listener", named.(*net.UnixListener), false}, {"device", null, false}} {
		raw, err := c.of.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			if got := IsLink(fd); got != c.want {
				t.Errorf("%s: %v", c.name, got)
			}
		})
	}
	if _, err := LinkFromFD(1 << 20); err == nil || !strings.Contains(err.Error(), "descriptor 1048576") {
		t.Errorf("a descriptor that is not open: %v", err)
	}
}

// FuzzRecv feeds a link with whatever a peer may write.
func FuzzRecv(f *testing.F) {
	f.Add(message(2, 0, "hi"))
	f.Add(message(2, 1, "hi"))
	f.Add(append(message(2, 0, "hi"), message(5, 0, "hello")...))
	f.Fuzz(func(t *testing.T, in []byte) {
		l, peer := rawLink(t, 1)
		defer peer.Close()
		go func() {
			peer.Write(in)
			peer.CloseWrite()
		}()
		for {
			msg, ends, err := l.Recv()
			if err != nil {
				return
			}
			if len(ends) != 0 || len(msg) == 0 || len(msg) > ops.MaxMessage {
				t.Fatalf("%d bytes with %d ends", len(msg), len(ends))
			}
		}
	})
}

// FuzzMessages says anything to both sides.
func FuzzMessages(f *testing.F) {
	for _, m := range []ops.Message{
		ops.Ready{Version: "v1", Methods: []string{"hello"}}, ops.Serve{}, ops.Connect{Seq: 1, Target: "x"},
		ops.Connected{Seq: 1}, ops.Connected{Seq: 1, Code: 3}, ops.Ping{Seq: 1}, ops.Pong{Seq: 1}, ops.Drain{}, ops.Stop{},
	} {
		b, err := ops.Encode(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, b)
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		node, mine := MemLink()
		p := NewPort(node, PortConfig{OnConnect: func(context.Context, string) (net.Conn, error) { return nil, errors.New("no") }})
		mine.Send(one)
		mine.Send(two)
		mine.Close()
		<-p.Done()
		p.Close()

		replica, mine := MemLink()
		r, err := Serve(context.Background(), replica, nil, echo)
		if err != nil {
			t.Fatal(err)
		}
		near, far := sim.Pipe()
		mine.Send(one, far)
		mine.Send(two)
		mine.Close()
		r.Wait()
		if _, err := near.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("the connection is open: %v", err)
		}
	})
}
