package report

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errBroken = errors.New("broken")

// sleeper takes d for each operation, and says that it uses d/2 of CPU time.
func sleeper(d time.Duration) Contender {
	var used atomic.Int64
	return Contender{
		Op: func(context.Context) (time.Duration, error) {
			time.Sleep(d)
			used.Add(int64(d / 2))
			return d, nil
		},
		CPU: func() (time.Duration, error) { return time.Duration(used.Load()), nil },
	}
}

func near(got, want time.Duration) bool { return (got - want).Abs() <= want/50 }

func TestRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		breaks := sleeper(time.Millisecond)
		breaks.Op = func(context.Context) (time.Duration, error) {
			if calls.Add(1) > 150 {
				return 0, errBroken
			}
			time.Sleep(time.Millisecond)
			return 0, nil
		}
		sides := Rounds(t.Context(), Plan{Callers: 4, Each: 100 * time.Millisecond, Rand: rand.New(rand.NewPCG(1, 1))},
			[]Contender{sleeper(2 * time.Millisecond), sleeper(10 * time.Millisecond), {Err: errBroken}, breaks})
		for i, want := range []time.Duration{2 * time.Millisecond, 10 * time.Millisecond} {
			s := sides[i]
			if s.Err != nil || !near(s.P50, want) || !near(s.P99, want) || s.CPU != want/2 {
				t.Errorf("sleeper of %v: %+v", want, s)
			}
			if rate := 4 / want.Seconds(); s.Rate < 0.98*rate || s.Rate > 1.02*rate {
				t.Errorf("sleeper of %v: %v op/s, want %v", want, s.Rate, rate)
			}
			if n := int(3 * 4 * 100 * time.Millisecond / want); s.Samples != n {
				t.Errorf("sleeper of %v: %d samples, want %d", want, s.Samples, n)
			}
		}
		for _, s := range sides[2:] {
			if !errors.Is(s.Err, errBroken) {
				t.Errorf("a contender that fails has error %v", s.Err)
			}
		}
	})
}

func TestRoundsEndWithHungPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := sleeper(0)
		hangs.Op = func(ctx context.Context) (time.Duration, error) { <-ctx.Done(); return 0, ctx.Err() }
		sides := Rounds(t.Context(), Plan{Rand: rand.New(rand.NewPCG(1, 1))}, []Contender{hangs})
		if !errors.Is(sides[0].Err, context.DeadlineExceeded) {
			t.Errorf("error %v", sides[0].Err)
		}
	})
}

func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails := func(every int) Contender {
			c, n := sleeper(time.Millisecond), 0
			op := c.Op
			c.Op = func(ctx context.Context) (time.Duration, error) {
				if n++; n%every == 0 {
					return 0, errBroken
				}
				return op(ctx)
			}
			return c
		}
		sides := Times(t.Context(), 20, rand.New(rand.NewPCG(1, 1)), []Contender{sleeper(3 * time.Millisecond), fails(10), fails(1), {Err: errBroken}})
		if s := sides[0]; s.Err != nil || s.Samples != 20 || !near(s.P50, 3*time.Millisecond) || s.CPU != 1500*time.Microsecond {
			t.Errorf("sleeper: %+v", s)
		}
		if s := sides[1]; s.Err != nil || s.Samples != 18 {
			t.Errorf("a contender that fails twice: %+v", s)
		}
		for _, s := range sides[2:] {
			if !errors.Is(s.Err, errBroken) {
				t.Errorf("a contender that fails: %+v", s)
			}
		}
	})
}

func TestMedianIsNotSpoiltByOneRound(t *testing.T) {
	s := median([]Side{{P50: 3, Rate: 30, Samples: 1}, {P50: 1000, Rate: 1, Samples: 1}, {P50: 2, Rate: 40, Samples: 1}})
	if s.P50 != 3 || s.Rate != 30 || s.Samples != 3 {
		t.Errorf("%+v", s)
	}
}
