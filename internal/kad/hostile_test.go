package kad

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"
)

// badLeases are leases that nobody may believe, by the reason for which.
func badLeases(now time.Time) map[string][]byte {
	good := lease(testKey(50), greeter, 1, now, time.Minute)
	forged := bytes.Clone(good.Raw)
	forged[5] ^= 1
	foreign := func(network identity.Network, grant []byte, node identity.Private, issued time.Time) []byte {
		h := record.Header{Domain: record.DomainLease, Network: network.ID(), Order: record.Order{Incarnation: 1}, Issued: issued, TTL: time.Minute}
		raw, err := record.Sign(node, h, []any{greeter.Author, "greeter", record.StateAlive, [][]byte{addr("/ip4/1.2.3.4/udp/9/quic-v1")}, grant, []byte{}})
		if err != nil {
			panic(err)
		}
		return raw
	}
	nowhere := func() []byte {
		l, err := record.SignLease(testKey(51), testNet.ID(), record.Offer{Cell: greeter, State: record.StateAlive, Grant: grantTo(identity.Key{}, epoch),
			Addrs: [][]byte{addr("/dns4/victim.example/udp/9/quic-v1")}, Issued: now, TTL: time.Minute})
		if err != nil {
			panic(err)
		}
		return l.Raw
	}
	return map[string][]byte{
		"signature": forged,
		"stale":     foreign(testNet, grantTo(identity.Key{}, epoch), testKey(52), now.Add(-time.Hour)),
		"clock":     foreign(testNet, grantTo(identity.Key{}, epoch), testKey(53), now.Add(time.Hour)),
		"network":   foreign("other", grantTo(identity.Key{}, epoch), testKey(54), now),
		"grant":     foreign(testNet, grantTo(testKey(1).Public(), epoch), testKey(55), now), // granted to another node
		"key":       lease(testKey(56), cellNo(1), 1, now, time.Minute).Raw,
		"address":   nowhere(),
		"malformed": append([]byte(nil), make([]byte, 200)...),
	}
}

// liar is a machine in n's routing table that answers as it likes.
func (w *world) liar(n *member, i int, handle func(network.Stream)) {
	h := w.hostAt(i)
	h.SetStreamHandler(n.proto, handle)
	w.t.Cleanup(func() { _ = h.Close() })
	n.host.Peerstore().AddAddrs(h.ID(), h.Addrs(), peerstore.PermanentAddrTTL)
	if _, err := n.dht.RoutingTable().TryAddPeer(h.ID(), true, false); err != nil {
		w.t.Fatal(err)
	}
}

func TestHostileAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 11)
		w.seeded(2)
		finder, honest := w.nodes[0], w.nodes[1]
		w.put(honest, greeter, 1, time.Minute)
		// told answers every request with what say says.
		told := func(say func() []byte) func(network.Stream) {
			return func(s network.Stream) {
				_, _ = readMessage(s, MaxRequest)
				_, _ = s.Write(say())
				_ = s.Close()
			}
		}
		encoded := func(a answer) []byte {
			var b bytes.Buffer
			if err := writeMessage(&b, a); err != nil {
				t.Fatal(err)
			}
			return b.Bytes()
		}
		bad := badLeases(time.Now())
		w.liar(finder, 20, told(func() []byte {
			var a answer
			for _, raw := range bad {
				for range MaxLeases / len(bad) {
					a.Leases = append(a.Leases, raw)
				}
			}
			return encoded(a)
		}))
		w.liar(finder, 21, told(func() []byte { return []byte("\xff\xff\xff\xff and then some") }))
		w.liar(finder, 22, told(func() []byte { return []byte("\x00\x00\x00\x04\xa1\xa1\xa1\xa1") }))
		w.liar(finder, 23, told(func() []byte { return nil }))
		made := 1000
		w.liar(finder, 24, told(func() []byte { // an endless supply of peers that do not exist
			var a answer
			for range MaxCloser {
				made++
				a.Closer = append(a.Closer, node{Key: nodeKey(made), Addrs: [][]byte{ma.StringCast("/ip4/1.9.9.9/udp/9/quic-v1").Bytes()}})
			}
			return encoded(a)
		}))
		w.liar(finder, 25, func(s network.Stream) { // reads, and then says a byte a minute
			_, _ = io.Copy(io.Discard, s)
			time.Sleep(time.Minute)
			_ = s.Reset()
		})
		got, first, full, err := finder.find(greeter)
		if err != nil || len(got) != 1 || got[honest.key.Public()].Cell != greeter {
			t.Errorf("found %d leases, %v", len(got), err)
		}
		if first > time.Second || full > 10*time.Second {
			t.Errorf("the first came after %v, the end after %v", first, full)
		}
		stats := finder.Stats()
		counted, most := uint64(0), 0
		for reason := range bad {
			counted += stats[reason]
			if forged[reason] {
				most++
			}
			if stats[reason] > 1 {
				t.Errorf("%q was counted %d times", reason, stats[reason])
			}
		}
		if counted < maxForged || counted > uint64(len(bad)-most+maxForged) {
			t.Errorf("%d bad leases were counted", counted)
		}
		if n := stats[reasonAnswer]; n < 1 || n > 2 { // of two; the search may end before the second
			t.Errorf("%d malformed answers were counted", stats[reasonAnswer])
		}
		time.Sleep(2 * time.Minute) // the slow one
	})
}

