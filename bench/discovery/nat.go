package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/sim"
	"github.com/libp2p/go-libp2p/core/network"
)

var natRows = []row{
	{
		name: "host behind a NAT reached over a relay by", unit: share,
		ours: source{oursNAT, relayed}, goal: bound{share: 1},
	},
	{
		name: "relayed connection, in round trips of its path", unit: ratio,
		ours: source{oursNAT, roundTrips}, goal: bound{ratio: 3},
	},
	{
		name: "direct, NATs that preserve ports", ours: source{oursNAT, punched},
		goal: bound{p50: 1500 * time.Millisecond, last: 1500 * time.Millisecond},
	},
	{
		name: "direct, NATs that preserve ports", unit: share,
		ours: source{oursNAT, punched}, goal: bound{share: 1},
	},
	{
		name: "direct, one NAT with a port for each remote", unit: share,
		ours: source{oursNAT, punchedHard}, goal: bound{share: 0.9},
	},
}

const (
	oursNAT     = "our NAT"
	relayed     = "relayed"
	roundTrips  = "round trips"
	punched     = "punched"
	punchedHard = "punched hard"
)

const (
	echoName     = "echo/1"
	natPublic    = 12 // hosts that strangers reach: they answer AutoNAT and relay
	punchLimit   = 10 * time.Second
	shelterLimit = 10 * time.Minute // to find out what there is
)

// village is a few hosts, some of them behind boxes.
type village struct {
	s      setup
	net    *sim.Network
	hosts  []*host.Host
	at     map[*host.Host]netip.Addr // as the world sees it
	public []*host.Host
	boxes  []*sim.NAT
}

// nat has hosts behind boxes of different kinds dial each other. Hosts are
// those of a node; cells and names are not needed for this.
func nat(s setup, figures map[string]figure) error {
	v := &village{s: s, net: newWAN(s), at: make(map[*host.Host]netip.Addr)}
	defer v.close()
	for range natPublic {
		h, err := v.open(nil)
		if err != nil {
			return err
		}
		if err := v.meet(h); err != nil {
			return err
		}
		v.public = append(v.public, h)
	}
	if err := v.until("the public hosts relay", func() bool {
		for _, h := range v.public {
			if !h.Reach().Serving.On {
				return false
			}
		}
		return true
	}); err != nil {
		return err
	}
	n := pick(s, 2, 5)
	keeps, each := sim.NATConfig{}, sim.NATConfig{PerRemote: true}
	var reached, direct, hard, all times
	var ratios []float64
	failed, missed, missedHard := 0, 0, 0
	for _, kind := range []struct {
		a, b sim.NATConfig
		into *times
		miss *int
	}{{keeps, keeps, &direct, &missed}, {each, keeps, &hard, &missedHard}, {keeps, each, &hard, &missedHard}} {
		as, err := v.shelter(kind.a, n)
		if err != nil {
			return err
		}
		bs, err := v.shelter(kind.b, n)
		if err != nil {
			return err
		}
		for _, a := range as {
			for _, b := range bs {
				took, trips, straight, err := v.dial(a, b)
				switch {
				case err != nil:
					failed++
					*kind.miss++
					continue
				case straight < 0:
					*kind.miss++
				default:
					*kind.into = append(*kind.into, straight)
				}
				all = append(all, took)
				if trips > 0 {
					ratios = append(ratios, trips)
					reached = append(reached, took)
				}
			}
		}
	}
	figures[relayed] = all.figure(failed)
	r := reached.figure(0)
	for _, x := range ratios {
		r.Ratio = max(r.Ratio, x)
	}
	r.Note = fmt.Sprintf("the worst of %d", len(ratios))
	figures[roundTrips] = r
	figures[punched], figures[punchedHard] = direct.figure(missed), hard.figure(missedHard)
	return nil
}

