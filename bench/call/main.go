// Program call measures what it takes to call a cell: to find it for the first
// time, and to call it once it is known, beside other ways to do the same.
//
//	go -C bench run ./call [-short] [-seed N] [-json FILE]
//
// Caller and callee are processes of their own, started as children of this
// program; contenders work in turn in the same run. bench/README.md says what
// each row compares.
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

// parts are what children of this program are started as.
var parts = map[string]report.Part{
	"replica":     replicaPart,
	"axon":        axonPart,
	"node":        nodePart,
	"swarm":       swarmPart,
	"grpc":        grpcPart,
	"libp2p":      libp2pPart,
	"libp2p-mdns": mdnsPart,
	"libp2p-dht":  dhtPart,
}

func main() {
	if isReplica() {
		os.Exit(replicaMain())
	}
	report.PlayPart(parts)
	short := flag.Bool("short", false, "measure briefly, less exactly")
	seed := flag.Uint64("seed", 1, "of keys, payloads and the order of contenders")
	file := flag.String("json", "", "write the report to this file as well")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "call: takes no arguments")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	code, err := run(ctx, *short, *seed, *file, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "call:", err)
	}
	os.Exit(code)
}

// bench is one run.
type bench struct {
	short  bool
	seed   uint64
	rand   *rand.Rand
	dir    string // for sockets and homes of nodes; removed at the end
	report report.Report
}

func run(ctx context.Context, short bool, seed uint64, file string, out io.Writer) (int, error) {
	dir, err := os.MkdirTemp("", "cellbench")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	b := &bench{short: short, seed: seed, rand: rand.New(rand.NewPCG(seed, 0)), dir: dir}
	b.report.Env = report.Start(seed, short)
	for _, part := range []struct {
		name string
		run  func(context.Context)
	}{
		{"first call on the local network", b.lan},
		{"first call through the DHT", b.dht},
		{"calls on one host", b.sameHost},
		{"calls between two hosts", b.twoHosts},
		{"calls through nodes", b.throughNodes},
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
func pick[T any](b *bench, short, full T) T {
	if b.short {
		return short
	}
	return full
}

// compare adds a row for each peer; the first contender is ours.
func (b *bench) compare(work, unit string, contenders []report.Contender, sides []report.Side, goals ...float64) {
	for i := 1; i < len(sides); i++ {
		b.report.Add(report.Compare(work, unit, sides[0], contenders[i].Name, sides[i], goals[i-1]))
	}
}