func TestHostileDeposits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 12)
		w.seeded(2)
		holder, attacker := w.nodes[0], w.nodes[1]
		to := peer.AddrInfo{ID: holder.host.ID()}
		key := greeter.Key(testNet.ID())
		put := func(raw []byte) answer {
			a, err := attacker.ask(t.Context(), to, request{Op: opPut, Key: key[:], Lease: raw})
			if err != nil {
				return answer{Code: codeBusy}
			}
			return a
		}
		bad := badLeases(time.Now())
		for reason, raw := range bad {
			if a := put(raw); a.Code != codeRefused || a.Reason != reason {
				t.Errorf("%s: %+v", reason, a)
			}
		}
		if n, _ := holder.Held(); n != 0 {
			t.Errorf("%d bad leases are held", n)
		}
		var busy atomic.Int32
		good := lease(testKey(50), greeter, 1, time.Now(), time.Hour).Raw
		var all sync.WaitGroup
		for range 40 {
			all.Go(func() {
				for range 3 * putBurst / 40 {
					if put(good).Code == codeBusy {
						busy.Add(1)
					}
				}
			})
		}
		all.Wait()
		if n := busy.Load(); n < putBurst || uint64(n) != holder.Stats()[reasonRate] {
			t.Errorf("%d of %d puts were turned away, %v", n, 3*putBurst, holder.Stats())
		}
		if n, _ := holder.Held(); n != 1 {
			t.Errorf("%d leases are held", n)
		}
	})
}

// A peer that opens streams and then says nothing holds up nobody else.
func TestSlowRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 13)
		w.seeded(3)
		holder, attacker, honest := w.nodes[0], w.nodes[1], w.nodes[2]
		var open []network.Stream
		for range 200 {
			s, err := attacker.host.Open(t.Context(), holder.host.ID(), holder.proto)
			if err != nil {
				break
			}
			_, _ = s.Write([]byte{0, 0, 1}) // most of a length
			open = append(open, s)
		}
		time.Sleep(time.Second)
		w.put(honest, greeter, 1, time.Minute)
		if got, first, _, err := honest.find(greeter); err != nil || len(got) != 1 || first > time.Second {
			t.Errorf("found %d after %v, %v", len(got), first, err)
		}
		time.Sleep(serveTimeout)
		if n := holder.Stats()[reasonRequest]; n == 0 || n > 64 { // the host's limit of streams turned the others away
			t.Errorf("%d slow requests were counted", n)
		}
		inbound := 0
		for _, c := range holder.host.Network().ConnsToPeer(attacker.host.ID()) {
			inbound += c.Stat().NumStreams
		}
		if inbound > 8 {
			t.Errorf("%d streams of the attacker are still open", inbound)
		}
		for _, s := range open {
			_ = s.Reset()
		}
	})
}

