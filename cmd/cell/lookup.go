package main

import (
	"context"
	"iter"
	"strings"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) lookupCmd() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "lookup CELL",
		Short: "Find the nodes that serve a cell",
		Long: `Finds the nodes that serve a cell and prints them as they are found. TIER says where
the answer came from: self, cache, lan (announcements on the local network) or dht
(the table that all nodes keep together). Each answer has been verified: it is signed by
the node that it names, and the author's grant lets that node serve the cell.`,
		Example: "  cell lookup greeter@alice",
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
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			return a.printFound(ctx, client.Lookup(ctx, args[0]),
				node.NewError(node.CodeNoReplica, "nobody serves "+args[0], "run it here: cell run DIR"))
		},
		ValidArgsFunction: a.completeCells,
	}
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "how long to look")
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
		if found++; a.json {
			if err := a.term.json(f); err != nil {
				return err
			}
			continue
		}
		if found == 1 {
			a.term.print("%-48s  %-5s  %-8s  %-8s  %s\n", "NODE", "TIER", "STATE", "TOOK", "ADDRESSES")
		}
		a.term.print("%-48s  %-5s  %-8s  %-8s  %s\n", f.Node, clean(f.Tier), clean(f.State), duration(millis(f.TookMS)), clean(strings.Join(f.Addrs, " ")))
	}
	if found == 0 {
		return none
	}
	return nil
}
