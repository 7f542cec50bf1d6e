package main

import (
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"cell.network/cell/internal/record"
	"github.com/spf13/cobra"
)

func (a *app) hintsCmd() *cobra.Command {
	var life time.Duration
	c := &cobra.Command{
		Use:   "hints",
		Short: "Print signed addresses to join this network through",
		Long: `Prints addresses through which others can join this network, signed with the author's
key of this machine: this node's own and those of the peers that it is connected to.
Put the output into a file or on a web server. Who starts a node with --spores and your
key joins through it, also when every bootstrap node is gone; nobody can change it on
the way.`,
		Example: `  cell hints > spores.json
  cell up --spores https://example.org/spores.json#z6Mk…`,
		Args: takes(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if life < time.Second || life > record.MaxHintsLife {
				return usage(c, "--for must lie between 1s and %d h", int(record.MaxHintsLife.Hours()))
			}
			h, err := a.home()
			if err != nil {
				return err
			}
			key, err := identity.LoadPrivate(h.Key(node.RoleAuthor))
			if err != nil {
				return node.NewError(node.CodeFailed, "sign hints: "+err.Error(), "the author's key must be on this machine: cell init")
			}
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			s, err := client.Status(c.Context())
			if err != nil {
				return err
			}
			peers, err := client.Hints(c.Context())
			if err != nil {
				return err
			}
			if len(peers) == 0 {
				return node.NewError(node.CodeFailed, "no address is known that strangers could dial", "see which others are known: cell peers; and why: cell doctor")
			}
			text, err := record.SignHints(key, record.Hints{Network: s.Network, Peers: peers}, time.Now(), life)
			if err != nil {
				return err
			}
			a.term.print("%s", text)
			a.term.say("%d addresses, good until %s; join with: cell up --network %s --spores FILE#%s",
				len(peers), time.Now().Add(life).Format(time.DateOnly), s.Network, key.Public())
			return nil
		},
	}
	c.Flags().DurationVar(&life, "for", 365*24*time.Hour, "how long they are good")
	return c
}
