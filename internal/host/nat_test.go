package host

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/sim"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// planet is a simulated network with a few public hosts, which answer AutoNAT
// and relay.
type planet struct {
	t      *testing.T
	net    *sim.Network
	public []*Host
	hosts  byte
}

func newPlanet(t *testing.T, public int) *planet {
	p := &planet{t: t, net: sim.NewNetwork(sim.Config{Seed: 1})}
	t.Cleanup(func() {
		p.net.Close()
		time.Sleep(Linger)
	})
	for range public {
		p.public = append(p.public, p.open(nil, Config{}))
	}
	for i, h := range p.public {
		for _, o := range p.public[:i] {
			p.join(h, o)
		}
	}
	return p
}

const echoName = "echo/1"

// open starts a host on a machine of its own, behind a box or not, that echoes.
func (p *planet) open(box *sim.NAT, c Config) *Host {
	p.t.Helper()
	p.hosts++
	at := sim.Addr(int(p.hosts))
	c.ListenPacket = p.net.Listen
	if box != nil {
		at, c.ListenPacket = netip.AddrFrom4([4]byte{10, 0, 0, p.hosts}), box.Listen
	}
	c.Key, c.Listen, c.NAT = key(p.hosts), []string{fmt.Sprintf("/ip4/%s/udp/4001/quic-v1", at)}, true
	if c.Network == "" {
		c.Network = identity.Public
	}
	if c.Relayed == nil {
		c.Relayed = []string{echoName}
	}
	h, err := New(c)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := h.Close(); err != nil {
			p.t.Errorf("close: %v", err)
		}
	})
	h.SetStreamHandler(Protocol(c.Network, echoName), func(s network.Stream) {
		_, _ = io.Copy(s, s)
		_ = s.Close()
	})
	return h
}

func (p *planet) box(c sim.NATConfig) *sim.NAT {
	p.hosts++
	c.Public = sim.Addr(int(p.hosts))
	box := p.net.NAT(c)
	p.t.Cleanup(box.Close)
	return box
}

func (p *planet) join(h, to *Host) {
	p.t.Helper()
	if err := h.Dial(p.t.Context(), to.Key(), raw(to.Addrs())); err != nil {
		p.t.Fatal(err)
	}
}

