package host

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/sim"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	ma "github.com/multiformats/go-multiaddr"
)

// planet is a simulated network with a few public hosts, which answer AutoNAT
// and relay.
type planet struct {
	t      *testing.T
	net    *sim.Network
	public []*Host
	hosts  byte
	at     map[identity.Key]netip.Addr // where the world sees a host
}

func newPlanet(t *testing.T, public int, c Config) *planet {
	t.Helper()
	p := &planet{t: t, net: sim.NewNetwork(sim.Config{Seed: 1}), at: make(map[identity.Key]netip.Addr)}
	t.Cleanup(func() {
		p.net.Close()
		time.Sleep(Linger)
	})
	for range public {
		p.public = append(p.public, p.open(nil, c))
	}
	for i, h := range p.public {
		for _, o := range p.public[:i] {
			p.join(h, o)
		}
	}
	p.within(10*time.Minute, "the public hosts know that they are, and relay", func() bool {
		for _, h := range p.public {
			if r := h.Reach(); r.Public != Yes || r.Serving.On != (c.Relay != Off) {
				return false
			}
		}
		return true
	})
	return p
}

const (
	echoName = "echo/1" // goes over relays
	bulkName = "bulk/1" // does not
)

// open starts a host on a machine of its own, behind a box or not, that echoes.
func (p *planet) open(box *sim.NAT, c Config) *Host {
	p.t.Helper()
	c.NAT = true
	return p.plain(box, c)
}

