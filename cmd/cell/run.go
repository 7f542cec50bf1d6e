package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) runCmd() *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use:   "run [DIR]",
		Short: "Build the cell in a folder and run it on this host's node",
		Long: `Builds the cell in DIR (default: here), starts a replica of it on this host's node,
and returns when it answers and has been announced. It stays alive after that.

Run again, it takes the place of the replica before, which finishes what it has.`,
		Example: `  cell run greeter
  cell run --follow greeter        # and then show what it writes, until Ctrl-C`,
		Args: takes(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			dir, err := filepath.Abs(dir)
			if err != nil {
				return fmt.Errorf("find folder: %w", err)
			}
			m, err := node.LoadManifest(dir) // the node does so too; a mistake shows without a node
			if err != nil {
				return err
			}
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := client.Run(c.Context(), dir, a.progress)
			if err != nil {
				return err
			}
			if a.json {
				if err := a.term.json(r); err != nil {
					return err
				}
			} else {
				a.term.print("%s %s\n", clean(r.ID), clean(r.Cell))
			}
			if names := methods(r); len(names) > 0 {
				a.term.say("next: cell call %s/%s '{}'", m.Cell.Name, clean(names[0]))
			}
			if follow {
				return a.follow(c.Context(), client, r.Cell)
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "then show what the cell writes, until Ctrl-C; it goes on running")
	a.jsonFlag(c, "print the replica as JSON")
	return c
}

func (a *app) progress(p node.Progress) {
	mark := " "
	if p.TookMS > 0 {
		mark = "✓"
	}
	for i, line := range strings.Split(strings.TrimRight(p.Text, "\n"), "\n") {
		if i > 0 {
			mark = " "
		}
		a.term.step(mark, string(p.Step), line, millis(p.TookMS))
		p.TookMS = 0
	}
}

// follow copies what a cell writes to stdout, without control characters where
// that is a terminal.
func (a *app) follow(ctx context.Context, client *node.Client, cell string) error {
	logs, err := client.Logs(ctx, cell, true)
	if err != nil {
		return err
	}
	defer logs.Close()
	if err := a.term.copy(logs); err != nil && ctx.Err() == nil {
		return fmt.Errorf("read logs: %w", err)
	}
	return ctx.Err()
}
