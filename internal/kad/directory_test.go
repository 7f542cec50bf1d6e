package kad

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"github.com/libp2p/go-libp2p-kbucket/peerdiversity"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

func known(i int) identity.Key { return testKey(i).Public() }

func TestDirectoryKnowsTheClosest(t *testing.T) {
	const seed = 1
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	d := newDirectory()
	var ids []peer.ID
	for i := range 300 {
		alive, server := rng.IntN(4) > 0, rng.IntN(4) > 0
		d.know(known(i), nil, true, true, epoch)
		d.know(known(i), nil, server, alive, epoch)
		if alive && server {
			ids = append(ids, testPeer(i))
		}
	}
	if d.size() != len(ids) {
		t.Errorf("%d can be asked, want %d", d.size(), len(ids))
	}
	for range 200 {
		var p place
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
		n := 1 + rng.IntN(30)
		var got []peer.ID
		for _, c := range d.closest(p, n) {
			id, err := host.PeerID(c.key)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, id)
		}
		if !slices.Equal(got, closest(p, ids, n)) {
			t.Fatalf("the %d closest to %x are wrong", n, p[:4])
		}
	}
}

func TestDirectoryIsBounded(t *testing.T) {
	d := newDirectory()
	for i := range maxMet + 500 {
		d.answered(testPeer(i), nil, time.Millisecond, epoch.Add(time.Duration(i)*time.Second))
	}
	if len(d.all) != maxMet || d.size() != maxMet {
		t.Errorf("%d strangers are remembered, %d can be asked", len(d.all), d.size())
	}
	for i := range maxMembers + 500 {
		d.know(known(10_000+i), nil, true, true, epoch)
	}
	if n := len(d.all); n != maxMet+maxMembers {
		t.Errorf("%d are remembered", n)
	}
	for i := range 10 { // membership forgot some of them, or they keep no leases any more
		d.know(known(10_000+i), nil, false, true, epoch)
		before := d.size()
		if d.know(known(50_000+i), nil, true, true, epoch); d.size() != before+1 {
			t.Errorf("newcomer %d found no room", i)
		}
	}
	if n := len(d.all); n != maxMet+maxMembers {
		t.Errorf("%d are remembered after newcomers came", n)
	}
	d.silent(testPeer(100_000), epoch)
	if _, met := d.about(testPeer(100_000)); met {
		t.Error("a stranger that did not answer is remembered")
	}
}

// Who does not answer is asked last, longer each time, until it answers or
// membership says that it is elsewhere.
func TestDirectoryRemembersSilence(t *testing.T) {
	d, now := newDirectory(), epoch
	d.know(known(1), nil, true, true, now)
	suspect := func(want bool) {
		t.Helper()
		if c, _ := d.about(testPeer(1)); c.suspect(now) != want {
			t.Errorf("%v after the start: suspect %v", now.Sub(epoch), !want)
		}
	}
	suspect(false)
	d.silent(testPeer(1), now)
	suspect(true)
	now = now.Add(missFirst)
	suspect(false)
	d.silent(testPeer(1), now)
	now = now.Add(missFirst)
	suspect(true)
	now = now.Add(missFirst)
	suspect(false)
	for range 100 {
		d.silent(testPeer(1), now)
	}
	now = now.Add(missMost - 1)
	suspect(true)
	d.answered(testPeer(1), nil, 80*time.Millisecond, now)
	suspect(false)
	d.silent(testPeer(1), now)
	d.know(known(1), [][]byte{addr("/ip4/1.2.3.4/udp/9/quic-v1")}, true, true, now)
	suspect(false)
	if c, _ := d.about(testPeer(1)); c.rtt != 80*time.Millisecond {
		t.Errorf("round trip %v", c.rtt)
	}
	for range 20 {
		d.answered(testPeer(1), nil, 40*time.Millisecond, now)
	}
	if c, _ := d.about(testPeer(1)); c.rtt > 42*time.Millisecond || d.usual() != 40*time.Millisecond {
		t.Errorf("round trip %v, usual %v", c.rtt, d.usual())
	}
}

func TestDiversity(t *testing.T) {
	at := make(map[peer.ID][]ma.Multiaddr)
	d := newDiversity(nil)
	d.addrs = func(p peer.ID) []ma.Multiaddr { return at[p] }
	try := func(i, cpl int, addrs ...string) bool {
		info := peerdiversity.PeerGroupInfo{Id: testPeer(i), Cpl: cpl}
		for _, a := range addrs {
			at[info.Id] = append(at[info.Id], ma.StringCast(a))
		}
		if !d.Allow(info) {
			return false
		}
		for range addrs { // as the filter does: for each address
			d.Increment(info)
		}
		return true
	}
	took := 0
	for i := range 20 {
		if try(i, i/4, "/ip4/1.2.3.4/udp/9/quic-v1", "/ip4/1.2.3.5/udp/9/quic-v1") {
			took++
		}
	}
	if took != maxGroupTable {
		t.Errorf("%d of one /24 are in the table", took)
	}
	if !try(30, 0, "/ip4/1.2.4.4/udp/9/quic-v1") || !try(31, 0, "/ip6/2a00:1:2::1/udp/9/quic-v1") || !try(32, 0, "/ip6/2a00:1:3::1/udp/9/quic-v1") {
		t.Error("other blocks are refused")
	}
	for i := range 50 {
		if !try(100+i, 0, "/ip4/10.0.0.1/udp/9/quic-v1") {
			t.Fatal("a private address is refused")
		}
	}
	gone := peerdiversity.PeerGroupInfo{Id: testPeer(0)}
	delete(at, gone.Id)
	d.Decrement(gone)
	d.Decrement(gone)
	if !try(40, 4, "/ip4/1.2.3.9/udp/9/quic-v1") {
		t.Error("no room after one has left")
	}
}
