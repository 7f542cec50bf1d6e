package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) logsCmd() *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use:   "logs CELL",
		Short: "Show what a cell's replicas on this host wrote",
		Long: `Shows the last 256 KiB of what a cell's replicas on this host wrote to stdout and
stderr. With --follow it goes on until Ctrl-C.`,
		Example: "  cell logs greeter --follow",
		Args:    takes(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			logs, err := client.Logs(c.Context(), args[0], follow)
			if err != nil {
				return err
			}
			defer logs.Close()
			if err := a.term.copy(logs); err != nil && c.Context().Err() == nil {
				return fmt.Errorf("read logs: %w", err)
			}
			return c.Context().Err()
		},
		ValidArgsFunction: a.completeCells,
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until Ctrl-C")
	return c
}
