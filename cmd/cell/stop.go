package main

import (
	"github.com/spf13/cobra"
)

func (a *app) stopCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "stop CELL",
		Short: "End all replicas of a cell, on every host",
		Long: `Ends a cell: all its replicas, on every host, finish what they have and end, and no
host starts another. The word is signed with the key of the cell's author or of your
colony; where neither key is here, the cell ends on this host only.

To end it on this host alone: cell drain. To let it live again: cell run or cell grow,
where one of those keys is.`,
		Example: "  cell stop greeter",
		Args:    takes(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			s, err := client.Stop(c.Context(), args[0])
			if err != nil {
				return err
			}
			return a.scaled(args[0], "is stopped", s)
		},
		ValidArgsFunction: a.completeKnown,
	}
	a.jsonFlag(c, "print what holds as JSON")
	return c
}