// open starts a host, behind a box or not.
func (v *village) open(box *sim.NAT) (*host.Host, error) {
	i := len(v.hosts) + len(v.boxes)
	at, listen := addrOf(i), v.net.Listen
	inside := at
	if box != nil {
		inside, listen = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), box.Listen
		at = box.Public()
	}
	h, err := host.New(host.Config{
		Key: keyOf(v.s.Seed, "village", i), Network: cellnet, NAT: true, ListenPacket: listen,
		Listen: []string{fmt.Sprintf("/ip4/%s/udp/%d/quic-v1", inside, port)}, Relayed: []string{echoName},
	})
	if err != nil {
		return nil, err
	}
	v.hosts = append(v.hosts, h)
	v.at[h] = at
	h.SetStreamHandler(host.Protocol(cellnet, echoName), func(st network.Stream) {
		_, _ = io.Copy(st, st)
		_ = st.Close()
	})
	return h, nil
}

// meet connects a host to the public ones.
func (v *village) meet(h *host.Host) error {
	ctx, cancel := context.WithTimeout(context.Background(), opTime)
	defer cancel()
	for _, p := range v.public {
		var addrs [][]byte
		for _, a := range p.Addrs() {
			addrs = append(addrs, a.Bytes())
		}
		if err := h.Dial(ctx, p.Key(), addrs); err != nil {
			return err
		}
	}
	return nil
}

// shelter opens n hosts, each behind a box of its own, and waits until each
// has addresses to tell.
func (v *village) shelter(c sim.NATConfig, n int) (out []*host.Host, err error) {
	for range n {
		c.Public = addrOf(len(v.hosts) + len(v.boxes))
		box := v.net.NAT(c)
		v.boxes = append(v.boxes, box)
		h, err := v.open(box)
		if err != nil {
			return nil, err
		}
		if err := v.meet(h); err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	err = v.until("places at relays", func() bool {
		for _, h := range out {
			if len(h.Reach().Places) == 0 || len(h.LeaseAddrs(false)) == 0 {
				return false
			}
		}
		return true
	})
	return out, err
}

// dial has a call b at the addresses that b's leases have: how long until b
// has answered, how many round trips of the path over the relay the connection
// took (0: it was direct at once), and how long until a direct connection stood
// since then; negative: none did.
func (v *village) dial(a, b *host.Host) (answered time.Duration, trips float64, direct time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), opTime)
	defer cancel()
	began := time.Now()
	if err := a.Dial(ctx, b.Key(), b.LeaseAddrs(false)); err != nil {
		return 0, 0, 0, err
	}
	stood := time.Since(began)
	if via, _, _ := a.Path(b.Key()); via != "direct" {
		relay := v.relayOf(via)
		if relay == nil {
			return 0, 0, 0, fmt.Errorf("path %q names no relay", via)
		}
		trip := 2 * (planet(v.at[a], v.at[relay]) + planet(v.at[relay], v.at[b]))
		trips = float64(stood) / float64(trip)
	}
	st, err := a.Open(ctx, b.ID(), host.Protocol(cellnet, echoName))
	if err != nil {
		return 0, 0, 0, err
	}
	defer st.Reset()
	_, err = st.Write([]byte("hello"))
	if err == nil {
		_, err = io.ReadFull(st, make([]byte, 5))
	}
	if err != nil {
		return 0, 0, 0, err
	}
	answered = time.Since(began)
	for ; time.Since(began) < stood+punchLimit; time.Sleep(10 * time.Millisecond) {
		if via, _, _ := a.Path(b.Key()); via == "direct" {
			return answered, trips, time.Since(began) - stood, nil
		}
	}
	return answered, trips, -1, nil
}

func (v *village) relayOf(via string) *host.Host {
	for _, p := range v.public {
		if via == "relayed via "+p.Key().Short() || via == "relayed via "+p.Key().String() {
			return p
		}
	}
	return nil
}

func (v *village) until(what string, true func() bool) error {
	for began := time.Now(); !true(); time.Sleep(100 * time.Millisecond) {
		if time.Since(began) > shelterLimit {
			return errors.New("not in time: " + what)
		}
	}
	return nil
}

func (v *village) close() {
	for _, h := range v.hosts {
		_ = h.Close()
	}
	for _, b := range v.boxes {
		b.Close()
	}
	v.net.Close()
	time.Sleep(host.Linger)
}
