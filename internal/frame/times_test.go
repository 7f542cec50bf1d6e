package frame

import (
	"context"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/sim"
)

// near reports whether got is within the error of a bucket of want.
func near(got, want time.Duration) bool {
	return math.Abs(float64(got-want)) <= max(float64(want)/16, float64(time.Microsecond))
}

// timed joins two connections of which the serving one is measured; a call
// takes as many microseconds as its target says.
func timed(t *testing.T) (*Conn, *Times) {
	a, b := sim.Pipe()
	times := NewTimes()
	c := NewConn(a, Config{})
	s := NewConn(b, Config{Times: times, Handler: func(_ context.Context, r Request) (Response, error) {
		us, err := strconv.Atoi(r.Target)
		time.Sleep(time.Duration(us) * time.Microsecond)
		return Response{}, err
	}})
	t.Cleanup(func() { c.Close(); s.Close() })
	return c, times
}

// callAll makes calls at once, of these durations, and waits for them.
func callAll(t *testing.T, c *Conn, durations ...time.Duration) {
	var wg sync.WaitGroup
	for _, d := range durations {
		wg.Go(func() {
			if _, err := c.Call(context.Background(), Request{Target: strconv.FormatInt(d.Microseconds(), 10)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func repeat(n int, d time.Duration) []time.Duration {
	all := make([]time.Duration, n)
	for i := range all {
		all[i] = d
	}
	return all
}

func TestP99OfKnownCalls(t *testing.T) {
	for _, c := range []struct {
		name  string
		calls []time.Duration
		want  time.Duration
	}{
		{"one short", repeat(1, 3*time.Microsecond), 3 * time.Microsecond},
		{"one of nothing", repeat(1, 0), time.Microsecond},
		{"one", repeat(1, 20*time.Millisecond), 20 * time.Millisecond},
		{"one long", repeat(1, 40*time.Minute), 40 * time.Minute},
		{"all alike", repeat(500, 777*time.Microsecond), 777 * time.Microsecond},
		{"one of a hundred is slow", append(repeat(99, 10*time.Millisecond), 900*time.Millisecond), 10 * time.Millisecond},
		{"two of a hundred are slow", append(repeat(98, 10*time.Millisecond), repeat(2, 900*time.Millisecond)...), 900 * time.Millisecond},
		{"one of ten is slow", append(repeat(9, 10*time.Millisecond), 300*time.Millisecond), 300 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, times := timed(t)
				if got := times.P99(); got != 0 {
					t.Errorf("%v before the first call", got)
				}
				callAll(t, conn, c.calls...)
				if got := times.P99(); !near(got, c.want) {
					t.Errorf("%v, want %v", got, c.want)
				}
			})
		})
	}
}

// TestTimesForget watches a call at all phases of a second: it counts for one
// second at least and for two at most, whether or not others follow.
func TestTimesForget(t *testing.T) {
	for _, others := range []bool{false, true} {
		for phase := range 10 {
			synctest.Test(t, func(t *testing.T) {
				conn, times := timed(t)
				time.Sleep(time.Duration(phase) * 100 * time.Millisecond)
				callAll(t, conn, 200*time.Millisecond)
				for age := time.Duration(0); age <= 5*time.Second; age += 50 * time.Millisecond {
					got := times.P99()
					switch {
					case age < time.Second && !near(got, 200*time.Millisecond):
						t.Fatalf("phase %d, others %v: %v after %v", phase, others, got, age)
					case age >= 2*time.Second && others && !near(got, time.Millisecond):
						t.Fatalf("phase %d: %v after %v, the others took a millisecond", phase, got, age)
					case age >= 2*time.Second && !others && got != 0:
						t.Fatalf("phase %d: %v after %v, when there was nothing", phase, got, age)
					}
					if others {
						callAll(t, conn, time.Millisecond)
						time.Sleep(49 * time.Millisecond)
					} else {
						time.Sleep(50 * time.Millisecond)
					}
				}
			})
		}
	}
}

// TestTimesForgetUnwatched lets seconds pass in which nobody adds or reads.
func TestTimesForgetUnwatched(t *testing.T) {
	for seconds := 2; seconds <= 7; seconds++ {
		synctest.Test(t, func(t *testing.T) {
			conn, times := timed(t)
			callAll(t, conn, 200*time.Millisecond)
			time.Sleep(time.Duration(seconds) * time.Second)
			if got := times.P99(); got != 0 {
				t.Errorf("%v after %d seconds of nothing", got, seconds)
			}
		})
	}
}

// TestSlowBodyIsNoSlowCall sends a body slowly: that is not the handler's time.
func TestSlowBodyIsNoSlowCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		times := NewTimes()
		a, b := sim.Pipe()
		s := NewConn(b, Config{Times: times, Handler: echo})
		defer s.Close()
		defer a.Close()
		request := frameOf(header{kind: kindRequest, call: 1}, "echo", "slow")
		write(t, a, request[:HeaderSize+5])
		time.Sleep(10 * time.Second)
		write(t, a, request[HeaderSize+5:])
		readFrame(t, a)
		if got := times.P99(); got != time.Microsecond {
			t.Errorf("%v", got)
		}
	})
}

// TestManyCallsAreSampled makes more calls than are measured.
func TestManyCallsAreSampled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		times := NewTimes()
		var skip uint32
		calls := func(n int) (measured int) {
			for i := range n {
				if start := times.start(&skip); start != 0 {
					measured++
					times.end(start - uint32(i%2)*1000) // each second one took a millisecond
				}
			}
			return measured
		}
		const many = 2 * maxMeasured
		if n := calls(many); n != many {
			t.Errorf("%d calls of the first second were measured", n)
		}
		for range 3 {
			time.Sleep(time.Second)
			calls(1) // ends the second before
			if n := calls(many); n < many/sample*3/4 || n > many/sample*5/4 {
				t.Errorf("%d of %d calls were measured", n, many)
			}
			if got := times.P99(); !near(got, time.Millisecond) {
				t.Errorf("P99 = %v", got)
			}
		}
		time.Sleep(time.Second)
		calls(100)
		time.Sleep(time.Second)
		times.P99()
		if n := calls(100); n != 100 {
			t.Errorf("%d of a hundred calls were measured after a quiet second", n)
		}
	})
}

func TestBuckets(t *testing.T) {
	check := func(us uint32) {
		b := bucketOf(us)
		if b < 0 || b >= buckets {
			t.Fatalf("%d µs are in bucket %d", us, b)
		}
		if want := time.Duration(us) * time.Microsecond; !near(middle(b), want) {
			t.Fatalf("%v is counted as %v", want, middle(b))
		}
	}
	for us := range uint32(1 << 12) {
		check(us)
	}
	for shift := range 32 {
		check(1 << shift)
		check(1<<shift - 1)
	}
	check(math.MaxUint32)
	for range 10_000 {
		check(rand.Uint32())
	}
}

// TestTimesFromManySides adds and reads at once; the race detector looks on.
func TestTimesFromManySides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		times := NewTimes()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				skip := uint32(0)
				for range 50 {
					start := times.start(&skip)
					time.Sleep(time.Duration(50+i) * time.Millisecond)
					times.end(start)
					if got := times.P99(); got < 40*time.Millisecond || got > 70*time.Millisecond {
						t.Errorf("%v", got)
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestTimesTakeNoMemory(t *testing.T) {
	times, skip := NewTimes(), uint32(0)
	if n := testing.AllocsPerRun(1000, func() { times.end(times.start(&skip)); times.P99() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
