package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"cell.network/cell/bench/report"
)

const (
	small = 64       // bytes of a request and of its response
	large = 64 << 10 // bytes, likewise
	many  = 64       // callers at once
)

// echoer is a connection to something that answers with what it was sent.
type echoer struct {
	name  string
	echo  func(ctx context.Context, body []byte) (answer []byte, err error)
	cpu   []func() (time.Duration, error) // of all processes but this one
	close func()
	err   error
}

// absent is a contender that could not be started.
func absent(name string, err error) echoer {
	return echoer{name: name, err: err, close: func() {}}
}

// contender makes an echoer send size bytes.
func (e echoer) contender(size int, seed uint64) report.Contender {
	body := make([]byte, size)
	r := rand.NewPCG(seed, uint64(size))
	for i := range body {
		body[i] = byte(r.Uint64())
	}
	return report.Contender{
		Name: e.name, Err: e.err,
		Op: func(ctx context.Context) (time.Duration, error) {
			answer, err := e.echo(ctx, body)
			if err == nil && (len(answer) != size || answer[size-1] != body[size-1]) {
				err = errors.New("the answer is not what was sent")
			}
			return 0, err
		},
		CPU: func() (time.Duration, error) { return sum(e.cpu...) },
	}
}

// sum adds to this process's CPU time that of others.
func sum(others ...func() (time.Duration, error)) (time.Duration, error) {
	all := report.CPU()
	for _, f := range others {
		d, err := f()
		if err != nil {
			return 0, err
		}
		all += d
	}
	return all, nil
}

// goals are the ratios to reach against each peer, in the order of echoers
// after ours.
type goals struct{ one, many, large []float64 }

// rows measures one caller, many, and a large payload.
func (b *bench) rows(ctx context.Context, where string, echoers []echoer, g goals) {
	for _, e := range echoers {
		defer e.close()
	}
	for _, x := range []struct {
		what    string
		unit    string
		size    int
		callers int
		goals   []float64
	}{
		{"warm call, 64 B, ", report.Time, small, 1, g.one},
		{"64 callers, 64 B, ", report.Rate, small, many, g.many},
		{"warm call, 64 KiB, ", report.Time, large, 1, g.large},
	} {
		if x.goals == nil {
			continue
		}
		var cs []report.Contender
		for _, e := range echoers {
			cs = append(cs, e.contender(x.size, b.seed))
		}
		sides := report.Rounds(ctx, report.Plan{
			Callers: x.callers, Rounds: pick(b, 3, 9), Each: pick(b, 150*time.Millisecond, time.Second), Rand: b.rand,
		}, cs)
		b.compare(x.what+where, x.unit, cs, sides, x.goals...)
	}
}

func (b *bench) sameHost(ctx context.Context) {
	b.rows(ctx, "same host", []echoer{membraneEcho(), grpcEcho(b.dir, grpcUnix)}, goals{[]float64{2}, []float64{3}, []float64{2}})
	b.report.Must("64 callers, 64 B, same host") // 13 times as many have been seen
}

func (b *bench) twoHosts(ctx context.Context) {
	b.rows(ctx, "two hosts", []echoer{axonEcho(b.seed), grpcEcho(b.dir, grpcTLS), libp2pEcho()},
		goals{[]float64{1, 2}, []float64{1, 4}, []float64{1, 1}})
}

func (b *bench) throughNodes(ctx context.Context) {
	here, there := b.nodes(ctx)
	b.rows(ctx, "own node to replica", []echoer{here, grpcEcho(b.dir, grpcUnix, grpcUnix)}, goals{[]float64{1}, []float64{1}, nil})
	b.rows(ctx, "both nodes to replica", []echoer{there, grpcEcho(b.dir, grpcUnix, grpcTLS, grpcUnix)}, goals{[]float64{1}, []float64{1}, []float64{1}})
}
