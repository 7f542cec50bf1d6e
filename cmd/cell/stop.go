package main

import (
	"github.com/spf13/cobra"
)

func (a *app) stopCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "stop CELL",
		Short: "End the replicas of a cell on this host",
		Long: `Tells others that the cell is no longer served here, lets its replicas on this host
finish what they have, and ends them. Replicas on other hosts stay.`,
		Example: "  cell stop greeter",
		Args:    takes(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			if _, err := client.Stop(c.Context(), args[0]); err != nil {
				return err
			}
			a.term.say("%s has ended on this host", clean(args[0]))
			return nil
		},
		ValidArgsFunction: a.completeCells,
	}
}