// plain is open for a host that knows nothing of boxes.
func (p *planet) plain(box *sim.NAT, c Config) *Host {
	p.t.Helper()
	p.hosts++
	at := sim.Addr(int(p.hosts))
	seen := at
	c.ListenPacket = p.net.Listen
	if box != nil {
		at, seen, c.ListenPacket = netip.AddrFrom4([4]byte{10, 0, 0, p.hosts}), box.Public(), box.Listen
	}
	c.Key, c.Listen = key(p.hosts), []string{fmt.Sprintf("/ip4/%s/udp/4001/quic-v1", at)}
	if c.Network == "" {
		c.Network = identity.Public
	}
	c.Relayed = []string{echoName}
	h, err := New(c)
	if err != nil {
		p.t.Fatal(err)
	}
	p.at[h.Key()] = seen
	p.t.Cleanup(func() {
		if err := h.Close(); err != nil {
			p.t.Errorf("close: %v", err)
		}
	})
	for _, name := range []string{echoName, bulkName} {
		h.SetStreamHandler(Protocol(c.Network, name), func(s network.Stream) {
			_, _ = io.Copy(s, s)
			_ = s.Close()
		})
	}
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

// within waits until something is true.
func (p *planet) within(limit time.Duration, what string, is func() bool) time.Duration {
	p.t.Helper()
	start := time.Now()
	for !is() {
		if time.Since(start) > limit {
			p.t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

// echo has a few bytes come back from a node over a protocol.
func echo(ctx context.Context, h *Host, to peer.ID, name string) error {
	s, err := h.Open(ctx, to, Protocol(h.NetworkName(), name))
	if err != nil {
		return err
	}
	defer s.Reset()
	if _, err := s.Write([]byte("hello")); err != nil {
		return err
	}
	_ = s.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err = io.ReadFull(s, make([]byte, 5))
	return err
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
func (p *planet) sheltered(box *sim.NAT, c Config) *Host {
	p.t.Helper()
	h := p.open(box, c)
	for _, o := range p.public {
		p.join(h, o)
	}
	p.within(time.Minute, "places at relays", func() bool { return len(relayedAddrs(h)) >= wantedPlaces })
	return h
}

// reached waits until a's words to b are answered and returns how long that took.
func (p *planet) reached(a, b *Host, limit time.Duration) time.Duration {
	p.t.Helper()
	start := time.Now()
	var err error
	for time.Since(start) < limit {
		ctx, cancel := context.WithTimeout(p.t.Context(), limit)
		if err = a.Dial(ctx, b.Key(), b.LeaseAddrs(false)); err == nil {
			err = echo(ctx, a, b.ID(), echoName)
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

func direct(h *Host, to identity.Key) bool {
	via, _, _ := h.Path(to)
	return via == "direct"
}

// relay returns the host that a path goes over.
func (p *planet) relay(via string) *Host {
	for _, h := range p.public {
		if via == "relayed via "+h.Key().Short() {
			return h
		}
	}
	p.t.Fatalf("path is %q", via)
	return nil
}

// roundTrip is that of the path from a over a relay to b.
func (p *planet) roundTrip(a, relay, b *Host) time.Duration {
	return 2 * (sim.World(p.at[a.Key()], p.at[relay.Key()]) + sim.World(p.at[relay.Key()], p.at[b.Key()]))
}

// The kinds of boxes: those that keep a machine's port, and let in whom it
// wrote to or only the port that it wrote to; and those that show each remote
// another port.
var (
	keeps     = &sim.NATConfig{}
	filters   = &sim.NATConfig{PortFilter: true}
	symmetric = &sim.NATConfig{PerRemote: true}
)

var many = flag.Bool("many", false, "figures from more pairs of hosts")

// TestReachedOverRelaysAndDirectly has hosts all over the planet dial each other.
func TestReachedOverRelaysAndDirectly(t *testing.T) {
	for _, tc := range []struct {
		name   string
		a, b   *sim.NATConfig // nil: public
		direct float64        // share of pairs that must come to a direct connection
	}{
		{"public to port preserving", nil, keeps, 1},
		{"public to port dependent", nil, symmetric, 1},
		{"port preserving both", keeps, keeps, 1},
		{"port filtering both", filters, filters, 1},
		{"port dependent to port preserving", symmetric, keeps, 0.9},
		{"port preserving to port dependent", keeps, symmetric, 0.9},
		{"port dependent to port filtering", symmetric, filters, 0}, // nobody can foretell the port
		{"port dependent both", symmetric, symmetric, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 2
				switch {
				case *many:
					n = 5
				case tc.direct == 0:
					n = 1
				}
				p := newPlanet(t, 2+n, Config{})
				var as, bs []*Host
				for range n {
					if tc.a == nil {
						as = append(as, p.open(nil, Config{}))
					} else {
						as = append(as, p.sheltered(p.box(*tc.a), Config{}))
					}
					bs = append(bs, p.sheltered(p.box(*tc.b), Config{}))
				}
				var stands, directs, later []time.Duration // later: after the relayed connection stood
				pairs, worst, patience := 0, 0.0, 15*time.Second
				if tc.direct == 0 {
					patience = 4 * time.Second // one attempt
				}
				for _, a := range as {
					for _, b := range bs {
						pairs++
						start := time.Now()
						if err := a.Dial(t.Context(), b.Key(), b.LeaseAddrs(false)); err != nil {
							t.Fatal(err)
						}
						took := time.Since(start)
						if via, _, _ := a.Path(b.Key()); via != "direct" {
							rtts := float64(took) / float64(p.roundTrip(a, p.relay(via), b))
							worst = max(worst, rtts)
						}
						stands = append(stands, took)
						if err := echo(t.Context(), a, b.ID(), echoName); err != nil {
							t.Fatal(err)
						}
						for time.Since(start) < patience && !direct(a, b.Key()) {
							time.Sleep(10 * time.Millisecond)
						}
						if direct(a, b.Key()) {
							directs = append(directs, time.Since(start))
							later = append(later, time.Since(start)-took)
						}
						if err := echo(t.Context(), a, b.ID(), echoName); err != nil {
							t.Errorf("after the attempts: %v", err)
						}
					}
				}
				slices.Sort(stands)
				found := len(directs)
				if found == 0 {
					directs, later = []time.Duration{0}, []time.Duration{0}
				}
				slices.Sort(directs)
				slices.Sort(later)
				middle, last := directs[len(directs)/2], directs[len(directs)-1]
				t.Logf("%d of %d reached over a relay, p50 %v, at most %v and %.1f round trips; %d directly, p50 %v, the last %v after the dial began and %v after it was reached",
					len(stands), pairs, ms(stands[len(stands)/2]), ms(stands[len(stands)-1]), worst, found, ms(middle), ms(last), ms(later[len(later)-1]))
				if worst > 3 {
					t.Errorf("a relayed connection took %.1f round trips", worst)
				}
				if float64(found) < tc.direct*float64(pairs) || tc.direct > 0 && (later[len(later)-1] > 1500*time.Millisecond || middle > 1500*time.Millisecond) {
					t.Errorf("%d of %d came to a direct connection, p50 %v, the last %v after it was reached", found, pairs, middle, later[len(later)-1])
				}
			})
		})
	}
}

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// A box that lets answers in from any port of an address deceives AutoNAT: the
// peers that dial back are ones that the host talks to.
func TestVerdictBehindTranslators(t *testing.T) {
	for name, tc := range map[string]struct {
		box  sim.NATConfig
		kind string
	}{
		"port preserving": {*keeps, translatedAll}, "port filtering": {*filters, translatedAll}, "port dependent": {*symmetric, translatedEach},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlanet(t, 4, Config{})
				start := time.Now()
				h := p.sheltered(p.box(tc.box), Config{})
				t.Logf("two places after %v", time.Since(start))
				time.Sleep(10 * time.Minute)
				r := h.Reach()
				if r.Public == Yes || r.Serving.On || r.Translated != tc.kind || len(r.Places) < wantedPlaces || r.Why == "" {
					t.Errorf("%+v", r)
				}
				if tc.box.PortFilter && (r.V1 != "private" || len(r.Unreachable) != 1 || r.Public != No) {
					t.Errorf("AutoNAT did not find out: %+v", r)
				}
				if !tc.box.PortFilter && r.V1 != "public" {
					t.Errorf("AutoNAT was not deceived, so this proves nothing: %+v", r)
				}
				if len(relayedAddrs(h)) < wantedPlaces {
					t.Errorf("its addresses: %x", h.LeaseAddrs(false))
				}
			})
		})
	}
}

// Where everybody is let in, strangers prove it.
func TestStrangersProveReachability(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanet(t, 4, Config{})
		h := p.sheltered(p.box(sim.NATConfig{Open: true}), Config{})
		p.within(time.Minute, "AutoNAT's answer", func() bool { return len(h.Reach().Reachable) > 0 })
		if r := h.Reach(); r.Public == Yes {
			t.Errorf("without a stranger: %+v", r)
		}
		for range minStrangers {
			s := p.open(nil, Config{})
			p.reached(s, h, 10*time.Second)
			if !direct(s, h.Key()) {
				t.Error("a stranger came over a relay")
			}
		}
		p.within(time.Minute, "the proof", func() bool {
			r := h.Reach()
			return r.Public == Yes && r.Serving.On && len(r.Places) == 0
		})
		if a := relayedAddrs(h); len(a) > 0 || len(h.LeaseAddrs(false)) == 0 {
			t.Errorf("addresses: %x", h.LeaseAddrs(false))
		}
	})
}

