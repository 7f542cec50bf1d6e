package frame

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/sim"
)

// inMemory joins two connections in memory, for virtual time.
func inMemory(t *testing.T, h Handler) (client, server *Conn) {
	a, b := sim.Pipe()
	c, s := NewConn(a, Config{}), NewConn(b, Config{Handler: h})
	t.Cleanup(func() {
		c.Close()
		s.Close()
	})
	return c, s
}

func TestDeadlineCrosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := make(chan error, 1)
		c, _ := inMemory(t, func(ctx context.Context, r Request) (Response, error) {
			deadline, ok := ctx.Deadline()
			if left := time.Until(deadline); !ok || left != 3*time.Second {
				t.Errorf("the handler has %v, %v", left, ok)
			}
			if ctx.Err() != nil {
				t.Errorf("ended at once: %v", ctx.Err())
			}
			derived, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			<-derived.Done()
			seen <- ctx.Err()
			return Response{}, ctx.Err()
		})
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		start := time.Now()
		_, err := c.Call(ctx, Request{})
		wantCode(t, err, Timeout, "")
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("it took %v", took)
		}
		if err := <-seen; !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			t.Errorf("the handler saw %v", err)
		}
		_, err = c.Call(ctx, Request{})
		wantCode(t, err, Timeout, "")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v is no deadline", err)
		}
	})
}

// TestErrWithoutDone asks a context for its end without having asked for its channel.
func TestErrWithoutDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := &inbound{deadline: time.Now().Add(time.Second)}
		time.Sleep(time.Second - 1)
		if err := in.Err(); err != nil {
			t.Errorf("early: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if err := in.Err(); err != context.DeadlineExceeded {
			t.Errorf("late: %v", err)
		}
		select {
		case <-in.Done():
		default:
			t.Error("Done is open")
		}
		called := make(chan bool)
		context.AfterFunc(in, func() { close(called) })
		<-called
	})
}

func TestAfterFunc(t *testing.T) {
	in := new(inbound)
	stopped := context.AfterFunc(in, func() { t.Error("called though stopped") })
	called := make(chan bool)
	stop := context.AfterFunc(in, func() { close(called) })
	if !stopped() || stopped() {
		t.Error("stop must report once that it stopped")
	}
	in.end(context.Canceled)
	in.end(context.DeadlineExceeded)
	<-called
	if stop() {
		t.Error("stopped what had been called")
	}
	if in.Err() != context.Canceled {
		t.Errorf("the reason changed to %v", in.Err())
	}
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entered, left := make(chan bool), make(chan error)
		c, s := inMemory(t, func(ctx context.Context, r Request) (Response, error) {
			entered <- true
			<-ctx.Done()
			left <- ctx.Err()
			return Response{Body: []byte("too late")}, nil
		})
		ctx, cancel := context.WithCancel(context.Background())
		result := make(chan error)
		go func() { _, err := c.Call(ctx, Request{}); result <- err }()
		<-entered
		if c.Inflight() != 1 || s.Serving() != 1 {
			t.Errorf("in flight: %d, %d", c.Inflight(), s.Serving())
		}
		cancel()
		err := <-result
		wantCode(t, err, Cancelled, "")
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v is no cancellation", err)
		}
		if err := <-left; err != context.Canceled {
			t.Errorf("the handler saw %v", err)
		}
		synctest.Wait()
		if c.Inflight() != 0 || s.Serving() != 0 || s.Served() != 1 {
			t.Errorf("in flight: %d, %d; served %d", c.Inflight(), s.Serving(), s.Served())
		}
	})
}

func TestContextEndsWithHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := make(chan context.Context, 1)
		c, _ := inMemory(t, func(ctx context.Context, r Request) (Response, error) {
			kept <- ctx
			return Response{}, nil
		})
		if _, err := c.Call(context.Background(), Request{}); err != nil {
			t.Fatal(err)
		}
		<-(<-kept).Done()
	})
}

func TestLostConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entered := make(chan bool)
		ended := make(chan bool)
		c, s := inMemory(t, func(ctx context.Context, r Request) (Response, error) {
			close(entered)
			<-ctx.Done()
			close(ended)
			return Response{}, nil
		})
		result := make(chan error)
		go func() { _, err := c.Call(context.Background(), Request{}); result <- err }()
		<-entered
		s.Close()
		<-ended
		wantCode(t, <-result, Unavailable, "unknown")
		<-c.Done()
		if !errors.Is(c.Err(), io.EOF) || !errors.Is(s.Err(), ErrClosed) {
			t.Errorf("ends: %v, %v", c.Err(), s.Err())
		}
		_, err := c.Call(context.Background(), Request{})
		wantCode(t, err, NotSent, "closed")
	})
}

