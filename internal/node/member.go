package node

import (
	"net/netip"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/pulse"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/swim"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// contact is what the other nodes of the network are told of this one.
func (n *Node) contact() record.ContactOffer {
	addrs := n.host.LeaseAddrs(false)
	return record.ContactOffer{
		Addrs: addrs[:min(len(addrs), record.MaxContactAddrs)], Server: n.kad.Serving(), Relay: n.host.Reach().Serving.On,
	}
}

// entries are nodes through which membership can be joined: those of the routing table.
func (n *Node) entries() []pulse.Target {
	var out []pulse.Target
	for _, id := range n.kad.Peers() {
		key, err := host.KeyOf(id)
		if err != nil {
			continue
		}
		t := pulse.Target{Node: key}
		for _, a := range n.host.Peerstore().Addrs(id) {
			if host.Dialable(n.net, a) && len(t.Addrs) < record.MaxAddrs {
				t.Addrs = append(t.Addrs, a.Bytes())
			}
		}
		out = append(out, t)
	}
	return out
}

// group returns the parts of the address space that a member says it can be
// reached in: nobody can fill the table from a few. On a private network machines
// behind one router are many, so private addresses are exempt there; a node
// without an address of its own is counted with its relay.
func (n *Node) group(c record.Contact) (groups []string) {
	exempt := false
	for _, raw := range c.Addrs {
		if !n.host.DialableRaw(raw) {
			continue
		}
		a, err := ma.NewMultiaddrBytes(raw)
		if err != nil {
			continue
		}
		ip, err := manet.ToIP(a)
		if err != nil {
			continue
		}
		at, ok := netip.AddrFromSlice(ip)
		if at = at.Unmap(); !ok || n.net.Private() && !manet.IsPublicAddr(a) {
			exempt = true
			continue
		}
		bits := 24
		if at.Is6() {
			bits = 48
		}
		p, err := at.Prefix(bits)
		if err != nil {
			continue
		}
		groups = append(groups, p.String())
	}
	if len(groups) == 0 && !exempt {
		return []string{"nowhere"}
	}
	return groups
}

// member takes in what became of another node: the DHT asks it or not, and
// discovery hands it out or not.
func (n *Node) member(c swim.Change) {
	gone := c.Is.Gone()
	if gone && !c.Was.Gone() && c.Was != swim.Unknown {
		n.mesh.Lost(c.Node, c.Is == swim.Left)
	}
	n.mesh.Began(c.Contact) // before anything of it is handed out again
	if gone && c.Was == swim.Unknown {
		return // a stranger's goodbye: nothing else of it is known here
	}
	var addrs [][]byte
	for _, a := range c.Contact.Addrs {
		if n.host.DialableRaw(a) {
			addrs = append(addrs, a)
		}
	}
	n.kad.Known(c.Node, addrs, c.Contact.Server && len(addrs) > 0 && c.Is != swim.Unknown, !gone)
	switch {
	case gone && !c.Was.Gone():
		f := died
		if c.Is == swim.Left {
			f = left
		}
		n.fate(c.Node, f)
		n.kick()
	case c.Was == swim.Unknown: // membership may have forgotten that it was dead; discovery has not
		n.mesh.Back(c.Node)
	case !gone && c.Was.Gone():
		n.mesh.Back(c.Node)
		n.fate(c.Node, back)
		n.kick()
	}
}

// stored tells discovery what this node has come to hold for the DHT, once there
// is one to tell.
func (n *Node) stored(l record.Lease) {
	select {
	case <-n.built:
		n.mesh.Stored(l)
	default:
	}
}

// rows returns what other nodes say of themselves, and what the dead said last:
// for a while they are silent hosts, who may be back.
func (n *Node) rows() []pulse.Seen {
	all := n.pulse.Rows()
	for _, seen := range n.pulse.Lost() {
		seen.Age = max(seen.Age, hostSilent+time.Millisecond)
		all = append(all, seen)
	}
	return all
}
