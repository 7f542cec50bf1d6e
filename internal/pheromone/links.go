package pheromone

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// maxLinks bounds the interfaces used by one family; a packet to everybody is
// sent once by each. Linux lets one socket join 20 IPv4 groups unless told otherwise.
const maxLinks = 32

// echoTime is how long a node's own packet may take to come back.
const echoTime = time.Second

// Report says in words for people where multicast works.
type Report struct {
	OK         bool     // it works by at least one interface
	Interfaces []string // names of those by which it works, in order
	Note       string   // what does not work, or what follows from it; may be empty
}

// Report returns how the last packet to everybody fared, interface by interface.
func (b *UDPBus) Report() Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	var r Report
	var notes []string
	outside := false
	for _, f := range b.families {
		for _, l := range sorted(f.links) {
			if l.err != nil {
				notes = append(notes, fmt.Sprintf("%s %s: %v", l.ifi.Name, f.name, l.err))
				continue
			}
			outside = outside || l.ifi.Flags&net.FlagLoopback == 0
			if !slices.Contains(r.Interfaces, l.ifi.Name) {
				r.Interfaces = append(r.Interfaces, l.ifi.Name)
			}
		}
	}
	deaf := !b.echo && !b.first.IsZero() && time.Since(b.first) > echoTime
	r.OK = len(r.Interfaces) > 0 && !deaf
	// An interface that works by one family is no news for people.
	notes = slices.DeleteFunc(notes, func(n string) bool {
		return slices.ContainsFunc(r.Interfaces, func(name string) bool { return strings.HasPrefix(n, name+" ") })
	})
	switch {
	case deaf && len(r.Interfaces) > 0:
		notes = append(notes, fmt.Sprintf("packets leave but do not come back: a firewall may drop UDP port %d", b.config.Port))
	case !r.OK && len(b.config.Directed) > 0:
		notes = append(notes, fmt.Sprintf("multicast is refused here; %d directed targets are told by unicast", len(b.config.Directed)))
	case !r.OK:
		notes = append(notes, "multicast is refused here; name other nodes as directed targets")
	case !outside:
		notes = append(notes, "only nodes of this machine are reached")
	}
	r.Note = strings.Join(notes, "; ")
	return r
}

// Changed implements [Changer]: it delivers when a new interface or address is there.
func (b *UDPBus) Changed() <-chan struct{} { return b.changed }

// settle is how long a change of an interface is left to be followed by others.
const settle = 100 * time.Millisecond

// watch looks for changes when the system tells of one, and from time to time.
func (b *UDPBus) watch() {
	tick := time.NewTicker(b.config.Rescan)
	defer tick.Stop()
	for {
		select {
		case <-b.done:
			return
		case <-tick.C:
		case <-b.told:
			select {
			case <-b.done:
				return
			case <-time.After(settle):
			}
		}
		if b.rescan() {
			select {
			case b.changed <- struct{}{}:
			default:
			}
		}
	}
}

// listenTold turns what the system tells into told, until changes is closed.
func (b *UDPBus) listenTold() {
	buf := make([]byte, 1<<16)
	for {
		// ENOBUFS: it told more than it keeps; that is a change, too.
		if _, err := b.changes.Read(buf); err != nil && !errors.Is(err, syscall.ENOBUFS) {
			return
		}
		select {
		case b.told <- struct{}{}:
		case <-b.done:
			return
		}
	}
}

