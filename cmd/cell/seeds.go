package main

import (
	"context"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) seedsCmd() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "seeds CELL",
		Short: "Find the nodes that hand out a cell's source",
		Long: `Finds the nodes that hand out the source of a cell and prints them as they are
found. Whoever publishes a cell seeds it, and so does whoever grows it.`,
		Example: "  cell seeds greeter@alice",
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
			return a.printFound(ctx, client.Seeds(ctx, args[0]),
				node.NewError(node.CodeNoCell, "nobody seeds "+args[0], "its author publishes it with: cell publish"))
		},
		ValidArgsFunction: a.completeCells,
	}
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "how long to look")
	a.jsonFlag(c, "print one node a line as JSON")
	return c
}
