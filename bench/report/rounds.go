package report

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Contender is one side of a comparison, ready to work.
type Contender struct {
	Name string
	// Op does the work once. Rounds calls it from many goroutines at once, Times
	// from one. It returns how long the part took that counts; Rounds measures
	// from the outside and ignores it.
	Op func(ctx context.Context) (time.Duration, error)
	// CPU is the time that all processes which take part have used so far.
	CPU func() (time.Duration, error)
	// Err says why there is no contender; nil: there is one.
	Err error
}

// Plan says how much to measure.
type Plan struct {
	Callers int           // goroutines that call at once; default 1
	Rounds  int           // of each contender, in turn; default 3
	Each    time.Duration // of a round; default 200 ms
	Warm    time.Duration // before the first round, not counted; default a round
	Rand    *rand.Rand    // decides who goes first in each round
}

// Rounds lets contenders work in turn, over and over, and returns for each the
// median of its rounds: a neighbour's burst spoils a round of one, not the
// comparison.
func Rounds(ctx context.Context, p Plan, contenders []Contender) []Side {
	p.Callers, p.Rounds, p.Each = cmp.Or(p.Callers, 1), cmp.Or(p.Rounds, 3), cmp.Or(p.Each, 200*time.Millisecond)
	rounds := make([][]Side, len(contenders))
	failed := make([]error, len(contenders))
	for i, c := range contenders {
		if failed[i] = c.Err; failed[i] == nil {
			failed[i] = work(ctx, c, p.Callers, cmp.Or(p.Warm, p.Each)).Err
		}
	}
	for range p.Rounds {
		for _, i := range p.Rand.Perm(len(contenders)) {
			if failed[i] != nil {
				continue
			}
			s := work(ctx, contenders[i], p.Callers, p.Each)
			failed[i] = s.Err
			rounds[i] = append(rounds[i], s)
		}
	}
	sides := make([]Side, len(contenders))
	for i := range sides {
		if sides[i].Err = failed[i]; failed[i] == nil {
			sides[i] = median(rounds[i])
		}
	}
	return sides
}

// work is one round.
func work(ctx context.Context, c Contender, callers int, d time.Duration) Side {
	ctx, cancel := context.WithTimeout(ctx, d+20*time.Second) // for a peer that hangs
	defer cancel()
	all, errs := make([]Histogram, callers), make([]error, callers)
	before, err := c.CPU()
	if err != nil {
		return Side{Err: err}
	}
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range callers {
		wg.Go(func() {
			for last := begin; last.Sub(begin) < d; {
				if _, errs[i] = c.Op(ctx); errs[i] != nil {
					return
				}
				now := time.Now()
				all[i].Add(now.Sub(last))
				last = now
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	after, err := c.CPU()
	if err = errors.Join(append(errs, err)...); err != nil {
		return Side{Err: oneOf(err)}
	}
	for i := range all[1:] {
		all[0].Merge(&all[i+1])
	}
	h, n := &all[0], all[0].Count()
	return Side{
		P50: h.Quantile(0.5), P99: h.Quantile(0.99), Samples: n,
		CPU: (after - before) / time.Duration(n), Rate: float64(n) / took.Seconds(),
	}
}

// oneOf keeps the first of many callers' errors.
func oneOf(err error) error {
	var many interface{ Unwrap() []error }
	if errors.As(err, &many) && len(many.Unwrap()) > 1 {
		return fmt.Errorf("%w (and %d more)", many.Unwrap()[0], len(many.Unwrap())-1)
	}
	return err
}

// Times lets each contender do its work n times, in turn, and returns what its
// Op reported. CPU is counted around Op. An operation that fails is left out;
// a contender of which more than a third fail has failed, with the last error.
func Times(ctx context.Context, n int, r *rand.Rand, contenders []Contender) []Side {
	took := make([]Histogram, len(contenders))
	cpu := make([]time.Duration, len(contenders))
	last, failures := make([]error, len(contenders)), make([]int, len(contenders))
	for range n {
		for _, i := range r.Perm(len(contenders)) {
			if contenders[i].Err != nil || failures[i] > n/3 {
				continue
			}
			d, used, err := once(ctx, contenders[i])
			if err != nil {
				failures[i]++
				last[i] = err
				continue
			}
			took[i].Add(d)
			cpu[i] += used
		}
	}
	sides := make([]Side, len(contenders))
	for i, c := range contenders {
		switch done := took[i].Count(); {
		case c.Err != nil:
			sides[i].Err = c.Err
		case failures[i] > n/3 || done == 0:
			sides[i].Err = fmt.Errorf("%d of %d failed, the last: %w", failures[i], failures[i]+done, last[i])
		default:
			sides[i] = Side{P50: took[i].Quantile(0.5), P99: took[i].Quantile(0.99), Samples: done, CPU: cpu[i] / time.Duration(done)}
		}
	}
	return sides
}

func once(ctx context.Context, c Contender) (took, cpu time.Duration, err error) {
	before, err := c.CPU()
	if err != nil {
		return 0, 0, err
	}
	if took, err = c.Op(ctx); err != nil {
		return 0, 0, err
	}
	after, err := c.CPU()
	return took, after - before, err
}

// median takes the median of each figure by itself, and the sum of samples.
func median(rounds []Side) Side {
	s := Side{
		P50: middleOf(rounds, func(s Side) time.Duration { return s.P50 }),
		P99: middleOf(rounds, func(s Side) time.Duration { return s.P99 }),
		CPU: middleOf(rounds, func(s Side) time.Duration { return s.CPU }), Rate: middleOf(rounds, func(s Side) float64 { return s.Rate }),
	}
	for _, r := range rounds {
		s.Samples += r.Samples
	}
	return s
}

func middleOf[T cmp.Ordered](rounds []Side, f func(Side) T) T {
	var all []T
	for _, r := range rounds {
		all = append(all, f(r))
	}
	slices.Sort(all)
	return all[len(all)/2]
}