// TestNotSent loses a connection while one request is half written and another waits behind it.
func TestNotSent(t *testing.T) {
	c, peer := victim(t, Config{})
	results := make(chan error, 2)
	call := func(size int) {
		go func() {
			_, err := c.Call(context.Background(), Request{Body: make([]byte, size)})
			results <- err
		}()
	}
	call(MaxBody)
	for busy := false; !busy; { // the first batch is being written
		c.out.mu.Lock()
		busy = c.out.busy
		c.out.mu.Unlock()
	}
	call(1)
	for c.Inflight() != 2 {
	}
	peer.Close()
	codes := map[Code]int{}
	for range 2 {
		var e *Error
		if err := <-results; !errors.As(err, &e) {
			t.Fatal(err)
		}
		codes[e.Code]++
	}
	if codes[Unavailable] != 1 || codes[NotSent] != 1 {
		t.Errorf("codes: %v", codes)
	}
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entered, release := make(chan bool), make(chan bool)
		c, s := inMemory(t, func(ctx context.Context, r Request) (Response, error) {
			entered <- true
			<-release
			return Response{Body: []byte("done")}, nil
		})
		result := make(chan string)
		go func() {
			r, err := c.Call(context.Background(), Request{})
			if err != nil {
				t.Error(err)
			}
			result <- string(r.Body)
		}()
		<-entered
		short, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := s.Drain(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("drain without patience: %v", err)
		}
		drained := make(chan error)
		go func() { drained <- s.Drain(context.Background()) }()
		synctest.Wait()
		_, err := c.Call(context.Background(), Request{})
		wantCode(t, err, Draining, "")
		close(release)
		if err := <-drained; err != nil {
			t.Error(err)
		}
		s.Close() // all responses have been written
		if got := <-result; got != "done" {
			t.Errorf("the call in flight got %q", got)
		}
	})
}

// TestDrainTakesWhatIsUnderWay drains an end while a request lies unread in
// its stream: that one is served, and what comes long after is refused.
func TestDrainTakesWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, stream := sim.Pipe()
		hold := make(chan struct{})
		s := NewConn(&heldStream{stream, hold}, Config{Handler: echo})
		defer s.Close()
		request := func(call uint64) []byte { return header{kind: kindRequest, call: call}.append(nil) }
		if _, err := peer.Write(request(1)); err != nil {
			t.Fatal(err)
		}
		drained := make(chan error, 1)
		go func() { drained <- s.Drain(t.Context()) }()
		synctest.Wait()
		close(hold) // it reads only now
		code := func() Code {
			for {
				var b [HeaderSize]byte
				if _, err := io.ReadFull(peer, b[:]); err != nil {
					t.Fatal(err)
				}
				h, err := parseHeader(b[:])
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.CopyN(io.Discard, peer, int64(h.length)); err != nil {
					t.Fatal(err)
				}
				if h.kind == kindResponse {
					return h.code
				}
			}
		}
		if c := code(); c != OK {
			t.Errorf("the request under way: %v", c)
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
		if _, err := peer.Write(request(2)); err != nil {
			t.Fatal(err)
		}
		if c := code(); c != Draining {
			t.Errorf("a request after all that: %v", c)
		}
	})
}

// TestDrainWritesTheLastAnswer drains an end whose peer serves as well: a request
// of the last moment is served, and its answer written before Drain returns.
func TestDrainWritesTheLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, stream := sim.Pipe()
		slow := &slowStream{Conn: stream}
		s := NewConn(slow, Config{Handler: func(ctx context.Context, r Request) (Response, error) {
			time.Sleep(hangUp / 20)
			slow.delay.Store(int64(50 * time.Millisecond))
			return echo(ctx, r)
		}})
		go func() {
			time.Sleep(hangUp*19/20 - time.Millisecond)
			_, _ = peer.Write(header{kind: kindRequest, call: 1}.append(nil))
		}()
		answered := make(chan Code, 1)
		go func() {
			for {
				var b [HeaderSize]byte
				if _, err := io.ReadFull(peer, b[:]); err != nil {
					close(answered)
					return
				}
				if h, err := parseHeader(b[:]); err == nil && h.kind == kindResponse {
					answered <- h.code
					return
				}
			}
		}()
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		s.Close()
		if c, ok := <-answered; !ok || c != OK {
			t.Errorf("the last request: answered %v, %v", ok, c)
		}
	})
}

// slowStream takes its time to write.
type slowStream struct {
	net.Conn
	delay atomic.Int64 // nanoseconds
}

func (s *slowStream) Write(b []byte) (int, error) {
	time.Sleep(time.Duration(s.delay.Load()))
	return s.Conn.Write(b)
}

// heldStream can be read from when hold is closed.
type heldStream struct {
	net.Conn
	hold chan struct{}
}

