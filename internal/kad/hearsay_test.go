package kad

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// A directory that has known 4096 nodes in its life takes no more.
func TestAttackDirectoryForEver(t *testing.T) {
	d := newDirectory()
	for i := range maxMembers {
		d.know(known(i), [][]byte{{1}}, true, true, epoch)
		d.know(known(i), [][]byte{{1}}, true, false, epoch)
	}
	d.know(known(maxMembers+1), [][]byte{{1}}, true, true, epoch.Add(48*time.Hour))
	if d.size() != 1 {
		t.Errorf("%d can be asked, %d are remembered", d.size(), len(d.all))
	}
}

// Nodes that are not there, but were told of, do not make honest holders refuse
// leases. Where they count as peers they do.
func TestAttackFarByHearsay(t *testing.T) {
	for _, weak := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) { farByHearsay(t, weak) })
	}
}

func farByHearsay(t *testing.T, weak bool) {
	w := newWorld(t, 14)
	w.seeded(30)
	for _, n := range w.nodes {
		n.conf.weak.gullible = weak
	}
	w.membership(w.nodes...)
	key := greeter.Key(testNet.ID())
	for _, p := range placesOf(key) {
		for _, k := range grind(p, 2*Holders, w.nodes) {
			for _, n := range w.nodes {
				n.Known(k.Public(), [][]byte{addr("/ip4/10.9.9.9/udp/4001/quic-v1")}, true, true) // nobody is there
			}
		}
	}
	l := lease(testKey(60), greeter, 1, time.Now(), time.Minute)
	refused := 0
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, n := range w.nodes[1:] {
		a, err := w.nodes[0].ask(ctx, peer.AddrInfo{ID: n.host.ID()}, request{Op: opPut, Key: key[:], Lease: l.Raw})
		if err == nil && a.Reason == reasonFar {
			refused++
		}
	}
	if refused > 20 != weak {
		t.Errorf("weak %v: %d of %d refuse the lease as far", weak, refused, len(w.nodes)-1)
	}
	if weak {
		return
	}
	n, err := w.nodes[3].Put(ctx, lease(w.nodes[3].key, greeter, 1, time.Now(), time.Minute))
	t.Logf("put: %d holders, %v", n, err)
	got, first, full, err := w.nodes[5].find(greeter)
	t.Logf("find: %d, first %v full %v, %v", len(got), first, full, err)
}
