package main

import (
	"strings"
	"time"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) initCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "init",
		Short: "Make the keys of this machine",
		Long: `Makes three keys, each only where it is missing, and prints their public halves:

  node     this machine; others reach it by this key
  author   you; cells are named after it, as in greeter@z6Mk…
  colony   all your machines; it certifies them (see: cell admit)

The secrets stay in files that only you can read. cell up does all this by itself.`,
		Example: "  cell init\n  cell init --json",
		Args:    takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			h, s, err := a.load()
			if err != nil {
				return err
			}
			keys, err := a.ensureKeys(h, s.Network)
			if err != nil {
				return err
			}
			ids := []struct {
				role string
				key  identity.Key
			}{
				{node.RoleNode, keys.Node.Public()},
				{node.RoleAuthor, s.DefaultAuthor(keys.Author.Public())},
				{node.RoleColony, colonyOf(h, s.Network, keys)},
			}
			if a.json {
				out := map[string]string{"home": h.Config}
				for _, id := range ids {
					if !id.key.IsZero() {
						out[id.role] = id.key.String()
					}
				}
				return a.term.json(out)
			}
			for _, id := range ids {
				if !id.key.IsZero() {
					a.term.print("%-8s%s\n", id.role, id.key)
				}
			}
			a.term.print("%-8s%s\n", "home", h.Config)
			a.term.say("next: cell up")
			return nil
		},
	}
	a.jsonFlag(c, "print {node, author, colony, home}")
	return c
}

// ensureKeys makes what keys and certificates are missing and says so.
func (a *app) ensureKeys(h home.Home, n identity.Network) (node.KeyRing, error) {
	keys, created, err := node.CreateKeys(h, n)
	if err != nil {
		return keys, err
	}
	if len(created) > 0 {
		a.term.say("made keys of %s in %s: keep copies of author and colony", strings.Join(created, ", "), h.Config)
	}
	_, err = node.IssueOwn(h, n, keys, time.Now())
	return keys, err
}

// colonyOf is the colony that this machine belongs to, which may be another
// than the one whose key it holds.
func colonyOf(h home.Home, n identity.Network, keys node.KeyRing) identity.Key {
	if certs, err := node.LoadCerts(h, n, time.Now()); err == nil && certs.Member != nil {
		return certs.Member.Signer
	}
	return keys.Colony.Public()
}
