package main

import (
	"strconv"
	"strings"

	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) peersCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "peers",
		Short: "List the nodes that this one knows",
		Long: `Lists the nodes that this one knows, as it sees them: there is no complete list
anywhere. PATH says how a node is connected, direct or relayed via another one, and RTT
how long a message takes there and back. CELLS counts the cells that a node serves, as
far as this one has heard.`,
		Args: takes(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			peers, err := client.Peers(c.Context())
			if err != nil {
				return err
			}
			if a.json {
				if peers == nil {
					peers = []node.Peer{}
				}
				return a.term.json(node.PeerList{Peers: peers})
			}
			if len(peers) == 0 {
				a.term.say("no other node is known; cell doctor tells why that may be")
				return nil
			}
			rows := make([][]string, len(peers))
			for i, p := range peers {
				rtt, path := "", p.Path
				if p.RTTMS > 0 {
					rtt = duration(millis(p.RTTMS))
				}
				if path == "" && p.Connected {
					path = "yes"
				}
				rows[i] = []string{p.Node.String(), strings.Join(p.Tiers, ","), path, rtt, strconv.Itoa(p.Cells), strings.Join(p.Addrs, " ")}
			}
			a.term.table("NODE TIERS PATH RTT CELLS ADDRESSES", rows)
			return nil
		},
	}
	a.jsonFlag(c, `print {"peers":[…]}`)
	return c
}