// router gives ports of a box, as one with UPnP does.
type router struct {
	box *sim.NAT
	to  netip.AddrPort
}

func (r *router) HasDiscoveredNAT() bool { return true }
func (r *router) Close() error           { return nil }
func (r *router) GetMapping(a ma.Multiaddr) ma.Multiaddr {
	if !isQUIC(a) {
		return nil
	}
	return ma.StringCast(fmt.Sprintf("/ip4/%s/udp/7000/quic-v1", r.box.Public()))
}

func TestPortMapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanet(t, 4, Config{})
		box := p.box(*filters)
		var r *router
		h := p.open(box, Config{mapper: func(network.Network) basichost.NATManager {
			r = &router{box: box, to: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, p.hosts}), 4001)}
			if err := box.Forward(7000, r.to); err != nil {
				t.Error(err)
			}
			return r
		}})
		for _, o := range p.public {
			p.join(h, o)
		}
		took := p.within(time.Minute, "the port is proven", func() bool { return h.Reach().Public == Yes })
		t.Logf("public after %v: %+v", took, h.Reach())
		if a := h.LeaseAddrs(false); len(a) != 1 || len(h.Reach().Mapped) != 1 {
			t.Errorf("addresses: %x, %+v", a, h.Reach())
		}
		s := p.open(nil, Config{})
		if p.reached(s, h, 10*time.Second); !direct(s, h.Key()) {
			t.Error("reached over a relay")
		}
	})
}

// The operator's word: an address that the router was told to pass on.
func TestAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanet(t, 3, Config{})
		box := p.box(*filters)
		at := fmt.Sprintf("/ip4/%s/udp/7000/quic-v1", box.Public())
		h := p.open(box, Config{Announce: []string{at}, Public: Yes})
		if err := box.Forward(7000, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, p.hosts}), 4001)); err != nil {
			t.Fatal(err)
		}
		for _, o := range p.public {
			p.join(h, o)
		}
		p.within(time.Second, "the address", func() bool { return len(h.LeaseAddrs(false)) > 0 })
		if a := h.LeaseAddrs(false); len(a) != 1 || !slices.Equal(a[0], ma.StringCast(at).Bytes()) {
			t.Errorf("addresses: %x", a)
		}
		s := p.open(nil, Config{})
		if p.reached(s, h, 10*time.Second); !direct(s, h.Key()) {
			t.Error("reached over a relay")
		}
	})
}

