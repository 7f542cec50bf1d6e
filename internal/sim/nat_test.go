package sim

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func behind(t *testing.T, b *NAT, addr string) net.PacketConn {
	t.Helper()
	c, err := b.Listen("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// hears sends one packet and returns the address that the receiver saw, or the
// zero address where nothing arrived within a second.
func hears(from, to net.PacketConn, at netip.AddrPort) netip.AddrPort {
	_, _ = from.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(at))
	_ = to.SetReadDeadline(time.Now().Add(time.Second))
	_, seen, err := to.ReadFrom(make([]byte, 10))
	if err != nil {
		return netip.AddrPort{}
	}
	return seen.(*net.UDPAddr).AddrPort()
}

func at(c net.PacketConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

func TestNAT(t *testing.T) {
	public := Addr(50)
	for name, tc := range map[string]struct {
		conf            NATConfig
		same            bool // two remotes see one port, the socket's own
		port, stranger  bool // another port of a known address, and an unknown address, get in
		changesOnExpiry bool
	}{
		"port preserving": {conf: NATConfig{}, same: true, port: true},
		"port filter":     {conf: NATConfig{PortFilter: true}, same: true},
		"open":            {conf: NATConfig{Open: true}, same: true, port: true, stranger: true},
		"symmetric":       {conf: NATConfig{PerRemote: true}, port: true, changesOnExpiry: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := NewNetwork(Config{Seed: 1})
				defer n.Close()
				tc.conf.Public = public
				box := n.NAT(tc.conf)
				defer box.Close()
				in, near := behind(t, box, "10.0.0.2:9"), behind(t, box, "10.0.0.3:9")
				a, b, c := listen(t, n, 0), listen(t, n, 1), listen(t, n, 2)
				seenA, seenB := hears(in, a, at(a)), hears(in, b, at(b))
				if seenA.Addr() != public || seenB.Addr() != public {
					t.Fatalf("seen at %v and %v", seenA, seenB)
				}
				if same := seenA == seenB && seenA.Port() == 9; same != tc.same {
					t.Errorf("seen at %v and %v", seenA, seenB)
				}
				if got := hears(a, in, seenA); got != at(a) {
					t.Errorf("the answer comes from %v", got)
				}
				a2, err := n.Listen("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(Addr(0), 10)))
				if err != nil {
					t.Fatal(err)
				}
				if got := hears(a2, in, seenA); got.IsValid() != tc.port {
					t.Errorf("another port of a known address: %v", got)
				}
				if got := hears(c, in, seenA); got.IsValid() != tc.stranger {
					t.Errorf("a stranger: %v", got)
				}
				if got := hears(near, in, at(in)); got != at(near) {
					t.Errorf("a neighbour is seen at %v", got)
				}
				if other := hears(near, c, at(c)); other == seenA || !other.IsValid() {
					t.Errorf("two sockets share %v", other)
				}

				time.Sleep(DefaultNATExpiry)
				if got := hears(a, in, seenA); got.IsValid() {
					t.Error("a mapping outlives its time")
				}
				if got := hears(in, a, at(a)); got == seenA == tc.changesOnExpiry {
					t.Errorf("after expiry seen at %v, before at %v", got, seenA)
				}
				before := hears(in, a, at(a))
				box.Rebind(Addr(60))
				after := hears(in, a, at(a))
				if after.Addr() != Addr(60) || after.Port() == before.Port() {
					t.Errorf("seen at %v, and at %v after the mapping changed", before, after)
				}
				if got := hears(a, in, after); got != at(a) {
					t.Errorf("the answer to the new mapping comes from %v", got)
				}
				if box.Mappings() == 0 {
					t.Error("no mapping lives")
				}
				_ = in.Close()
				if _, err := in.WriteTo([]byte("x"), a.LocalAddr()); !errors.Is(err, net.ErrClosed) {
					t.Errorf("write to a closed socket: %v", err)
				}
				if _, _, err := in.ReadFrom(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
					t.Errorf("read from a closed socket: %v", err)
				}
				for _, s := range []net.PacketConn{near, a, a2, b, c} {
					_ = s.Close()
				}
			})
		})
	}
}

func TestNATRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(Config{})
		defer n.Close()
		box := n.NAT(NATConfig{Public: Addr(1)})
		defer box.Close()
		if _, err := box.Listen("udp4", &net.UDPAddr{IP: net.IPv4zero, Port: 1}); err == nil {
			t.Error("listened on no specific address")
		}
		c := behind(t, box, "10.0.0.2:9")
		if _, err := box.Listen("udp4", c.LocalAddr().(*net.UDPAddr)); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("listen twice: %v", err)
		}
		if any := behind(t, box, "10.0.0.2:0"); at(any).Port() == 0 {
			t.Error("no port was picked")
		}
	})
}

func TestNATForwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(Config{Seed: 1})
		defer n.Close()
		box := n.NAT(NATConfig{Public: Addr(50), PortFilter: true})
		defer box.Close()
		in, a := behind(t, box, "10.0.0.2:9"), listen(t, n, 0)
		hears(in, a, at(a))
		if err := box.Forward(4001, at(in)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		open := netip.AddrPortFrom(Addr(50), 4001)
		if got := hears(a, in, open); got != at(a) {
			t.Errorf("through the port that is open for good: %v", got)
		}
		if got := hears(in, a, at(a)); got != open {
			t.Errorf("what leaves is seen at %v", got)
		}
		_, _ = in.Close(), a.Close()
	})
}