func (s *heldStream) Read(b []byte) (int, error) {
	<-s.hold
	return s.Conn.Read(b)
}

// TestLeave drains an end that many others call all the time: each request is
// answered or certainly was not executed, none is lost with the connection.
func TestLeave(t *testing.T) {
	for range 50 {
		a, b := socketPair(t)
		c, s := NewConn(a, Config{}), NewConn(b, Config{Handler: echo})
		var calls sync.WaitGroup
		for range 8 {
			calls.Go(func() {
				for {
					_, err := c.Call(context.Background(), Request{})
					if err == nil {
						continue
					}
					if e := AsError(err); e.Code != Draining && e.Code != NotSent {
						t.Errorf("%v: %v", e.Code, e)
					}
					return
				}
			})
		}
		for s.Served() == 0 {
			runtime.Gosched()
		}
		if err := s.Drain(context.Background()); err != nil {
			t.Error(err)
		}
		s.Close()
		calls.Wait()
		if err := c.Err(); !errors.Is(err, errLeft) {
			t.Errorf("the caller hung up with %v", err)
		}
	}
}

// TestLeaveWaits hangs up after the last response, also where the caller gave
// up; an end that serves as well, or knows no leave frame, is not waited for long.
func TestLeaveWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := inMemory(t, func(ctx context.Context, _ Request) (Response, error) {
			<-ctx.Done()
			time.Sleep(time.Second)
			return Response{}, ctx.Err()
		})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		go c.Call(ctx, Request{})
		synctest.Wait()
		start := time.Now()
		if err := s.Drain(context.Background()); err != nil || time.Since(start) != time.Minute+time.Second {
			t.Errorf("drained after %v: %v", time.Since(start), err)
		}
		if err := c.Err(); !errors.Is(err, errLeft) {
			t.Errorf("the caller hung up with %v", err)
		}

		a, b := sim.Pipe()
		both, s := NewConn(a, Config{Handler: echo}), NewConn(b, Config{Handler: echo})
		defer both.Close()
		defer s.Close()
		start = time.Now()
		if err := s.Drain(context.Background()); err != nil || time.Since(start) != hangUp {
			t.Errorf("drained after %v: %v", time.Since(start), err)
		}
		_, err := both.Call(context.Background(), Request{})
		wantCode(t, err, Draining, "")
		if _, err := s.Call(context.Background(), Request{}); err != nil {
			t.Errorf("the end that drains may call: %v", err)
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := inMemory(t, echo)
		for range 3 {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		<-s.Done()
		if err := s.Drain(context.Background()); err != nil {
			t.Errorf("drain after the end: %v", err)
		}
	})
}

// TestCloseFromHandler shows that a handler may end its own connection.
func TestCloseFromHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var server *Conn
		c, s := inMemory(t, func(context.Context, Request) (Response, error) {
			return Response{}, server.Close()
		})
		server = s
		_, err := c.Call(context.Background(), Request{})
		wantCode(t, err, Unavailable, "")
	})
}

func TestLimitOfCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := sim.Pipe()
		c, s := NewConn(a, Config{MaxInflight: 3}), NewConn(b, Config{Handler: echo})
		for range 3 {
			go c.Call(context.Background(), Request{Target: "wait"})
		}
		synctest.Wait()
		_, err := c.Call(context.Background(), Request{Target: "echo"})
		wantCode(t, err, Overloaded, "3 calls")
		c.Close()
		s.Close()
	})
}

func TestErrors(t *testing.T) {
	inner := &Error{Code: NoReplica, Message: "none", Hint: "run one"}
	for _, c := range []struct {
		in   error
		want Error
	}{
		{inner, *inner},
		{errors.Join(errors.New("call"), inner), Error{NoReplica, "call\nnone", "run one"}},
		{context.DeadlineExceeded, Error{Timeout, "context deadline exceeded", ""}},
		{context.Canceled, Error{Cancelled, "context canceled", ""}},
		{io.EOF, Error{Failed, "EOF", ""}},
	} {
		if got := AsError(c.in); *got != c.want {
			t.Errorf("%v is %+v, want %+v", c.in, *got, c.want)
		}
	}
	if AsError(nil) != nil {
		t.Error("nil is an error")
	}
	if !errors.Is(inner, &Error{Code: NoReplica}) || errors.Is(inner, &Error{Code: Failed}) {
		t.Error("errors do not match by code")
	}
	if got := (&Error{Code: Draining}).Error(); got != "draining" {
		t.Errorf("text = %q", got)
	}
	if got := (&Error{Message: "a\xff€€"}).Clip(); got.Code != Internal || got.Message != "a?€€" {
		t.Errorf("clipped: %+v", got)
	}
	if got := clip("ab€", 4); got != "ab" {
		t.Errorf("clipped in the middle of a character: %q", got)
	}
}
