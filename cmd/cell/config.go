package main

import (
	"fmt"
	"slices"
	"strings"

	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) configCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Show and change settings",
		Long: `Without more, prints every setting, its value and where that comes from. A flag of
cell up wins over a variable CELL_*, that over config.toml, that over the default.`,
		Example: `  cell config
  CELL_MODE=client cell config
  cell config set lan.port 9068
  cell config paths`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return noSuchCommand(c, args)
			}
			_, s, err := a.load()
			if err != nil {
				return err
			}
			if a.json {
				return a.term.json(map[string]any{"settings": s.List()})
			}
			var rows [][]string
			for _, l := range s.List() {
				rows = append(rows, []string{l.Key, l.Value, l.Origin})
			}
			a.term.table("KEY VALUE ORIGIN", rows)
			return nil
		},
	}
	a.jsonFlag(c, `print {"settings":[{"key","value","origin"}]}`)
	c.AddCommand(a.configSetCmd(), a.configUnsetCmd(), a.configPathsCmd())
	return c
}

func (a *app) configSetCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "set KEY VALUE",
		Short: "Write a setting to config.toml, and keep the comments there",
		Long: `Writes a setting to config.toml, and keeps the comments there. Lists are separated by
commas. Most settings take effect at the next cell up.`,
		Example: "  cell config set network lab\n  cell config set bootstrap /ip4/192.0.2.7/udp/4001/quic-v1/p2p/12D3Koo…",
		Args:    takes(2, 2),
		RunE: func(c *cobra.Command, args []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			s, err := node.LoadSettings(h, func(string) string { return "" })
			if err != nil {
				return err
			}
			if err := checkKey(c, args[0]); err != nil {
				return err
			}
			if err := s.Set(args[0], args[1], "argument"); err != nil {
				return usage(c, "%s: %v", args[0], err)
			}
			if err := node.EditSettings(h, s.Value(args[0]), strings.Split(args[0], ".")...); err != nil {
				return err
			}
			return a.reload(c)
		},
		ValidArgsFunction: completeKeys,
	}
}

func (a *app) configUnsetCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "unset KEY",
		Short: "Remove a setting from config.toml: the default holds again",
		Args:  takes(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkKey(c, args[0]); err != nil {
				return err
			}
			h, err := a.home()
			if err != nil {
				return err
			}
			if err := node.EditSettings(h, nil, strings.Split(args[0], ".")...); err != nil {
				return err
			}
			return a.reload(c)
		},
		ValidArgsFunction: completeKeys,
	}
}

func checkKey(c *cobra.Command, key string) error {
	if slices.Contains(node.Keys, key) {
		return nil
	}
	e := usage(c, "no setting is called %q", clean(key))
	e.Hint = "the settings are " + strings.Join(node.Keys, ", ") + "; authors and trust: cell trust"
	if near := nearest(key, node.Keys); near != "" {
		e.Hint = "did you mean: " + near
	}
	return e
}

func completeKeys(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return node.Keys, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) configPathsCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "paths",
		Short: "Print where everything is kept",
		Args:  takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			paths := [][2]string{
				{"config", h.Config}, {"settings", node.SettingsPath(h)}, {"state", h.State},
				{"cache", h.Cache}, {"runtime", h.Runtime}, {"socket", h.Socket()},
			}
			if a.json {
				out := map[string]string{}
				for _, p := range paths {
					out[p[0]] = p[1]
				}
				return a.term.json(out)
			}
			for _, p := range paths {
				fmt.Fprintf(a.term.out, "%-9s%s\n", p[0], p[1])
			}
			return nil
		},
	}
	a.jsonFlag(c, "print the paths as JSON")
	return c
}
