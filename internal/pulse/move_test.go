package pulse

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/sim"
	"cell.network/cell/internal/swim"
)

// Two nodes behind boxes meet over a relay. Their stream moves to the direct
// connection, outlives the relayed one, and neither takes the other to have failed.
func TestStreamMovesToDirectConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := sim.NewNetwork(sim.Config{Seed: 1})
		t.Cleanup(func() {
			net.Close()
			time.Sleep(host.Linger)
		})
		open := func(i int, boxed bool) *host.Host {
			c := host.Config{Key: testKey(i), Network: identity.Public, NAT: true, Relayed: []string{"pulse/2"}, ListenPacket: net.Listen}
			at := sim.Addr(i)
			if boxed {
				box := net.NAT(sim.NATConfig{Public: at, PortFilter: true})
				t.Cleanup(box.Close)
				at, c.ListenPacket = netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), box.Listen
			} else {
				c.Public = host.Yes
			}
			c.Listen = []string{fmt.Sprintf("/ip4/%s/udp/4001/quic-v1", at)}
			h, err := host.New(c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := h.Close(); err != nil {
					t.Errorf("close host: %v", err)
				}
			})
			return h
		}
		relays := []*host.Host{open(1, false), open(2, false)}
		hosts := []*host.Host{open(3, true), open(4, true)}
		for _, h := range hosts {
			for _, r := range relays {
				if err := h.Dial(t.Context(), r.Key(), r.LeaseAddrs(false)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for end := time.Now().Add(time.Minute); len(hosts[0].Reach().Places) == 0 || len(hosts[1].Reach().Places) == 0; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("no places at relays")
			}
		}
		var mu sync.Mutex
		var changes []swim.Change
		refused := make(map[string]int)
		ctx, cancel := context.WithCancel(t.Context())
		var runs sync.WaitGroup
		t.Cleanup(func() {
			cancel()
			runs.Wait()
		})
		var nodes []*Pulse
		for i, h := range hosts {
			other := hosts[1-i]
			p, err := New(h, Config{Network: identity.Public, Key: testKey(3 + i), Incarnation: 1, Seed: uint64(i) + 1,
				Row:     func() record.RowOffer { return record.RowOffer{} },
				Peers:   func() []Target { return []Target{{other.Key(), other.LeaseAddrs(false)}} },
				Contact: func() record.ContactOffer { return record.ContactOffer{Addrs: h.LeaseAddrs(false)} },
				OnMember: func(c swim.Change) {
					mu.Lock()
					defer mu.Unlock()
					changes = append(changes, c)
				},
				OnRefused: func(_ identity.Key, reason string) {
					mu.Lock()
					defer mu.Unlock()
					refused[reason]++
				}})
			if err != nil {
				t.Fatal(err)
			}
			nodes = append(nodes, p)
			runs.Go(func() { _ = p.Run(ctx) })
		}
		// on returns whether a node's stream to the other one is there, and over a relay.
		on := func(i int) (there, relayed bool) {
			nodes[i].mu.Lock()
			defer nodes[i].mu.Unlock()
			l := nodes[i].links[hosts[1-i].Key()]
			return l != nil && l.linked, l != nil && l.relayed()
		}
		met, moved, start := false, time.Duration(0), time.Now()
		for moved == 0 && time.Since(start) < 20*time.Second {
			thereA, overA := on(0)
			thereB, overB := on(1)
			met = met || thereA && overA && thereB && overB
			if met && thereA && thereB && !overA && !overB {
				moved = time.Since(start)
			}
			time.Sleep(time.Millisecond)
		}
		if !met || moved == 0 {
			t.Fatalf("a stream over a relay: %v, moved after %v", met, moved)
		}
		t.Logf("the stream has moved %v after the start", moved)
		since := nodes[0].links[hosts[1].Key()].since
		time.Sleep(host.RelayTime + time.Minute)
		for i, p := range nodes {
			if there, relayed := on(i); !there || relayed || p.State(hosts[1-i].Key()) != swim.Alive || len(p.Rows()) != 1 {
				t.Errorf("node %d: stream %v over a relay %v, the other one is %v, %d rows", i, there, relayed, p.State(hosts[1-i].Key()), len(p.Rows()))
			}
			n := 0
			for _, c := range hosts[i].Network().ConnsToPeer(hosts[1-i].ID()) {
				for _, s := range c.GetStreams() {
					if s.Protocol() == p.proto {
						n++
					}
				}
			}
			if n != 1 {
				t.Errorf("node %d has %d streams", i, n)
			}
		}
		if l := nodes[0].links[hosts[1].Key()]; l == nil || l.since != since {
			t.Error("the stream was opened again")
		}
		mu.Lock()
		defer mu.Unlock()
		for _, c := range changes {
			if c.Is != swim.Alive {
				t.Errorf("%s was taken to be %v", c.Node.Short(), c.Is)
			}
		}
		if len(refused) > 0 {
			t.Errorf("refused: %v", refused)
		}
	})
}
