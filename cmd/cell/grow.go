package main

import (
	"cell.network/cell/internal/identity"
	"github.com/spf13/cobra"
)

func (a *app) growCmd() *cobra.Command {
	var mirrors []string
	c := &cobra.Command{
		Use:   "grow CELL",
		Short: "Fetch a cell from whoever has it, verify, build and run it",
		Long: `Fetches the newest release of a cell, or the one that CELL names, from the nodes that
hand it out, or from a mirror; checks signature, number, expiry and content against
its author before anything else reads it; builds it, runs it on this host's node, and
hands it out from then on.

Code runs only where its author is trusted: cell trust add NAME KEY --host. On a
terminal you are asked whether to trust an author whom you do not trust yet; elsewhere
the exit code is 5.`,
		Example: "  cell grow greeter@alice\n  cell grow greeter@z6Mk…:1.4.0",
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
			r, err := client.Grow(c.Context(), args[0], mirrors, a.progress)
			if a.mayAsk(err) {
				if err := a.askTrust(c, args[0], err); err != nil {
					return err
				}
				r, err = client.Grow(c.Context(), args[0], mirrors, a.progress)
			}
			if err != nil {
				return err
			}
			if a.json {
				return a.term.json(r)
			}
			a.term.print("%s %s\n", clean(r.ID), clean(r.Cell))
			return nil
		},
		ValidArgsFunction: a.completeCells,
	}
	c.Flags().StringArrayVar(&mirrors, "mirror", nil, "git `URL` to try where no node has it, repeatable")
	a.jsonFlag(c, "print the replica as JSON")
	return c
}
