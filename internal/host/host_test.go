package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/sim"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"go.uber.org/goleak"
)

const private identity.Network = "test"

func key(i byte) identity.Private {
	return identity.PrivateFromSeed([32]byte{i, 'h', 'o', 's', 't'})
}

func open(t *testing.T, c Config) *Host {
	t.Helper()
	if c.Network == "" {
		c.Network = private
	}
	if len(c.Listen) == 0 {
		c.Listen = []string{"/ip4/127.0.0.1/udp/0/quic-v1"}
	}
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return h
}

func raw(addrs []ma.Multiaddr) [][]byte {
	var out [][]byte
	for _, a := range addrs {
		out = append(out, a.Bytes())
	}
	return out
}

func TestDialAndOpen(t *testing.T) {
	a, b := open(t, Config{Key: key(1)}), open(t, Config{Key: key(2)})
	echo := Protocol(private, "echo/1")
	b.SetStreamHandler(echo, func(s network.Stream) {
		_, _ = io.Copy(s, s)
		_ = s.Close()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := a.Dial(ctx, b.Key(), raw(b.Addrs())); err != nil {
		t.Fatal(err)
	}
	s, err := a.Open(ctx, b.ID(), echo)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, []byte("hello")) {
		t.Fatalf("echo: %q, %v", got, err)
	}

	s, err = a.Open(ctx, b.ID(), Protocol("other", "echo/1"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = s.Write([]byte("hello"))
	if _, err := io.ReadAll(s); err == nil {
		t.Error("a protocol of another network was spoken")
	}
	_ = s.Reset()
}

// TestNamesAreNotLookedUp hands the dialler what a peer may claim in identify.
func TestNamesAreNotLookedUp(t *testing.T) {
	a, b := open(t, Config{Key: key(1)}), open(t, Config{Key: key(2)})
	udp, err := b.Addrs()[0].ValueForProtocol(ma.P_UDP)
	if err != nil {
		t.Fatal(err)
	}
	named := peer.AddrInfo{ID: b.ID(), Addrs: []ma.Multiaddr{ma.StringCast("/dns4/localhost/udp/" + udp + "/quic-v1")}}
	if err := a.Connect(t.Context(), named); err == nil {
		t.Error("a name was looked up")
	}
}

func TestNeighbour(t *testing.T) {
	a := open(t, Config{Key: key(1), Network: identity.Public})
	var addrs [][]byte
	for _, s := range []string{
		"/ip4/192.168.1.2/udp/9/quic-v1", "/ip4/1.2.3.4/udp/9/quic-v1", // these stay
		"/dns4/victim.example/udp/9/quic-v1", "/ip4/1.2.3.4/tcp/9", "/ip4/239.1.2.3/udp/9/quic-v1",
		"/ip4/255.255.255.255/udp/9/quic-v1", "/ip4/0.0.0.0/udp/9/quic-v1", "/ip4/1.2.3.4/udp/0/quic-v1",
		"/ip4/1.2.3.4/udp/9/quic-v1/p2p/" + a.ID().String() + "/p2p-circuit",
	} {
		addrs = append(addrs, ma.StringCast(s).Bytes())
	}
	got, err := a.Neighbour(key(2).Public(), addrs)
	if err != nil || len(got.Addrs) != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestDialWithoutAddresses(t *testing.T) {
	a := open(t, Config{Key: key(1)})
	if err := a.Dial(t.Context(), key(2).Public(), [][]byte{{1, 2, 3}}); err == nil {
		t.Fatal("dialled a node without an address")
	}
}

func TestPortInUse(t *testing.T) {
	taken, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = New(Config{Key: key(1), Network: private,
		Listen: []string{fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", taken.LocalAddr().(*net.UDPAddr).Port)}})
	if !errors.Is(err, ErrListen) || !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "another program has the port") {
		t.Fatalf("listen on a port in use: %v", err)
	}
}

func TestConfigRefused(t *testing.T) {
	for name, c := range map[string]Config{
		"no key":      {Network: private},
		"bad network": {Key: key(1), Network: "No Such"},
		"tcp":         {Key: key(1), Network: private, Listen: []string{"/ip4/127.0.0.1/tcp/0"}},
		"no address":  {Key: key(1), Network: private, Listen: []string{"localhost"}},
		"marks":       {Key: key(1), Network: private, LowWater: 9, HighWater: 8},
	} {
		if h, err := New(c); err == nil {
			_ = h.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestPeerIDs(t *testing.T) {
	k := key(7).Public()
	id, err := PeerID(k)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := KeyOf(id); err != nil || back != k {
		t.Fatalf("key of %s: %v, %v", id, back, err)
	}
	if _, err := PeerID(identity.Key{}); err == nil {
		t.Error("the zero key has a peer")
	}
	for _, id := range []string{"", "x", "\x00\x24\x08\x01"} {
		if _, err := KeyOf(peer.ID(id)); err == nil {
			t.Errorf("peer %q has a key", id)
		}
	}
	if got := Protocol("public", "lease/1"); got != Prefix(identity.Public)+"/lease/1" || len(got) != len("/cell/0123456789abcdef/lease/1") {
		t.Errorf("protocol: %s", got)
	}
}

func TestAddressPolicy(t *testing.T) {
	for _, tc := range []struct {
		addr            string
		public, private bool
	}{
		{"/ip4/1.2.3.4/udp/9/quic-v1", true, true},
		{"/ip6/2a00:1450::1/udp/9/quic-v1", true, true},
		{"/ip4/10.1.2.3/udp/9/quic-v1", false, true},
		{"/ip4/192.168.1.3/udp/9/quic-v1", false, true},
		{"/ip4/100.64.1.3/udp/9/quic-v1", false, true},
		{"/ip4/169.254.1.3/udp/9/quic-v1", false, true},
		{"/ip4/127.0.0.1/udp/9/quic-v1", false, true},
		{"/ip6/::1/udp/9/quic-v1", false, true},
		{"/ip6/fd00::1/udp/9/quic-v1", false, true},
		{"/ip6/fe80::1/udp/9/quic-v1", false, true},
		{"/ip4/0.0.0.0/udp/9/quic-v1", false, false},
		{"/ip4/255.255.255.255/udp/9/quic-v1", false, false},
		{"/ip4/224.0.0.1/udp/9/quic-v1", false, false},
		{"/ip6/ff02::1/udp/9/quic-v1", false, false},
		{"/ip4/1.2.3.4/udp/0/quic-v1", false, false},
		{"/ip4/1.2.3.4/tcp/9", false, false},
		{"/ip4/1.2.3.4/udp/9", false, false},
		{"/ip4/1.2.3.4/udp/9/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit", true, true},
		{"/ip4/10.2.3.4/udp/9/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit", false, true},
		{"/ip4/224.0.0.1/udp/9/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit", false, false},
		{"/ip4/1.2.3.4/tcp/9/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit", false, false},
		{"/dns4/a.b/udp/9/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit", false, false},
		{"/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit", false, false},
		{"/ip4/1.2.3.4/udp/9/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN", false, false},
		{"/ip4/1.2.3.4/udp/9/quic-v1/p2p-circuit", false, false},
		{"/ip4/1.2.3.4/udp/9/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN", false, false},
		{"/ip4/1.2.3.4/udp/9/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit", false, false},
		{"/ip4/1.2.3.4/udp/9/quic-v1/p2p/QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG/p2p-circuit", false, false},
		{"/dns4/example.com/udp/9/quic-v1", false, false},
		{"/dnsaddr/example.com", false, false},
	} {
		a := ma.StringCast(tc.addr)
		if got := Dialable(identity.Public, a); got != tc.public {
			t.Errorf("%s on the public network: %v", a, got)
		}
		if got := Dialable(private, a); got != tc.private {
			t.Errorf("%s on a private network: %v", a, got)
		}
	}
	if Dialable(private, nil) {
		t.Error("an empty address is dialable")
	}
	got := Publishable(private, []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/udp/9/quic-v1"),
		ma.StringCast("/ip4/10.0.0.1/udp/9/quic-v1"), ma.StringCast("/ip4/1.2.3.4/udp/9/quic-v1")})
	if want := "[/ip4/1.2.3.4/udp/9/quic-v1 /ip4/10.0.0.1/udp/9/quic-v1]"; fmt.Sprint(got) != want {
		t.Errorf("published %v, want %v", got, want)
	}
	only := []ma.Multiaddr{ma.StringCast("/ip6/fe80::1/udp/9/quic-v1"), ma.StringCast("/ip4/127.0.0.1/udp/9/quic-v1")}
	if got := Publishable(private, only); len(got) != 1 || !got[0].Equal(only[1]) {
		t.Errorf("published %v of a machine without a network", got)
	}
}

func TestLeaseAddrs(t *testing.T) {
	h := open(t, Config{Key: key(1), Network: identity.Public})
	if got := h.LeaseAddrs(false); len(got) != 0 {
		t.Errorf("a loopback address is published on the public network: %v", got)
	}
	if got := h.LeaseAddrs(true); len(got) != 1 || !slices.Equal(got[0], h.Addrs()[0].Bytes()) {
		t.Errorf("LAN addresses of a node on loopback: %v", got)
	}
}

// Where a machine is on a network, its own nodes reach each other without being
// told of loopback, one that is on loopback alone included.
func TestLoopbackIsNotTold(t *testing.T) {
	if a, err := interfaceAddrs(); err != nil || !slices.ContainsFunc(a, func(a ma.Multiaddr) bool {
		return a[0].Code() == ma.P_IP4 && !manet.IsIPLoopback(a)
	}) {
		t.Skipf("this machine is on no network: %v, %v", a, err)
	}
	all := open(t, Config{Key: key(1), Listen: DefaultListen})
	only := open(t, Config{Key: key(2)})
	for _, told := range [][][]byte{all.LeaseAddrs(true), all.LeaseAddrs(false), raw(all.Addrs())} {
		for _, b := range told {
			if a, _ := ma.NewMultiaddrBytes(b); manet.IsIPLoopback(a) || manet.IsIP6LinkLocal(a) {
				t.Errorf("others are told %s", a)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := only.Dial(ctx, all.Key(), all.LeaseAddrs(true)); err != nil {
		t.Errorf("from loopback: %v", err)
	}
	third := open(t, Config{Key: key(3), Listen: DefaultListen[:1]})
	if err := third.Dial(ctx, only.Key(), only.LeaseAddrs(true)); err != nil {
		t.Errorf("to loopback: %v", err)
	}
}

// One hostile machine gets no more than its share of connections, however
// often it asks with however many keys.
func TestConnectionsOfOneMachineAreBounded(t *testing.T) {
	victim := open(t, Config{Key: key(1)})
	limits := victim.Network().ResourceManager()
	addr := ma.StringCast("/ip4/9.9.9.9/udp/9/quic-v1")
	var open []network.ConnManagementScope
	for range 10_000 {
		if s, err := limits.OpenConnection(network.DirInbound, false, addr); err == nil {
			open = append(open, s)
		}
	}
	if len(open) > maxIPConns {
		t.Errorf("one address holds %d connections, %d are allowed", len(open), maxIPConns)
	}
	other, err := limits.OpenConnection(network.DirInbound, false, ma.StringCast("/ip4/8.8.8.8/udp/9/quic-v1"))
	if err != nil {
		t.Errorf("another machine is locked out: %v", err)
	} else {
		other.Done()
	}
	for _, s := range open {
		s.Done()
	}
}

// Fifty nodes on one machine can all talk to one of them at once.
func TestManyNodesOnLoopback(t *testing.T) {
	n := 50
	if testing.Short() {
		n = 10
	}
	hub := open(t, Config{Key: key(0), LowWater: 60, HighWater: 80})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	errs := make(chan error)
	for i := range n {
		h := open(t, Config{Key: key(byte(i + 1))})
		go func() { errs <- h.Dial(ctx, hub.Key(), raw(hub.Addrs())) }()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// simulated returns hosts on a simulated planet, one on each machine.
func simulated(t *testing.T, net *sim.Network, i int) *Host {
	t.Helper()
	h, err := New(Config{Key: key(byte(i)), Network: identity.Public, ListenPacket: net.Listen,
		Listen: []string{fmt.Sprintf("/ip4/%s/udp/4001/quic-v1", sim.Addr(i))}})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestDeathIsNoticed(t *testing.T) {
	for name, restart := range map[string]bool{"stays away": false, "comes back": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := sim.NewNetwork(sim.Config{Seed: 1})
				defer net.Close()
				a, b := simulated(t, net, 1), simulated(t, net, 2)
				defer a.Close()
				if err := a.Dial(t.Context(), b.Key(), raw(b.Addrs())); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour) // an idle connection stays
				gone := make(chan struct{})
				a.Network().Notify(&network.NotifyBundle{DisconnectedF: func(network.Network, network.Conn) { close(gone) }})
				if a.Network().Connectedness(b.ID()) != network.Connected {
					t.Fatal("an idle connection was lost")
				}
				start := time.Now()
				net.Kill(sim.Addr(2))
				_ = b.Close()
				limit := idleTimeout + keepAlive
				if restart {
					b = simulated(t, net, 2)
					defer b.Close()
					limit = time.Second // the next request finds a stranger at home
					if s, err := a.Open(t.Context(), b.ID(), "/test"); err == nil {
						_, _ = s.Write(make([]byte, 100))
					}
				}
				<-gone
				if took := time.Since(start); took > limit {
					t.Errorf("noticed after %v, want %v", took, limit)
				}
			})
		})
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNAT(t *testing.T) {
	a := open(t, Config{Key: key(1), NAT: true})
	b := open(t, Config{Key: key(2), NAT: true})
	if err := a.Dial(t.Context(), b.Key(), raw(b.Addrs())); err != nil {
		t.Fatal(err)
	}
}

// People read why a node is not reached: one line, whatever was tried.
func TestDialErrorIsOneLine(t *testing.T) {
	a := open(t, Config{Key: key(1)})
	b := open(t, Config{Key: key(77)})
	addrs := raw(b.Addrs())
	b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	err := a.Dial(ctx, key(77).Public(), addrs)
	var dial *DialError
	if !errors.As(err, &dial) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), key(77).Public().Short()) {
		t.Errorf("dial: %v", err)
	}
	t.Log(err)
}

// Of several addresses the error names the one that should have been reached
// from here, not the one that is another machine to each.
func TestDialErrorNamesTheBestAddress(t *testing.T) {
	const best = "/ip4/10.1.2.3/udp/9/quic-v1"
	one := func(a string) swarm.TransportError {
		return swarm.TransportError{Address: ma.StringCast(a), Cause: errors.New("timeout")}
	}
	for name, e := range map[string]error{
		"loopback first": &swarm.DialError{DialErrors: []swarm.TransportError{one("/ip4/127.0.0.1/udp/9/quic-v1"), one(best), one("/ip6/::1/udp/9/quic-v1")}},
		"a relay":        &swarm.DialError{DialErrors: []swarm.TransportError{one("/ip4/1.2.3.4/udp/9/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit"), one(best)}},
		"loopback last":  &swarm.DialError{DialErrors: []swarm.TransportError{one(best), one("/ip4/127.0.0.1/udp/9/quic-v1")}},
	} {
		if text := (&DialError{Node: key(1).Public(), Err: e}).Error(); !strings.Contains(text, best) || strings.Contains(text, "127.0.0.1") {
			t.Errorf("%s: %s", name, text)
		}
	}
}
