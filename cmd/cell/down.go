package main

import (
	"context"
	"errors"
	"time"

	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) downCmd() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "down",
		Short: "End this host's node",
		Long: `Ends this host's node: withdraws its cells, lets them finish what is in flight, and
waits until the node has gone. Where no node runs there is nothing to do.`,
		Args: takes(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			client, err := a.dial()
			if errors.Is(err, node.ErrNotRunning) {
				a.term.say("the node is not running")
				return nil
			}
			if err != nil {
				return err
			}
			defer client.Close()
			if err := client.Down(ctx); err != nil && !errors.Is(err, node.ErrNotRunning) {
				return err
			}
			h, err := a.home()
			if err != nil {
				return err
			}
			for {
				gone, err := node.Gone(h)
				if err != nil {
					return err
				}
				if gone {
					a.term.say("the node is down")
					return nil
				}
				select {
				case <-time.After(20 * time.Millisecond): // the system tells nobody that a lock has gone
				case <-ctx.Done():
					if c.Context().Err() != nil {
						return c.Context().Err()
					}
					return node.NewError(node.CodeTimeout, "the node is still finishing after "+timeout.String(), "give it longer with --timeout")
				}
			}
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait")
	return c
}
