package host

import (
	"fmt"
	"slices"
	"strings"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Whether strangers can open a connection to this node.
const (
	Yes     = "yes"
	No      = "no"
	Unknown = "unknown"
)

const (
	translatedAll  = "one port for all"
	translatedEach = "a port for each"
)

// Reach is what a host knows of how others reach it.
type Reach struct {
	Public string // Yes, No or Unknown
	Why    string // one clause

	Interfaces  []ma.Multiaddr // where it listens
	Mapped      []ma.Multiaddr // ports that the router gave it, and addresses of the settings
	Router      bool           // one that gives ports was found
	Seen        []Seen         // where peers see it
	Foreign     []Seen         // those of them that are at none of its own IPs
	V1          string         // AutoNAT version 1: public, private or unknown
	Reachable   []ma.Multiaddr // AutoNAT version 2: peers dialled these
	Unreachable []ma.Multiaddr // and these in vain
	Translated  string         // the address translation that shows: "", "one port for all" or "a port for each"

	Places  []Place // at relays over which others reach it
	Serving Serving // what it relays for others
	Punches Punches
}

// Reach returns what the host knows of how others reach it.
func (h *Host) Reach() Reach {
	r := Reach{
		Public: Unknown, Why: "nothing was asked yet", V1: Unknown,
		Interfaces: h.interfaces(), Mapped: h.announce, Seen: h.seen.all(), Punches: h.punches.get(),
	}
	n := h.nat
	if n == nil {
		r.Why = "this node does not look whether there is an address translator"
		r.compare()
		return r
	}
	r.Places, r.Serving = n.places.list(), h.volunteer.state()
	r.Router = n.mapper != nil && n.mapper.HasDiscoveredNAT()
	r.Mapped = n.mappings()
	r.compare()
	r.V1 = strings.ToLower(n.probe.v1.Status().String())
	r.Reachable, r.Unreachable, _ = n.basic.ConfirmedAddrs()
	r.judge(h.network.Private(), n.met.strangers())
	if n.forced != Unknown {
		r.Public, r.Why = n.forced, "the settings say so"
	}
	return r
}

// compare tells what translates addresses between this node and its peers.
func (r *Reach) compare() {
	own, foreign := make(map[string]bool), make(map[string]bool)
	for _, a := range slices.Concat(r.Interfaces, r.Mapped) {
		own[a[0].Value()] = true
	}
	for _, s := range r.Seen {
		if ip := s.Addr[0].Value(); !own[ip] {
			r.Foreign = append(r.Foreign, s)
			foreign[ip] = true
		}
	}
	switch {
	case len(r.Foreign) > len(foreign):
		r.Translated = translatedEach
	case len(r.Foreign) > 0:
		r.Translated = translatedAll
	}
}

// judge draws the conclusion. What peers dial back proves little where an
// address translator stands between: it lets those pass that the node talks
// to, and AutoNAT's peers are among them. So an address that is not the node's
// own counts only if the router gave it the port, or strangers came in.
func (r *Reach) judge(private bool, strangers int) {
	own := slices.Concat(r.Interfaces, r.Mapped)
	foreign := len(r.Foreign)
	vain := false // an own address was dialled in vain
	for _, a := range own {
		switch {
		case ma.Contains(r.Reachable, a):
			r.Public, r.Why = Yes, "peers dialled "+a.String()
			return
		case ma.Contains(r.Unreachable, a):
			vain = true
		case r.V1 == "public" && manet.IsPublicAddr(a):
			r.Public, r.Why = Yes, "a peer dialled it back, and "+a.String()+" is its own"
			return
		}
	}
	switch {
	case strangers >= minStrangers && foreign > 0:
		r.Public, r.Why = Yes, fmt.Sprintf("%d machines that it never talked to came in", strangers)
	case foreign > 0 && len(r.Reachable) > 0:
		r.Why = "peers that it talks to dial it back at " + r.Reachable[0].String() + "; whether others may is not known"
	case foreign > 0:
		r.Public, r.Why = No, "peers see it at "+r.Seen[0].Addr.String()+", which is not its own address, and no port is mapped"
	case vain || r.V1 == "private":
		r.Public, r.Why = No, "peers dialled it in vain: a firewall lets nobody in"
	case private && len(r.Seen) > 0:
		r.Public, r.Why = Yes, "peers see it at its own address"
	case !private && len(publicAddrs(own)) == 0:
		r.Public, r.Why = No, "it has no public address"
	}
}

// interfaces returns the addresses that the host listens on.
func (h *Host) interfaces() []ma.Multiaddr {
	all, _ := h.swarm.InterfaceListenAddresses()
	if h.machine != nil {
		all = nil
		own := h.machine.addrs()
		for _, a := range h.swarm.ListenAddresses() {
			resolved, _ := manet.ResolveUnspecifiedAddress(a, own) // fails where no interface has one of the kind
			all = append(all, resolved...)
		}
	}
	return slices.DeleteFunc(all, func(a ma.Multiaddr) bool { return !isQUIC(a) })
}
