// Program discovery measures how a name is found among many nodes, and how
// fast what is gone stops being found, beside the stock DHT of libp2p and the
// membership of memberlist.
//
//	go -C bench run ./discovery [-nodes N] [-short] [-seed N] [-only REGEXP] [-json FILE]
//
// The nodes are those of the cell program, built by the same constructor, on a
// network in memory and in virtual time: a run of hours takes minutes and does
// not depend on how busy the machine is. Each scene is a process of its own,
// started as a child of this program. bench/README.md says what each row compares.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
)

// sizes of a network.
const (
	fullNodes  = 1000
	shortNodes = 60
)

func main() {
	if playScene() {
		return
	}
	nodes := flag.Int("nodes", 0, fmt.Sprintf("in the network (default %d, with -short %d)", fullNodes, shortNodes))
	short := flag.Bool("short", false, "a small network and fewer operations")
	seed := flag.Uint64("seed", 1, "of keys, addresses, requesters and losses")
	only := flag.String("only", "", "measure only the rows whose name matches this regular expression")
	file := flag.String("json", "", "write the report to this file as well")
	flag.Parse()
	pattern, err := regexp.Compile(*only)
	if err != nil || flag.NArg() > 0 || *nodes < 0 {
		fmt.Fprintln(os.Stderr, "discovery: takes no arguments; -only is a regular expression")
		os.Exit(2)
	}
	if *nodes == 0 {
		*nodes = fullNodes
		if *short {
			*nodes = shortNodes
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed, err := measure(ctx, setup{Nodes: *nodes, Short: *short, Seed: *seed}, pattern, *file, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "discovery:", err)
		failed = true
	}
	if failed {
		os.Exit(1)
	}
}
