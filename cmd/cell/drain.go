package main

import (
	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) drainCmd() *cobra.Command {
	var undo bool
	c := &cobra.Command{
		Use:   "drain [REPLICA|CELL]",
		Short: "Let this host's node finish what it has, and take no more of it",
		Long: `Lets a replica, or all replicas of a cell, on this host finish what they have, and
returns when they have ended; without an argument all that run here, as before a
machine is switched off. Others take over where there are other hosts with the code.

Until --undo this host starts no replica of a cell that was drained, or none at all;
a single replica may be replaced by another.`,
		Example: "  cell drain greeter-3\n  cell drain greeter\n  cell drain               # the whole node\n  cell drain --undo",
		Args:    takes(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			q, what := node.DrainRequest{Undo: undo}, "the whole node"
			if len(args) == 1 {
				q.Target, what = args[0], clean(args[0])+" on this host"
			}
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			if q.Target == "" && !undo {
				a.term.say("draining the whole node: every replica on this host")
			}
			if err := client.Drain(c.Context(), q, a.progress); err != nil {
				return err
			}
			switch {
			case undo:
				a.term.say("%s is no longer drained", what)
			case q.Target == "":
				a.term.say("the whole node is drained: it starts nothing until: cell drain --undo")
			default:
				a.term.say("%s is drained", what)
			}
			return nil
		},
		ValidArgsFunction: a.completeReplicas,
	}
	c.Flags().BoolVar(&undo, "undo", false, "take it back")
	return c
}
