package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	cell "cell.network/cell"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"cell.network/cell/internal/ribosome"
	"github.com/spf13/cobra"
)

func (a *app) newCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "new NAME [DIR]",
		Short: "Make a cell to start from",
		Long: `Makes a cell to start from in DIR (default: a folder of its name): Cell.toml, go.mod,
the contract that callers import, and the program. It builds as it is, without a network.
A folder that holds anything is left alone.`,
		Example: "  cell new greeter && cell run greeter",
		Args:    takes(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			name, err := identity.ParseName(args[0])
			if err != nil {
				return err
			}
			dir := args[len(args)-1]
			if dir, err = filepath.Abs(dir); err != nil {
				return fmt.Errorf("find folder: %w", err)
			}
			err = withRibosome(func(r *ribosome.Ribosome) error { return r.New(dir, name) })
			if errors.Is(err, ribosome.ErrNotEmpty) {
				return node.NewError(node.CodeFailed, err.Error(), "choose another folder: cell new "+string(name)+" DIR")
			}
			if err != nil {
				return err
			}
			if a.json {
				return a.term.json(map[string]string{"name": string(name), "dir": dir})
			}
			a.term.print("%s\n", dir)
			a.term.say("next: cell run %s", args[len(args)-1])
			return nil
		},
	}
	a.jsonFlag(c, "print {name, dir}")
	return c
}

// withRibosome lends f a Ribosome with the SDK of this program. Its cache is a
// passing one: that of the node belongs to the node alone.
func withRibosome(f func(*ribosome.Ribosome) error) error {
	cache, err := os.MkdirTemp("", "cell-")
	if err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	defer os.RemoveAll(cache)
	r, err := ribosome.New(ribosome.Config{Cache: cache, SDK: cell.Source})
	if err != nil {
		return err
	}
	return f(r)
}