// within waits until what is true.
func (p *planet) within(limit time.Duration, what string, true func() bool) time.Duration {
	p.t.Helper()
	start := time.Now()
	for !true() {
		if time.Since(start) > limit {
			p.t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

// echo has a few bytes come back from a node and returns how long that took.
func echo(ctx context.Context, h *Host, to peer.ID) (time.Duration, error) {
	start := time.Now()
	s, err := h.Open(ctx, to, Protocol(h.NetworkName(), echoName))
	if err != nil {
		return 0, err
	}
	defer s.Reset()
	if _, err := s.Write([]byte("hello")); err != nil {
		return 0, err
	}
	_ = s.SetReadDeadline(start.Add(10 * time.Second))
	if _, err := io.ReadFull(s, make([]byte, 5)); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

func relayedAddrs(h *Host) (out [][]byte) {
	for _, b := range h.LeaseAddrs(false) {
		if a, err := ma.NewMultiaddrBytes(b); err == nil {
			if _, _, relayed := splitRelayed(a); relayed {
				out = append(out, b)
			}
		}
	}
	return out
}

// sheltered opens a host behind a box that knows the public hosts and waits
// until it has its places.
func (p *planet) sheltered(c sim.NATConfig) *Host {
	h := p.open(p.box(c), Config{})
	for _, o := range p.public {
		p.join(h, o)
	}
	p.within(time.Minute, "places at relays", func() bool { return len(relayedAddrs(h)) >= wantedPlaces })
	return h
}

func direct(h *Host, to identity.Key) bool {
	via, _, _ := h.Path(to)
	return via == "direct"
}

func TestReachFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanet(t, 4)
		p.within(10*time.Minute, "the public hosts relay", func() bool {
			for _, h := range p.public {
				if r := h.Reach(); r.Public != Yes || !r.Serving.On {
					return false
				}
			}
			return true
		})
		for name, c := range map[string]sim.NATConfig{"port preserving": {}, "port filter": {PortFilter: true}, "symmetric": {PerRemote: true}} {
			start := time.Now()
			h := p.sheltered(c)
			t.Logf("%s: places after %v: %x", name, time.Since(start), h.LeaseAddrs(false))
			time.Sleep(time.Minute)
			r := h.Reach()
			t.Logf("%+v", r)
			if r.Public == Yes || r.Serving.On {
				t.Errorf("%s: believed public: %+v", name, r)
			}
		}
	})
}

func TestReachedOverRelay(t *testing.T) {
	for name, tc := range map[string]struct{ a, b *sim.NATConfig }{
		"from a public host":                 {nil, &sim.NATConfig{}},
		"both port preserving":               {&sim.NATConfig{}, &sim.NATConfig{}},
		"caller port dependent":              {&sim.NATConfig{PerRemote: true}, &sim.NATConfig{}},
		"called port dependent":              {&sim.NATConfig{}, &sim.NATConfig{PerRemote: true}},
		"both filter ports":                  {&sim.NATConfig{PortFilter: true}, &sim.NATConfig{PortFilter: true}},
		"called port dependent, from public": {nil, &sim.NATConfig{PerRemote: true, PortFilter: true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlanet(t, 4)
				p.within(10*time.Minute, "the public hosts relay", func() bool {
					for _, h := range p.public {
						if !h.Reach().Serving.On {
							return false
						}
					}
					return true
				})
				b := p.sheltered(*tc.b)
				var a *Host
				if tc.a != nil {
					a = p.sheltered(*tc.a)
				} else {
					a = p.open(nil, Config{})
					p.join(a, p.public[0])
				}
				time.Sleep(10 * time.Second)
				start := time.Now()
				if err := a.Dial(t.Context(), b.Key(), b.LeaseAddrs(false)); err != nil {
					t.Fatal(err)
				}
				stands := time.Since(start)
				via, rtt, _ := a.Path(b.Key())
				_, err := echo(t.Context(), a, b.ID())
				if err != nil {
					t.Fatal(err)
				}
				answered := time.Since(start)
				t.Logf("%s: stands after %v, answered after %v = %.1f round trips of %v", via, stands, answered, float64(answered)/float64(rtt), rtt)
				took := p.within(20*time.Second, "a direct connection", func() bool { return direct(a, b.Key()) || direct(b, a.Key()) })
				t.Logf("direct after %v; %+v %+v", took+answered, a.Reach().Punches, b.Reach().Punches)
				if _, err := echo(t.Context(), a, b.ID()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// relaying waits until the public hosts know that they are, and relay.
func (p *planet) relaying() *planet {
	p.t.Helper()
	p.within(10*time.Minute, "the public hosts relay", func() bool {
		for _, h := range p.public {
			if r := h.Reach(); r.Public != Yes || !r.Serving.On {
				return false
			}
		}
		return true
	})
	return p
}

// reached waits until a's messages to b are answered and returns how long that took.
func (p *planet) reached(a, b *Host, limit time.Duration) time.Duration {
	p.t.Helper()
	start := time.Now()
	var err error
	for time.Since(start) < limit {
		ctx, cancel := context.WithTimeout(p.t.Context(), limit)
		if err = a.Dial(ctx, b.Key(), b.LeaseAddrs(false)); err == nil {
			_, err = echo(ctx, a, b.ID())
		}
		cancel()
		if err == nil {
			return time.Since(start)
		}
		time.Sleep(100 * time.Millisecond)
	}
	p.t.Fatalf("not reached within %v: %v", limit, err)
	return 0
}

func TestMappingChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanet(t, 4).relaying()
		box := p.box(sim.NATConfig{PortFilter: true})
		b := p.open(box, Config{})
		for _, o := range p.public {
			p.join(b, o)
		}
		p.within(time.Minute, "places", func() bool { return len(relayedAddrs(b)) >= wantedPlaces })
		a := p.sheltered(sim.NATConfig{PortFilter: true})
		p.reached(a, b, 10*time.Second)
		if time.Sleep(9 * time.Second); !direct(a, b.Key()) {
			t.Log(a.Path(b.Key()))
			t.Logf("%+v %+v", a.Reach().Punches, b.Reach().Punches)
		}
		p.within(20*time.Second, "direct", func() bool { return direct(a, b.Key()) })
		before := b.Reach().Seen[0]

		box.Rebind(sim.Addr(200))
		start := time.Now()
		t.Logf("answered %v after the change, over what is there", p.reached(a, b, time.Minute))
		stranger := p.open(nil, Config{})
		t.Logf("a stranger's first answer took %v", p.reached(stranger, b, 30*time.Second))
		took := p.within(2*time.Minute, "the node learns where it is seen now", func() bool {
			s := b.Reach().Seen
			return len(s) > 0 && !s[0].Addr.Equal(before.Addr) && s[0].Witnesses >= 1
		})
		t.Logf("the new address is known after %v (%v later): %v", time.Since(start), took, b.Reach().Seen)
		c := p.sheltered(sim.NATConfig{PortFilter: true})
		p.reached(c, b, 10*time.Second)
		t.Logf("direct again after %v", p.within(time.Minute, "direct after the change", func() bool { return direct(c, b.Key()) }))
	})
}

func TestRelayDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanet(t, 5).relaying()
		b := p.sheltered(sim.NATConfig{PerRemote: true, PortFilter: true})
		a := p.sheltered(sim.NATConfig{PerRemote: true, PortFilter: true}) // they never meet directly
		p.reached(a, b, 10*time.Second)
		via, _, _ := a.Path(b.Key())
		var dead *Host
		for _, h := range p.public {
			if via == "relayed via "+h.Key().Short() {
				dead = h
			}
		}
		if dead == nil {
			t.Fatalf("path is %q", via)
		}
		addr := dead.Reach().Interfaces[0]
		ip, _ := addr.ValueForProtocol(ma.P_IP4)
		p.net.Kill(netip.MustParseAddr(ip))
		t.Logf("killed the relay: answered again after %v", p.reached(a, b, time.Minute))
		t.Logf("two places again after %v more", p.within(2*time.Minute, "another place", func() bool {
			for _, l := range b.Reach().Places {
				if l.Relay == dead.Key() {
					return false
				}
			}
			return len(b.Reach().Places) >= wantedPlaces
		}))
	})
}