// On a private network nodes behind a translator are reached like elsewhere,
// and nodes of one LAN need no relay.
func TestPrivateNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanet(t, 3, Config{Network: private})
		a := p.sheltered(p.box(*filters), Config{Network: private})
		b := p.sheltered(p.box(*filters), Config{Network: private})
		p.reached(a, b, 10*time.Second)
		p.within(10*time.Second, "a direct connection", func() bool { return direct(a, b.Key()) })

		lan := p.box(*filters) // nobody on it talks to the world
		c, d := p.open(lan, Config{Network: private}), p.open(lan, Config{Network: private})
		p.join(c, d)
		time.Sleep(time.Minute)
		for _, h := range []*Host{c, d} {
			if r := h.Reach(); r.Public != Yes || len(r.Places) > 0 || r.Translated != "" {
				t.Errorf("on a LAN: %+v", r)
			}
		}
	})
}

func TestMappingChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanet(t, 4, Config{})
		box := p.box(*filters)
		b := p.sheltered(box, Config{})
		a := p.sheltered(p.box(*filters), Config{})
		p.reached(a, b, 10*time.Second)
		p.within(10*time.Second, "a direct connection", func() bool { return direct(a, b.Key()) })
		before := b.Reach().Seen[0].Addr

		box.Rebind(sim.Addr(200))
		start := time.Now()
		stranger := p.open(nil, Config{})
		t.Logf("a stranger is answered after %v", p.reached(stranger, b, 10*time.Second))
		p.reached(a, b, time.Minute)
		t.Logf("a friend is answered %v after the change", time.Since(start))
		p.within(2*time.Minute, "the node learns where it is seen now", func() bool {
			return slices.ContainsFunc(b.Reach().Seen, func(s Seen) bool { return !s.Addr.Equal(before) })
		})
		t.Logf("it knows its new address %v after the change", time.Since(start))
		c := p.sheltered(p.box(*filters), Config{})
		p.reached(c, b, 10*time.Second)
		t.Logf("direct to a newcomer after %v more", p.within(time.Minute, "direct", func() bool { return direct(c, b.Key()) }))
	})
}

func TestRelayDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanet(t, 5, Config{})
		a, b := p.sheltered(p.box(*symmetric), Config{}), p.sheltered(p.box(*symmetric), Config{}) // they never meet directly
		p.reached(a, b, 10*time.Second)
		via, _, _ := a.Path(b.Key())
		dead := p.relay(via)
		p.net.Kill(p.at[dead.Key()])
		t.Logf("the relay dies: answered again after %v", p.reached(a, b, time.Minute))
		stranger := p.open(nil, Config{})
		t.Logf("a stranger is answered after %v", p.reached(stranger, b, 10*time.Second))
		p.within(2*time.Minute, "another relay", func() bool {
			places := b.Reach().Places
			return len(places) >= wantedPlaces && !slices.ContainsFunc(places, func(l Place) bool { return l.Relay == dead.Key() })
		})
	})
}

// What a relay passes on is bounded, and what was not meant for relays waits
// for a direct connection.
func TestCircuitsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanet(t, 3, Config{})
		a, b := p.sheltered(p.box(*symmetric), Config{}), p.sheltered(p.box(*symmetric), Config{})
		p.reached(a, b, 10*time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := echo(ctx, a, b.ID(), bulkName); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a protocol that is not for relays: %v", err)
		}
		c := a.best(b.ID())
		left, ok := CircuitOf(c)
		if !ok || left.Left <= RelayBytes/2 || left.Left >= RelayBytes || time.Until(left.Until) > RelayTime {
			t.Errorf("left: %+v, %v", left, ok)
		}
		s, err := a.Open(t.Context(), b.ID(), Protocol(identity.Public, echoName))
		if err != nil {
			t.Fatal(err)
		}
		back := make(chan int64, 1)
		go func() {
			n, _ := io.Copy(io.Discard, s)
			back <- n
		}()
		for sent := 0; sent < 2*RelayBytes && err == nil; sent += 1000 {
			_ = s.SetWriteDeadline(time.Now().Add(time.Minute))
			_, err = s.Write(make([]byte, 1000))
		}
		if n := <-back; n > RelayBytes || !Spent(err) {
			t.Errorf("%d bytes went over a circuit and back: %v", n, err)
		}
		if after, _ := CircuitOf(c); after.Left > RelayBytes/4 {
			t.Errorf("left: %+v", after)
		}
		p.reached(a, b, time.Minute) // anew
		if _, ok := CircuitOf(a.best(p.public[0].ID())); ok {
			t.Error("a direct connection is a circuit")
		}

		relay := p.relay(mustPath(t, a, b))
		if st := relay.Reach().Serving; st.Guests == 0 || st.Circuits == 0 || st.Bytes == 0 {
			t.Errorf("the relay counts %+v", st)
		}
	})
}