// A node that is one of the farthest does not take a lease from others. Where it
// does, anybody fills anybody's store with names of his choice.
func TestFarLeasesAreRefused(t *testing.T) {
	for _, weak := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) { farLease(t, weak) })
	}
}

func farLease(t *testing.T, weak bool) {
	w := newWorld(t, 14)
	w.seeded(40)
	far := w.nodes[0]
	far.conf.weak.anywhere = weak
	var key identity.NameKey
	var cell identity.Cell
	for i := 0; ; i++ { // a name to whose places far is one of the farthest
		cell = cellNo(i)
		key = cell.Key(testNet.ID())
		least := len(w.nodes)
		for _, p := range placesOf(key) {
			closer := 0
			for _, n := range w.nodes[1:] {
				if n.self.to(p).compare(far.self.to(p)) < 0 {
					closer++
				}
			}
			least = min(least, closer)
		}
		if least > 2*Holders+6 {
			break
		}
	}
	l := lease(testKey(60), cell, 1, time.Now(), time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a, err := w.nodes[1].ask(ctx, peer.AddrInfo{ID: far.host.ID()}, request{Op: opPut, Key: key[:], Lease: l.Raw})
	held, _ := far.Held()
	switch {
	case weak && (err != nil || a.Reason != "" || held != 1):
		t.Errorf("without the check: %+v, %v, %d held", a, err, held)
	case !weak && (err != nil || a.Reason != reasonFar || held != 0):
		t.Errorf("%+v, %v, %d held", a, err, held)
	}
	if holders := w.put(far, cell, 1, time.Minute); holders < Holders {
		t.Errorf("%d nodes hold the lease of a far one", holders)
	}
}

func TestConfigRefused(t *testing.T) {
	h, err := host.New(host.Config{Key: testKey(1), Network: testNet, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for name, c := range map[string]Config{
		"another network": {Network: "other"},
		"unknown mode":    {Network: testNet, Mode: "boss"},
		"seed without id": {Network: testNet, Bootstrap: []string{"/ip4/1.2.3.4/udp/9/quic-v1"}},
		"seed no address": {Network: testNet, Bootstrap: []string{"seed.example"}},
	} {
		if k, err := New(h, c); err == nil {
			_ = k.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestMadeUpPeers floods a node with peers that are not there, as a neighbour
// on the LAN can: dials to those that are must go on, and nothing piles up. It
// does where whoever is told of is met.
func TestMadeUpPeers(t *testing.T) {
	for _, weak := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) { madeUpPeers(t, weak) })
	}
}

func madeUpPeers(t *testing.T, weak bool) {
	w := newWorld(t, 12)
	n := w.add(0, Config{still: true})
	if weak {
		n.meetings = make(chan struct{}, 1000)
	}
	honest := w.hostAt(1)
	defer honest.Close()
	for i := range 300 {
		var nowhere []ma.Multiaddr
		for port := range 8 {
			nowhere = append(nowhere, ma.StringCast(fmt.Sprintf("/ip4/10.9.%d.%d/udp/%d/quic-v1", i/250, i%250, port+1)))
		}
		n.AddPeers([]peer.AddrInfo{{ID: testPeer(1000 + i), Addrs: nowhere}})
	}
	time.Sleep(time.Second)
	got, start := len(n.host.Peerstore().PeersWithAddrs()), time.Now()
	err := n.host.Connect(t.Context(), peer.AddrInfo{ID: honest.ID(), Addrs: honest.Addrs()})
	t.Logf("weak %v: %d peers are remembered, a dial took %v, %v", weak, got, time.Since(start), err)
	switch piled := got > 2*maxMeetings; {
	case piled != weak:
		t.Errorf("weak %v: %d peers are remembered", weak, got)
	case !weak && err != nil:
		t.Error(err)
	}
}
