package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) pingCmd() *cobra.Command {
	var count int
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "ping NODE|CELL",
		Short: "Measure the round trip to a node",
		Long: `Measures the round trip to a node, given by its key, or to a node that serves a cell.
It goes the way that calls go, and says which way that is: direct, or relayed via another
node where the two cannot reach each other.`,
		Example: "  cell ping greeter\n  cell ping -c 1 z6Mk…",
		Args:    takes(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if _, _, err := node.ParseTarget(args[0]); err != nil {
				return err
			}
			if count < 1 || count > 1000 {
				return usage(c, "--count must lie between 1 and 1000")
			}
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			got := 0
			var last *node.APIError
			for p, err := range client.Ping(ctx, args[0], count) {
				switch {
				case err != nil:
					return err
				case p.Error != nil:
					last = p.Error
					if a.json {
						a.term.json(p)
					} else {
						a.term.print("lost: %s\n", clean(p.Error.Message))
					}
					continue
				}
				if got++; a.json {
					a.term.json(p)
				} else {
					a.term.print("%s  %s  %s\n", p.Node, duration(millis(p.RTTMS)), clean(strings.TrimSpace(p.Path+" "+p.Addr)))
				}
			}
			switch {
			case got > 0 && got < count:
				a.term.say("%d of %d answered", got, count)
			case got == 0 && last != nil:
				return last
			case got == 0:
				return node.NewError(node.CodeTimeout, fmt.Sprintf("no answer from %s", args[0]), "see which nodes are known: cell peers")
			}
			return nil
		},
		ValidArgsFunction: a.completeCells,
	}
	c.Flags().IntVarP(&count, "count", "c", 4, "how many times")
	c.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to try in all")
	a.jsonFlag(c, "print one answer a line as JSON")
	return c
}