func mustPath(t *testing.T, a, b *Host) string {
	t.Helper()
	via, rtt, ok := a.Path(b.Key())
	if !ok || rtt <= 0 {
		t.Fatalf("path %q %v %v", via, rtt, ok)
	}
	return via
}

// A node that does not want to relay does not, and its peers find others.
func TestRelayOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanet(t, 4, Config{Relay: Off})
		h := p.open(p.box(*filters), Config{})
		for _, o := range p.public {
			p.join(h, o)
		}
		time.Sleep(5 * time.Minute)
		if r := h.Reach(); len(r.Places) > 0 || len(h.LeaseAddrs(false)) > 0 {
			t.Errorf("places where nobody relays: %+v", r)
		}
		changed := make(chan struct{}, 100)
		on := p.open(nil, Config{Relay: On, Changed: func() { changed <- struct{}{} }})
		p.join(h, on)
		p.within(2*time.Minute, "one place", func() bool { return len(h.Reach().Places) == 1 })
		select {
		case <-changed:
		default:
			t.Error("the relay was not told that it relays")
		}
	})
}

// Relays are found through the function of the settings too, the nearest first,
// and the connection manager spares who has a place.
func TestPlacesAtTheNearest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanet(t, 5, Config{LowWater: 2, HighWater: 3})
		told := func(context.Context, int) (out []peer.AddrInfo) {
			for _, h := range p.public {
				out = append(out, h.AddrInfo())
			}
			return out
		}
		var all []*Host
		for range 6 {
			h := p.open(p.box(*filters), Config{Relays: told})
			p.within(time.Minute, "places", func() bool { return len(relayedAddrs(h)) >= wantedPlaces })
			all = append(all, h)
		}
		time.Sleep(3 * time.Minute) // the connection manager has done its work
		for _, h := range all {
			r := h.Reach()
			if len(r.Places) < wantedPlaces {
				t.Errorf("lost a place: %+v", r.Places)
				continue
			}
			var rtts []time.Duration
			for _, relay := range p.public {
				rtts = append(rtts, 2*sim.World(p.at[h.Key()], p.at[relay.Key()]))
			}
			slices.Sort(rtts)
			if got := r.Places[1].RTT; got > rtts[1]*12/10 {
				t.Errorf("places at %v and %v, relays are at %v", r.Places[0].RTT, got, rtts)
			}
		}
	})
}

// The machinery costs an idle host next to nothing.
func TestIdleCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanet(t, 3, Config{})
		quiet := func() float64 {
			time.Sleep(5 * time.Minute)
			before, _ := p.net.Packets()
			time.Sleep(10 * time.Minute)
			after, _ := p.net.Packets()
			return float64(after-before) / 600
		}
		without := quiet()
		h := p.sheltered(p.box(*filters), Config{})
		with := quiet()
		conns := len(h.Network().Conns())
		t.Logf("%.2f packets a second among the public hosts, %.2f more with a host behind a translator and its %d connections", without, with-without, conns)
		// An idle QUIC connection is two packets every five seconds, and their answers.
		if with-without > 1.1*float64(conns) {
			t.Errorf("%.2f packets a second for %d connections", with-without, conns)
		}
	})
}

func TestPathWithout(t *testing.T) {
	h := open(t, Config{Key: key(1)})
	if via, _, ok := h.Path(key(2).Public()); ok || via != "" {
		t.Errorf("a path to nobody: %q", via)
	}
	if r := h.Reach(); r.Public != Unknown || !strings.Contains(r.Why, "does not look") {
		t.Errorf("%+v", r)
	}
	for name, c := range map[string]Config{
		"public": {Public: "maybe"}, "relay": {Relay: "maybe"},
		"announce": {Announce: []string{"/ip4/1.2.3.4/tcp/1"}}, "announce nothing": {Announce: []string{"x"}},
	} {
		c.Key, c.Network = key(1), private
		if h, err := New(c); err == nil {
			_ = h.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}
