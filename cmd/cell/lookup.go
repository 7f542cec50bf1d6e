package main

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) lookupCmd() *cobra.Command {
	var timeout time.Duration
	var watch bool
	c := &cobra.Command{
		Use:   "lookup CELL",
		Short: "Find the nodes that serve a cell",
		Long: `Finds the nodes that serve a cell and prints them as they are found. TIER says where
the answer came from: self, cache, lan (announcements on the local network) or dht
(the table that all nodes keep together); WHY says it in words. HOPS counts the nodes
of the table that were asked one after the other, RTT is how far the node itself is.
Each answer has been verified: it is signed by the node that it names, and the author's
grant lets that node serve the cell.

With --watch it goes on, until Ctrl-C: + is a node that serves the cell, from now on or
with other addresses or in another state than before, - is one that serves it no more.`,
		Example: "  cell lookup greeter@alice\n  cell lookup --watch --json greeter | jq 'select(.gone)'",
		Args:    takes(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := identity.ParseRef(args[0]); err != nil {
				return err
			}
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			ctx := c.Context()
			if !watch || c.Flags().Changed("timeout") {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			if watch {
				return a.printChanges(ctx, client.Watch(ctx, args[0]))
			}
			return a.printFound(ctx, client.Lookup(ctx, args[0]),
				node.NewError(node.CodeNoReplica, "nobody serves "+args[0], "run it here: cell run DIR"))
		},
		ValidArgsFunction: a.completeCells,
	}
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "how long to look")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "go on with what comes and goes, until Ctrl-C or for as long as --timeout says")
	a.jsonFlag(c, "print one answer a line as JSON")
	return c
}

// printFound prints nodes as they are found, and returns none where there are none.
func (a *app) printFound(ctx context.Context, nodes iter.Seq2[node.Found, error], none error) error {
	found := 0
	for f, err := range nodes {
		if err != nil {
			if found > 0 && ctx.Err() == context.DeadlineExceeded {
				return nil // what was found stands
			}
			return err
		}
		if found++; found == 1 {
			a.foundHeader("")
		}
		if err := a.found("", f); err != nil {
			return err
		}
	}
	if found == 0 {
		return none
	}
	return nil
}

// printChanges prints who serves a cell as that changes, until ctx ends.
func (a *app) printChanges(ctx context.Context, nodes iter.Seq2[node.Found, error]) error {
	a.foundHeader("  ")
	for f, err := range nodes {
		if ctx.Err() != nil {
			return nil // the caller has seen enough
		}
		if err != nil {
			return err
		}
		mark := "+ "
		if f.Gone {
			mark = "- "
		}
		if err := a.found(mark, f); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return node.NewError(node.CodeNotRunning, "the node has stopped, or is too old to watch cells", "start it again: cell up")
}

const foundFormat = "%-48s  %-5s  %-8s  %-4s  %-8s  %-8s  %-52s  %s"

func (a *app) foundHeader(indent string) {
	if !a.json {
		a.term.print(indent+foundFormat+"\n", "NODE", "TIER", "STATE", "HOPS", "TOOK", "RTT", "WHY", "ADDRESSES")
	}
}

// found prints one node, after a mark.
func (a *app) found(mark string, f node.Found) error {
	if a.json {
		return a.term.json(f)
	}
	hops, rtt := "-", "-"
	if f.Hops != nil {
		hops = strconv.Itoa(*f.Hops)
	}
	if f.RTTMS > 0 {
		rtt = duration(millis(f.RTTMS))
	}
	line := fmt.Sprintf(mark+foundFormat, f.Node, clean(f.Tier), clean(f.State), hops, duration(millis(f.TookMS)), rtt, clean(f.Why), clean(strings.Join(f.Addrs, " ")))
	a.term.print("%s\n", strings.TrimRight(line, " "))
	return nil
}
