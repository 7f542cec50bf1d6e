package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/swim"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// relayed are the protocols that may go over a relay: they are short, and make
// a node behind an address translator as good as any. Releases are not: they
// wait for a direct connection.
var relayed = []string{"lease/2", "watch/1", "pulse/2", "axon/1"}

// hostConfig is how the node's host is opened. Whether translators stand
// between the machines of a private network its operator says, by how this node
// is reached, or that it relays; where they show, doctor tells of them.
func (n *Node) hostConfig() host.Config {
	s := n.cfg.Settings
	c := host.Config{
		Key: n.cfg.Key, Network: n.net, Listen: s.Listen, ListenPacket: n.cfg.ListenPacket,
		NAT: n.cfg.NAT || !n.net.Private() && n.cfg.ListenPacket == nil || s.Reach.Public == host.Yes || s.Reach.Public == host.No ||
			s.Reach.Relay == string(host.On) || s.Only,
		Announce: s.Reach.Announce, Relay: host.Choice(s.Reach.Relay),
		Relays: n.relayPeers, Relayed: relayed, Changed: n.moves, Log: n.cfg.Log,
	}
	if s.Only && c.Relay == host.Auto { // that is what it is there for
		c.Relay = host.On
	}
	c.PortMap = c.NAT && s.Reach.PortMap && n.cfg.ListenPacket == nil
	if s.Reach.Public == host.Yes || s.Reach.Public == host.No {
		c.Public = s.Reach.Public
	}
	return c
}

// moves tells others at once that this node is reached elsewhere.
func (n *Node) moves() {
	select {
	case n.moved <- struct{}{}:
	default:
	}
}