// rescan joins the groups on new interfaces, forgets those that are gone, and
// reports whether anything has been added.
func (b *UDPBus) rescan() (added bool) {
	all, err := net.Interfaces()
	if err != nil {
		return false // the next time, then
	}
	usable := map[string][]link{} // by family
	var local []netip.Prefix
	for _, ifi := range all {
		if ifi.Flags&net.FlagUp == 0 {
			continue
		}
		prefixes := prefixesOf(ifi)
		local = append(local, prefixes...)
		// Loopback carries multicast though it does not say so.
		if ifi.Flags&(net.FlagMulticast|net.FlagLoopback) == 0 || !b.config.Interfaces(ifi) {
			continue
		}
		for name, fits := range map[string]func(netip.Addr) bool{"IPv4": netip.Addr.Is4, "IPv6": ownLink6} {
			i := slices.IndexFunc(prefixes, func(p netip.Prefix) bool { return fits(p.Addr()) })
			if i >= 0 {
				usable[name] = append(usable[name], link{ifi: ifi, addr: prefixes[i].Addr()})
			}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range local {
		added = added || !slices.Contains(b.local, p)
	}
	b.local = local
	for _, f := range b.families {
		added = f.update(usable[f.name]) || added
	}
	return added
}

// running reports whether there is somebody at the other end of the wire.
func (l *link) running() bool { return l.ifi.Flags&net.FlagRunning != 0 }

// ownLink6 reports whether an address lets its interface send to a link-local group.
func ownLink6(a netip.Addr) bool { return a.Is6() && (a.IsLinkLocalUnicast() || a.IsLoopback()) }

// update makes links those of interfaces, and reports whether one works that
// did not before. The bus's lock is held.
func (f *family) update(now []link) (added bool) {
	now = now[:min(len(now), maxLinks)]
	for index, l := range f.links {
		if !slices.ContainsFunc(now, func(n link) bool { return n.ifi.Index == index && n.ifi.Name == l.ifi.Name }) {
			_ = f.leave(&l.ifi) // it may be gone altogether
			delete(f.links, index)
		}
	}
	for _, n := range now {
		if l := f.links[n.ifi.Index]; l != nil && l.joined {
			back := !l.running() && n.running()
			l.ifi, l.addr = n.ifi, n.addr
			if !back {
				continue
			}
			_ = f.leave(&l.ifi) // to join anew, which tells the switch: it may be another
		}
		n.err = f.join(&n.ifi)
		n.joined = n.err == nil
		f.links[n.ifi.Index] = &n
		added = added || n.joined
	}
	return added
}

// joined returns copies of the links of a family that take packets.
func (b *UDPBus) joined(f *family) (out []link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range sorted(f.links) {
		if l.joined {
			out = append(out, *l)
		}
	}
	return out
}

// tried notes how sending to the group by an interface went.
func (b *UDPBus) tried(f *family, index int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := f.links[index]; l != nil {
		l.err = err
	}
	if err == nil && b.first.IsZero() {
		b.first = time.Now()
	}
}

// heardSelf notes that a packet from this node's own port came in on the shared one.
func (b *UDPBus) heardSelf(from netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.echo = b.echo || slices.ContainsFunc(b.local, func(p netip.Prefix) bool { return p.Addr() == from.WithZone("") })
}

func sorted(links map[int]*link) []*link {
	return slices.SortedFunc(maps.Values(links), func(a, b *link) int { return cmp.Compare(a.ifi.Index, b.ifi.Index) })
}

// near reports whether an address is on a local network, or a directed target:
// others might have been made up to have answers sent to a victim far away.
func (b *UDPBus) near(from netip.AddrPort) bool {
	addr := from.Addr().WithZone("")
	if from.Port() == 0 || addr.IsMulticast() || addr.IsUnspecified() {
		return false
	}
	if addr.IsLinkLocalUnicast() || addr.IsLoopback() {
		return true
	}
	for _, d := range b.config.Directed {
		if d.Addr().Unmap() == addr {
			return true
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.local, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func prefixesOf(ifi net.Interface) (out []netip.Prefix) {
	addrs, err := ifi.Addrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, ok := netip.AddrFromSlice(n.IP)
		if !ok {
			continue
		}
		if ones, bits := n.Mask.Size(); bits == addr.Unmap().BitLen() {
			out = append(out, netip.PrefixFrom(addr.Unmap(), ones))
		}
	}
	return out
}
