package main

import (
	"errors"
	"fmt"
	"time"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"cell.network/cell/internal/record"
	"github.com/spf13/cobra"
)

func (a *app) admitCmd() *cobra.Command {
	var network string
	c := &cobra.Command{
		Use:   "admit NODEKEY|TOKEN",
		Short: "Make another machine one of yours",
		Long: `Makes another machine one of yours, so that it may serve your cells, in two steps.

  1. Here, where your keys are, with the key that cell init printed there: prints a token.
  2. There, with the token: keeps the certificates and takes you as its default author.

The token holds no secret and is of use to that machine only.`,
		Example: "  cell admit z6Mk…                  # on your machine\n  cell admit cell-join-…            # on the new one",
		Args:    takes(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			h, s, err := a.load()
			if err != nil {
				return err
			}
			if c.Flags().Changed("network") {
				if err := s.Set("network", network, "flag --network"); err != nil {
					return usage(c, "--network: %v", err)
				}
			} else if err := a.sameNetwork(c, &s); err != nil {
				return err
			}
			if record.IsToken(args[0]) {
				return a.join(c, h, s, args[0])
			}
			k, err := identity.ParseKey(args[0])
			if err != nil {
				return err
			}
			return a.admit(h, s.Network, k)
		},
	}
	c.Flags().StringVar(&network, "network", "", "network in which it is admitted (default that of the node that runs here, else of the settings)")
	a.jsonFlag(c, `print {"token":…}, or what was taken from it`)
	return c
}

// sameNetwork takes the network of the node that runs here, which a flag of
// cell up may have chosen.
func (a *app) sameNetwork(c *cobra.Command, s *node.Settings) error {
	client, err := a.dial()
	if errors.Is(err, node.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer client.Close()
	status, err := client.Status(c.Context())
	if err != nil {
		return err
	}
	return s.Set("network", string(status.Network), "the node")
}

// admit certifies a node with this machine's colony key.
func (a *app) admit(h home.Home, n identity.Network, machine identity.Key) error {
	keys, err := node.LoadKeys(h)
	if err != nil {
		return noKeys(err)
	}
	if keys.Colony.IsZero() || keys.Author.IsZero() {
		return node.NewError(node.CodeRefused, "the keys of your colony are not on this machine", "run it on the machine where you ran cell init first")
	}
	now := time.Now()
	if _, err := node.IssueOwn(h, n, keys, now); err != nil {
		return err
	}
	certs, err := node.LoadCerts(h, n, now)
	if err != nil {
		return err
	}
	m, err := record.SignMember(keys.Colony, n.ID(), machine, now, node.CertTTL)
	if err != nil {
		return fmt.Errorf("certify machine: %w", err)
	}
	token := record.Token{Member: m}
	for _, g := range certs.Grants {
		if g.Allows(identity.Cell{Author: g.Signer, Name: g.Name}, machine, &m) {
			token.Grants = append(token.Grants, g)
		}
	}
	if a.json {
		return a.term.json(map[string]string{"token": token.String()})
	}
	a.term.print("%s\n", token)
	a.term.say("on that machine run: cell admit with the line above%s", onNetwork(n))
	return nil
}

// join keeps what a token holds.
func (a *app) join(c *cobra.Command, h home.Home, s node.Settings, text string) error {
	token, err := record.ParseToken(text, s.Network.ID(), time.Now())
	if err != nil {
		return err
	}
	keys, err := node.LoadKeys(h)
	if err != nil {
		return noKeys(err)
	}
	if self := keys.Node.Public(); token.Member.Node != self {
		return node.NewError(node.CodeRefused, "the token is for the node "+token.Member.Node.String(), "this one is "+self.String()+"; ask for a token for it")
	}
	if err := node.SaveCerts(h, s.Network, &token.Member, token.Grants...); err != nil {
		return err
	}
	if _, err := node.IssueOwn(h, s.Network, keys, time.Now()); err != nil { // so that the author of this machine still serves here
		return err
	}
	authors := map[identity.Key]bool{}
	for _, g := range token.Grants {
		authors[g.Signer] = true
	}
	author := s.Author
	if len(authors) == 1 {
		author = token.Grants[0].Signer
		if err := node.EditSettings(h, author.String(), "author"); err != nil {
			return err
		}
	}
	if err := a.reload(c); err != nil {
		return err
	}
	if a.json {
		out := map[string]string{"colony": token.Member.Signer.String(), "network": string(s.Network)}
		if !author.IsZero() {
			out["author"] = author.String()
		}
		return a.term.json(out)
	}
	a.term.print("colony  %s\n", token.Member.Signer)
	if !author.IsZero() {
		a.term.print("author  %s\n", author)
		a.term.say("his code may run here and a bare name means his cells; change it with: cell config set author KEY")
	}
	return nil
}

func noKeys(err error) error {
	if errors.Is(err, identity.ErrKeyMode) {
		return err
	}
	return node.NewError(node.CodeFailed, err.Error(), "make the keys of this machine first: cell init")
}

func onNetwork(n identity.Network) string {
	if n == identity.Public {
		return ""
	}
	return " --network " + string(n)
}

// reload tells the node, where it runs, that settings or certificates changed.
func (a *app) reload(c *cobra.Command) error {
	client, err := a.dial()
	if errors.Is(err, node.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Reload(c.Context()); err != nil {
		return fmt.Errorf("saved, but the node did not take it over: %w", err)
	}
	return nil
}