// relayPeers names up to k members that relay for others, in an order of chance.
func (n *Node) relayPeers(_ context.Context, k int) []peer.AddrInfo {
	var out []peer.AddrInfo
	select {
	case <-n.built:
	default:
		return nil
	}
	members := n.pulse.Members()
	rand.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	for _, m := range members {
		if !m.Contact.Relay || m.State != swim.Alive || len(out) == k {
			continue
		}
		id, err := host.PeerID(m.Contact.Signer)
		if err != nil {
			continue
		}
		p := peer.AddrInfo{ID: id}
		for _, raw := range m.Contact.Addrs {
			if a, err := ma.NewMultiaddrBytes(raw); err == nil && host.Dialable(n.net, a) {
				p.Addrs = append(p.Addrs, a)
			}
		}
		if len(p.Addrs) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// reachChecks say how others reach this node, and what was seen that says so.
func (n *Node) reachChecks() []Check {
	r := n.host.Reach()
	checks := []Check{n.memberCheck(), toldCheck(slices.Concat(n.host.LeaseAddrs(true), n.host.LeaseAddrs(false)), n.cfg.Settings, n.cfg.Bus != nil)}
	punch := Check{Name: "hole punching", Status: CheckOK, Evidence: "not tried yet"}
	if r.Punches.OK+r.Punches.Failed > 0 {
		punch.Evidence = fmt.Sprintf("%d relayed connections became direct, %d did not; the last: %s", r.Punches.OK, r.Punches.Failed, r.Punches.Last)
	}
	if !n.hostConfig().NAT {
		return append(checks, plainReach(n.net, r), punch)
	}
	reach := Check{Name: "reach", Status: CheckOK, Evidence: "strangers reach this node: " + r.Why}
	switch {
	case r.Public == host.No && len(r.Places) > 0:
		reach.Evidence = "strangers do not reach this node by itself (" + r.Why + ") but over relays"
	case r.Public == host.No:
		reach.Status, reach.Evidence = CheckWarn, "strangers do not reach this node: "+r.Why
		reach.Remedy = "have the router pass a UDP port on and name it: cell config set reach.announce /ip4/ADDRESS/udp/PORT/quic-v1; callers from here are not affected"
	case r.Public != host.Yes:
		reach.Status, reach.Evidence = CheckWarn, "not known yet whether strangers reach this node: "+r.Why
	}
	if r.Translated != "" {
		reach.Evidence += "; the router uses " + r.Translated
	}
	if r.V1 != "" || len(r.Reachable)+len(r.Unreachable) > 0 {
		reach.Evidence += fmt.Sprintf("; AutoNAT v1: %s, v2: %d addresses reached, %d not", orNone(r.V1), len(r.Reachable), len(r.Unreachable))
	}
	for _, s := range r.Seen[:min(len(r.Seen), 2)] {
		reach.Evidence += fmt.Sprintf("; %d see it at %s", s.Witnesses, s.Addr)
	}
	checks = append(checks, reach)

	router := Check{Name: "port mapping", Status: CheckOK, Evidence: "switched off"}
	if n.hostConfig().PortMap {
		switch router.Evidence = "no router here gives ports (UPnP, NAT-PMP)"; {
		case len(r.Mapped) > 0:
			router.Evidence = "the router passes on " + addrList(r.Mapped)
		case r.Router:
			router.Status, router.Evidence = CheckWarn, "the router was asked for a port and gave none"
			router.Remedy = "allow UPnP or NAT-PMP on the router, or pass a UDP port on by hand"
		}
	}
	checks = append(checks, router)

	relay := Check{Name: "relays", Status: CheckOK, Evidence: "none is needed"}
	var via []string
	for _, p := range r.Places {
		place := p.Relay.Short()
		if p.RTT > 0 {
			place += " (" + brief(p.RTT) + ")"
		}
		via = append(via, place)
	}
	switch {
	case len(via) > 0:
		relay.Evidence = "others reach this node over " + strings.Join(via, ", ")
	case r.Public == host.No:
		relay.Status, relay.Evidence = CheckWarn, "no relay has a place for this node: nobody outside can call its cells"
		relay.Remedy = "give it one: on a host with a public address, cell up --bootstrap-only; here, --bootstrap ITS-ADDRESS"
	}
	if r.Serving.On {
		relay.Evidence += fmt.Sprintf("; it relays for %d nodes, %d circuits open, %d bytes so far", r.Serving.Guests, r.Serving.Circuits, r.Serving.Bytes)
	}
	return append(checks, relay, punch)
}

// plainReach is how others reach a node that takes the addresses of its machine
// for what they are; where peers see it elsewhere they are not.
func plainReach(network identity.Network, r host.Reach) Check {
	c := Check{Name: "reach", Status: CheckOK, Evidence: "network " + string(network) + " is private: this machine's own addresses are told as they are"}
	if len(r.Foreign) > 0 {
		at := r.Foreign[0]
		c.Status = CheckWarn
		c.Evidence = fmt.Sprintf("%d see this node at %s, which is not an address of this machine: an address translator is in between, through which others cannot call its cells",
			at.Witnesses, at.Addr)
		c.Remedy = "have it reached over relays: cell config set reach.public no, then restart it; a node that all reach must relay: there, cell config set reach.relay on"
		return c
	}
	if len(r.Seen) > 0 {
		c.Evidence += fmt.Sprintf("; %d see it at %s", r.Seen[0].Witnesses, r.Seen[0].Addr)
	}
	return c
}

// toldCheck says which addresses others are told. Those of the machine itself are
// of no use to others, who are looked for on a LAN or at bootstrap addresses.
func toldCheck(told [][]byte, s Settings, lan bool) Check {
	c := Check{Name: "addresses", Status: CheckOK}
	var all []string
	only := true
	for _, raw := range told {
		a, err := ma.NewMultiaddrBytes(raw)
		if err != nil || slices.Contains(all, a.String()) {
			continue
		}
		all = append(all, a.String())
		only = only && manet.IsIPLoopback(a)
	}
	c.Evidence = "others are told " + strings.Join(all, ", ")
	if len(all) == 0 {
		c.Evidence = "others are told no address of this node"
	}
	outside := lan || slices.ContainsFunc(s.Bootstrap, func(text string) bool {
		a, err := ma.NewMultiaddr(text)
		return err != nil || !manet.IsIPLoopback(a)
	})
	if !only || !outside {
		return c
	}
	c.Status, c.Remedy = CheckWarn, "connect this host to a network"
	switch {
	case len(all) == 0:
	case len(s.Listen) > 0:
		c.Evidence += " only, which is another machine to each of them: no other host reaches this node"
		c.Remedy = "listen on every interface: cell config unset listen, or set it to /ip4/0.0.0.0/udp/PORT/quic-v1, then restart the node"
	default:
		c.Evidence += " only: no interface of this host has an address"
	}
	return c
}

// memberCheck says what membership knows.
func (n *Node) memberCheck() Check {
	count := map[swim.State]int{}
	for _, m := range n.pulse.Members() {
		count[m.State]++
	}
	c := Check{Name: "members", Status: CheckOK, Evidence: fmt.Sprintf("%d other nodes alive, %d suspected, %d dead of late, %d left; streams to %d",
		count[swim.Alive], count[swim.Suspect], count[swim.Dead], count[swim.Left], len(n.pulse.Links()))}
	if alive := count[swim.Alive]; alive > 0 && len(n.pulse.Links()) == 0 {
		c.Status, c.Remedy = CheckWarn, "let UDP through between the nodes"
	}
	return c
}

func orNone(s string) string {
	if s == "" {
		return "no answer"
	}
	return s
}

func addrList(addrs []ma.Multiaddr) string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
