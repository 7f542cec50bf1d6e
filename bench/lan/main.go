// Program lan measures how soon a newcomer is found on the local network, and
// how many packets it takes that 1,000 cells share it, beside libp2p's mDNS.
//
//	go -C bench run ./lan [-short] [-nodes N] [-seed N] [-json FILE]
//
// Newcomers use real sockets and the machine's own interfaces; the 1,000 cells
// are on a bus in memory and in virtual time, in a child of this program.
// bench/README.md says what each row compares.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"time"

	"cell.network/cell/bench/report"
)

func main() {
	playScene()
	short := flag.Bool("short", false, "measure briefly, less exactly")
	seed := flag.Uint64("seed", 1, "of keys, losses and the order of contenders")
	nodes := flag.Int("nodes", 0, fmt.Sprintf("among which %d cells are divided, 1 to %d (default %d, with -short %d); each hears every cell, so %d take hours of CPU time", cells, cells, fullNodes, shortNodes, cells))
	file := flag.String("json", "", "write the report to this file as well")
	flag.Parse()
	if *nodes == 0 {
		*nodes = pick(*short, shortNodes, fullNodes)
	}
	if flag.NArg() > 0 || *nodes < 1 || *nodes > cells {
		fmt.Fprintf(os.Stderr, "lan: takes no arguments; -nodes is from 1 to %d\n", cells)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b := &bench{short: *short, seed: *seed, nodes: *nodes, rand: rand.New(rand.NewPCG(*seed, 0))}
	code, err := b.run(ctx, *file, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "lan:", err)
	}
	os.Exit(code)
}

// nodes of a crowd.
const (
	fullNodes  = 100
	shortNodes = 10
)

// bench is one run.
type bench struct {
	short  bool
	seed   uint64
	nodes  int
	rand   *rand.Rand
	report report.Report
}

func (b *bench) run(ctx context.Context, file string, out io.Writer) (int, error) {
	b.report.Env = report.Start(b.seed, b.short)
	for _, part := range []struct {
		name string
		run  func(context.Context)
	}{
		{"newcomers on real sockets", b.newcomers},
		{"newcomers and loss", b.losses},
		{"1,000 cells in virtual time", b.crowds},
		{"1,000 nodes in virtual time", b.storm},
	} {
		if ctx.Err() != nil {
			return 130, ctx.Err()
		}
		begin := time.Now()
		part.run(ctx)
		fmt.Fprintf(os.Stderr, "%-32s %5.1f s\n", part.name, time.Since(begin).Seconds())
	}
	b.report.Env.End()
	if err := b.report.Table(out); err != nil {
		return 1, err
	}
	if file != "" {
		if err := b.report.WriteJSON(file); err != nil {
			return 1, err
		}
	}
	if b.report.Failed() {
		return 1, nil
	}
	return 0, nil
}

// pick returns the first where the run is short, else the second.
func pick[T any](short bool, brief, full T) T {
	if short {
		return brief
	}
	return full
}

// limit is the peer of rows that hold a figure to a limit instead.
const limit = "limit"

// within adds rows that hold the median and the 99th percentile to limits; 0 is none.
func (b *bench) within(work string, s report.Side, p50, p99 time.Duration, must bool) {
	for _, x := range []struct {
		name       string
		got, limit time.Duration
	}{{"median", s.P50, p50}, {"p99", s.P99, p99}} {
		if x.limit == 0 {
			continue
		}
		ours := report.Side{P50: x.got, Samples: s.Samples, Err: s.Err}
		row := report.Compare(work+", "+x.name, report.Time, ours, limit, report.Side{P50: x.limit}, 1)
		row.Must = must
		b.report.Add(row)
	}
}

// below adds a row that holds a rate, of which less is better, to a limit.
func (b *bench) below(work string, rate, limitRate float64, samples int, err error) {
	row := report.Row{Work: work, Peer: limit, Theirs: limitRate, Unit: packets, Goal: 1, Must: true, Ours: rate, Samples: samples}
	switch {
	case err != nil:
		row.Note = "ours: " + err.Error()
	case rate > 0:
		row.Ratio = float64(int(1000*limitRate/rate)) / 1000
		row.OK = row.Ratio >= 1
	}
	b.report.Add(row)
}

// packets is the unit of rates of packets to everybody.
const packets = "packets/s"
