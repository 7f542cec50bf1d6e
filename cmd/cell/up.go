package main

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) upCmd() *cobra.Command {
	var network, mode string
	var listen, bootstrap, directed, spores []string
	var noBootstrap, noLAN, noMulticast, only bool
	var lanPort, lanUnicast int
	c := &cobra.Command{
		Use:   "up",
		Short: "Start this host's node and stay in the foreground",
		Long: `Starts this host's node and stays in the foreground. Ctrl-C withdraws its cells,
lets them finish what is in flight, and ends; a second Ctrl-C ends at once.
Missing keys are made first, as by cell init.

Every flag goes before the variable CELL_* of the same name, that before
config.toml (see: cell config).`,
		Example: `  cell up
  cell up --network lab --bootstrap /ip4/192.0.2.7/udp/4001/quic-v1/p2p/12D3Koo…
  cell up --bootstrap-only --listen /ip4/0.0.0.0/udp/4001/quic-v1
  CELL_HOME=/srv/second cell up --no-lan       # a second node on the same host`,
		Args: takes(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if noBootstrap && len(bootstrap) > 0 {
				return usage(c, "--bootstrap and --no-bootstrap exclude each other")
			}
			h, s, err := a.load()
			if err != nil {
				return err
			}
			for i, source := range spores { // a path is the shell's, which stands in a folder
				if !strings.Contains(source, "://") {
					if spores[i], err = filepath.Abs(source); err != nil {
						return err
					}
				}
			}
			for _, f := range []struct{ flag, key, value string }{
				{"network", "network", network}, {"listen", "listen", strings.Join(listen, ",")},
				{"bootstrap", "bootstrap", strings.Join(bootstrap, ",")}, {"no-bootstrap", "bootstrap", ""},
				{"spores", "spores", strings.Join(spores, ",")}, {"bootstrap-only", "bootstrap_only", strconv.FormatBool(only)},
				{"mode", "mode", mode}, {"no-lan", "lan.enabled", strconv.FormatBool(!noLAN)},
				{"lan-port", "lan.port", strconv.Itoa(lanPort)}, {"lan-directed", "lan.directed", strings.Join(directed, ",")},
				{"no-multicast", "lan.multicast", strconv.FormatBool(!noMulticast)}, {"lan-unicast", "lan.unicast", strconv.Itoa(lanUnicast)},
			} {
				if c.Flags().Changed(f.flag) {
					if err := s.Set(f.key, f.value, "flag --"+f.flag); err != nil {
						return usage(c, "--%s: %v", f.flag, err)
					}
				}
			}
			if err := h.CheckSocket(); err != nil {
				return node.NewError(node.CodeFailed, err.Error(), "")
			}
			if _, err := a.ensureKeys(h, s.Network); err != nil {
				return err
			}
			if client, err := node.Dial(h); err == nil {
				defer client.Close()
				return a.alreadyUp(c.Context(), client)
			}
			return node.Up(c.Context(), h, s, a.banner, func(text string) { a.term.say("cell: %s %s", "warning:", clean(text)) })
		},
	}
	f := c.Flags()
	f.StringVar(&network, "network", string(identity.Public), "name of the network to join")
	f.StringArrayVar(&listen, "listen", nil, "multiaddr to listen on, repeatable (default any free UDP port)")
	f.StringArrayVar(&bootstrap, "bootstrap", nil, "multiaddr of a node to join through, repeatable")
	f.BoolVar(&noBootstrap, "no-bootstrap", false, "join through nobody: wait to be found")
	f.StringArrayVar(&spores, "spores", nil, "`PATH#KEY` or https://…#KEY of signed addresses to join through (see: cell hints), repeatable")
	f.BoolVar(&only, "bootstrap-only", false, "only let others into the network and relay for them: run and seed no cells")
	f.StringVar(&mode, "mode", node.ModeAuto, "part in the distributed table: auto, server or client")
	f.BoolVar(&noLAN, "no-lan", false, "neither announce nor listen on the local network")
	f.IntVar(&lanPort, "lan-port", 9067, "UDP port of announcements on the local network")
	f.BoolVar(&noMulticast, "no-multicast", false, "on the local network, tell only those named by --lan-directed")
	f.IntVar(&lanUnicast, "lan-unicast", 0, "UDP `PORT` of this node alone, for --lan-directed of others (default any free one)")
	f.StringArrayVar(&directed, "lan-directed", nil, "host:port to send announcements to as well, repeatable")
	a.jsonFlag(c, "print the node's status once it is up")
	c.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{node.ModeAuto, node.ModeServer, node.ModeClient}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) alreadyUp(ctx context.Context, client *node.Client) error {
	s, err := client.Status(ctx)
	if err != nil {
		return err
	}
	return node.NewError(node.CodeFailed, "a node is up already: process "+strconv.Itoa(s.PID)+", "+s.Home,
		"end it with: cell down; for a second one set CELL_HOME to another folder")
}

// banner tells who and where the node is, and what to do next.
func (a *app) banner(s node.Status) {
	if a.json {
		a.term.json(s)
		return
	}
	line := func(name, text string) {
		if text != "" {
			a.term.say("%-9s%s", name, clean(text))
		}
	}
	line("node", s.Node.String())
	if !s.Author.IsZero() {
		line("author", s.Author.String())
	}
	line("network", string(s.Network)+", mode "+s.Mode)
	for i, addr := range s.Listen {
		if i == 2 {
			line("", "and "+strconv.Itoa(len(s.Listen)-i)+" more: cell doctor")
			break
		}
		line([]string{"listen", ""}[i], addr)
	}
	if s.LAN.OK {
		line("lan", strings.Join(s.LAN.Interfaces, ", "))
	} else {
		line("lan", "off: "+s.LAN.Note)
	}
	line("dht", strings.TrimSuffix(strconv.Itoa(s.DHT.Size)+" nodes, "+s.DHT.Note, ", "))
	if s.Only && len(s.Listen) > 0 {
		line("next", "others join with: cell up --network "+string(s.Network)+" --bootstrap "+s.Listen[0]+"   (no cells run here)")
		return
	}
	line("next", "cell new greeter && cell run greeter   (in another terminal; Ctrl-C here ends the node)")
}
