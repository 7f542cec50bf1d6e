package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/identity"
	"github.com/spf13/cobra"
)

// Limits of a load, so that a slip of the finger is no attack.
const (
	maxLoadRate  = 20_000 // requests per second
	maxLoadTime  = 10 * time.Minute
	maxLoadBusy  = 1024 // requests in flight
	loadDeadline = 10 * time.Second
)

// loadResult is what `cell load` prints in the end.
type loadResult struct {
	Sent    int            `json:"sent"`
	OK      int            `json:"ok"`
	Failed  map[string]int `json:"failed,omitempty"` // by code
	Skipped int            `json:"skipped"`          // due, but --busy were in flight
	Seconds float64        `json:"seconds"`
	Rate    float64        `json:"rate"` // answers per second
	P50MS   float64        `json:"p50_ms"`
	P99MS   float64        `json:"p99_ms"`
	MaxMS   float64        `json:"max_ms"`
}

func (a *app) loadCmd() *cobra.Command {
	var rate, busy int
	var span time.Duration
	c := &cobra.Command{
		Use:   "load METHOD [JSON]",
		Short: "Call a method over and over, at a given rate",
		Long: `Calls a method at a steady rate for a while and prints how many calls were answered,
how many failed and why, and how long they took. The rate is kept whether or not
answers come, as a crowd would: what cannot be sent because --busy calls are in
flight is counted as skipped. The exit code is 1 where a call failed.`,
		Example: `  cell load greeter/hello '{"Name":"Ada"}' --rate 200 --for 30s`,
		Args:    takes(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			if _, _, err := identity.ParseMethod(args[0]); err != nil {
				return err
			}
			body, err := a.body(args[1:])
			if err != nil {
				return err
			}
			switch {
			case rate < 1 || rate > maxLoadRate:
				return usage(c, "--rate lies between 1 and %d", maxLoadRate)
			case span <= 0 || span > maxLoadTime:
				return usage(c, "--for lies above 0 and up to %s", duration(maxLoadTime))
			case busy < 1 || busy > maxLoadBusy:
				return usage(c, "--busy lies between 1 and %d", maxLoadBusy)
			}
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			stream, err := client.Connect(c.Context())
			if err != nil {
				return err
			}
			conn := frame.NewConn(stream, frame.Config{})
			defer conn.Close()
			l := &load{conn: conn, request: frame.Request{Target: args[0], Codec: frame.JSON, Body: body}, slots: make(chan struct{}, busy), failed: map[string]int{}}
			return a.loadEnds(l.run(c.Context(), rate, span, func(sent, ok int) {
				if a.term.errTTY {
					a.term.say("%d sent, %d answered", sent, ok)
				}
			}))
		},
		ValidArgsFunction: a.completeMethods,
	}
	c.Flags().IntVar(&rate, "rate", 100, "calls per second")
	c.Flags().DurationVar(&span, "for", 10*time.Second, "how long")
	c.Flags().IntVar(&busy, "busy", 256, "calls in flight at most")
	a.jsonFlag(c, "print the result as JSON")
	return c
}

func (a *app) loadEnds(r loadResult) error {
	if a.json {
		if err := a.term.json(r); err != nil {
			return err
		}
	} else {
		a.term.print("%d calls in %.1f s: %d answered (%.0f/s), %d failed, %d skipped\n", r.Sent, r.Seconds, r.OK, r.Rate, r.Sent-r.OK, r.Skipped)
		a.term.print("p50 %s  p99 %s  max %s\n", duration(millis(r.P50MS)), duration(millis(r.P99MS)), duration(millis(r.MaxMS)))
	}
	if len(r.Failed) == 0 {
		return nil
	}
	var why []string
	for _, code := range slices.Sorted(maps.Keys(r.Failed)) {
		why = append(why, fmt.Sprintf("%s %d", code, r.Failed[code]))
	}
	return fmt.Errorf("%d of %d calls failed: %s", r.Sent-r.OK, r.Sent, strings.Join(why, ", "))
}

// load is a run of `cell load`.
type load struct {
	conn    *frame.Conn
	request frame.Request
	slots   chan struct{} // one taken for each call in flight

	mu     sync.Mutex // guards what follows
	sent   int
	took   []time.Duration // of the calls that were answered
	failed map[string]int
}

func (l *load) run(ctx context.Context, rate int, span time.Duration, tell func(sent, ok int)) loadResult {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := time.Now()
	var calls sync.WaitGroup
	due, skipped := 0, 0
	tick := time.NewTicker(max(time.Second/time.Duration(rate), time.Millisecond))
	defer tick.Stop()
	second := time.NewTicker(time.Second)
	defer second.Stop()
sending:
	for {
		select {
		case now := <-tick.C:
			elapsed := min(now.Sub(begin), span)
			for want := int(elapsed.Seconds() * float64(rate)); due < want; due++ {
				select {
				case l.slots <- struct{}{}:
					calls.Go(func() { l.call(ctx) })
				default:
					skipped++
				}
			}
			if elapsed == span {
				break sending
			}
		case <-second.C:
			l.mu.Lock()
			sent, ok := l.sent, len(l.took)
			l.mu.Unlock()
			tell(sent, ok)
		case <-ctx.Done():
			break sending
		case <-l.conn.Done():
			break sending
		}
	}
	calls.Wait()
	return l.result(time.Since(begin), skipped)
}

func (l *load) call(ctx context.Context) {
	defer func() { <-l.slots }()
	ctx, cancel := context.WithTimeout(ctx, loadDeadline)
	defer cancel()
	begin := time.Now()
	_, err := l.conn.Call(ctx, l.request)
	took := time.Since(begin)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	var e *frame.Error
	switch {
	case err == nil:
		l.took = append(l.took, took)
	case errors.As(err, &e):
		l.failed[e.Code.String()]++
	default:
		l.failed["failed"]++
	}
}

func (l *load) result(span time.Duration, skipped int) loadResult {
	slices.Sort(l.took)
	at := func(q float64) float64 {
		if len(l.took) == 0 {
			return 0
		}
		return float64(l.took[int(q*float64(len(l.took)-1))].Microseconds()) / 1000
	}
	return loadResult{
		Sent: l.sent, OK: len(l.took), Failed: l.failed, Skipped: skipped, Seconds: span.Seconds(),
		Rate: float64(len(l.took)) / span.Seconds(), P50MS: at(0.50), P99MS: at(0.99), MaxMS: at(1),
	}
}
