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

func listen(t *testing.T, n *Network, i int) net.PacketConn {
	t.Helper()
	c, err := n.Listen("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(Addr(i), 9)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// arrives reports whether a packet from a to b arrives, and after how long.
func arrives(a, b net.PacketConn) (bool, time.Duration) {
	start := time.Now()
	_, _ = a.WriteTo([]byte("x"), b.LocalAddr())
	_ = b.SetReadDeadline(start.Add(time.Second))
	_, from, err := b.ReadFrom(make([]byte, 10))
	return err == nil && from.String() == a.LocalAddr().String(), time.Since(start)
}

func TestNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(Config{Seed: 1})
		defer n.Close()
		a, b, c := listen(t, n, 0), listen(t, n, 1), listen(t, n, 2)
		want := World(Addr(0), Addr(1))
		if ok, took := arrives(a, b); !ok || took < want || took > want*110/100 {
			t.Errorf("arrived: %v after %v, want %v", ok, took, want)
		}
		if _, err := n.Listen("udp4", a.LocalAddr().(*net.UDPAddr)); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("listen twice: %v", err)
		}
		if _, err := n.Listen("udp4", &net.UDPAddr{IP: net.IPv4zero}); err == nil {
			t.Error("listened on no specific address")
		}

		n.Partition([]netip.Addr{Addr(0)}, []netip.Addr{Addr(1)})
		if ok, _ := arrives(a, b); ok {
			t.Error("a packet crossed the partition")
		}
		if ok, _ := arrives(a, c); !ok {
			t.Error("an address in no group is cut off")
		}
		n.Heal()
		if ok, _ := arrives(a, b); !ok {
			t.Error("cut off after healing")
		}

		n.SetLoss(0.5)
		got := 0
		for range 200 {
			if ok, _ := arrives(a, b); ok {
				got++
			}
		}
		if got < 70 || got > 130 {
			t.Errorf("%d of 200 packets arrived at 50 %% loss", got)
		}
		n.SetLoss(0)

		n.Kill(Addr(1))
		if ok, _ := arrives(a, b); ok {
			t.Error("a dead machine received")
		}
		if ok, _ := arrives(b, a); ok {
			t.Error("a dead machine sent")
		}
		again := listen(t, n, 1)
		if ok, _ := arrives(a, again); !ok {
			t.Error("a machine that came back does not receive")
		}
		if sent, lost := n.Packets(); sent < 200 || lost < 70 || lost > sent {
			t.Errorf("%d packets sent, %d lost", sent, lost)
		}
		for _, s := range []net.PacketConn{a, b, c, again} {
			_ = s.Close()
		}
	})
}
