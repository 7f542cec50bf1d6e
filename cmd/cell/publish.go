package main

import (
	"fmt"
	"path/filepath"

	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) publishCmd() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "publish [VERSION]",
		Short: "Sign what is committed as a release, and hand it out",
		Long: `Signs the commit that is checked out as a release: a git tag that git verify-tag
accepts, with a number that only rises and a hash over all files. From then on this
host's node hands it out to whoever asks, and so does everyone who grows it.

Nothing that is not committed is ever part of a release. VERSION is a name for people;
without one it is the version in Cell.toml.`,
		Example: "  cell publish\n  cell publish 1.4.0 --dir ./greeter",
		Args:    takes(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := filepath.Abs(dir)
			if err != nil {
				return fmt.Errorf("find folder: %w", err)
			}
			m, err := node.LoadManifest(path) // the node does so too; a mistake shows without a node
			if err != nil {
				return err
			}
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			version := ""
			if len(args) == 1 {
				version = args[0]
			}
			p, err := client.Publish(c.Context(), path, version)
			if err != nil {
				return err
			}
			if a.json {
				return a.term.json(p)
			}
			a.term.print("%s:%s\n", p.Cell, p.Version)
			a.term.say("release %d of %s: commit %.12s, %d files, %d bytes, tag %s, good until %s", p.Seq, m.Cell.Name, p.Commit, p.Files, p.Bytes, p.Tag, p.Expires.Format("2006-01-02"))
			a.term.say("next, on another host: cell grow %s", p.Cell)
			return nil
		},
	}
	c.Flags().StringVar(&dir, "dir", ".", "folder of the cell")
	a.jsonFlag(c, "print the release as JSON")
	return c
}
