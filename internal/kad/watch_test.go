package kad

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
)

// hearer is a program that watches a cell.
type hearer struct {
	mu   sync.Mutex // guards what follows
	seen []record.Lease
	err  error
}

func (n *member) watch(ctx context.Context, cell identity.Cell) *hearer {
	h := new(hearer)
	go func() {
		for l, err := range n.Watch(ctx, cell) {
			h.mu.Lock()
			if h.err = err; err == nil {
				h.seen = append(h.seen, l)
			}
			h.mu.Unlock()
		}
	}()
	return h
}

func (h *hearer) last() (l record.Lease, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.seen) > 0 {
		l = h.seen[len(h.seen)-1]
	}
	return l, len(h.seen)
}

// A watcher hears what is there, what comes, and what goes, each once, though
// the holders that it listens to die one after the other.
func TestWatchSurvivesItsHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 41)
		w.seeded(40)
		w.membership(w.nodes...)
		owner, reader := w.nodes[0], w.nodes[1]
		w.put(owner, greeter, 1, time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		h := reader.watch(ctx, greeter)
		time.Sleep(3 * time.Second)
		if l, n := h.last(); n != 1 || l.Order.Sequence != 1 {
			t.Errorf("heard %d leases, the last of order %v", n, l.Order)
		}
		for seq := uint64(2); seq < 5; seq++ {
			for _, n := range w.nodes[2:] { // whoever is listened to dies
				if !n.dead && len(n.watched.names[greeter.Key(testNet.ID())]) > 0 {
					w.kill(n)
				}
			}
			time.Sleep(time.Minute)
			start := time.Now()
			w.put(owner, greeter, seq, time.Hour)
			time.Sleep(2 * time.Second)
			if l, n := h.last(); l.Order.Sequence != seq || n != int(seq) {
				t.Errorf("after the death of its holders it heard %d leases, the last of order %v, %v", n, l.Order, time.Since(start))
			}
		}
		w.put(owner, greeter, 9, 0)
		time.Sleep(time.Second)
		if l, _ := h.last(); !l.Tombstone() {
			t.Error("the withdrawal was not heard")
		}
		cancel()
		synctest.Wait()
		time.Sleep(time.Second)
		if !errors.Is(h.err, context.Canceled) {
			t.Errorf("ended with %v", h.err)
		}
		for i, n := range w.nodes {
			if n.watched.all != 0 && !n.dead {
				t.Errorf("node %d still has a watcher", i)
			}
		}
	})
}

// Two of three holders that stay silent, or never answer, withhold nothing.
func TestWatchAmongSilentHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 42)
		w.seeded(30)
		w.membership(w.nodes...)
		owner, reader := w.nodes[0], w.nodes[1]
		for r, p := range reader.placesOf(greeter.Key(testNet.ID()))[:2] {
			var ids []peer.ID
			for _, n := range w.nodes[2:] {
				ids = append(ids, n.host.ID())
			}
			for _, n := range w.nodes[2:] {
				if !slices.Contains(closest(p, ids, Holders), n.host.ID()) {
					continue
				}
				n.host.SetStreamHandler(n.watchProto, func(s network.Stream) {
					if r == 0 {
						_ = writeMessage(s, answer{}) // there is nothing, it says, for ever
					}
					_, _ = io.Copy(io.Discard, s)
					_ = s.Reset()
				})
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		h := reader.watch(ctx, greeter)
		time.Sleep(5 * time.Second)
		start := time.Now()
		w.put(owner, greeter, 1, time.Hour)
		time.Sleep(time.Second)
		if l, n := h.last(); n != 1 || l.Node() != owner.key.Public() {
			t.Errorf("heard %d leases after %v", n, time.Since(start))
		}
		cancel()
		synctest.Wait()
		time.Sleep(2 * watchSilence)
	})
}

func TestWatchersAreBounded(t *testing.T) {
	w := newWatched()
	key := greeter.Key(testNet.ID())
	var mine []*watcher
	for range 2 * maxWatchersPeer {
		if one := w.enter(key, testPeer(1)); one != nil {
			mine = append(mine, one)
		}
	}
	if len(mine) != maxWatchersPeer {
		t.Errorf("one peer has %d watchers", len(mine))
	}
	all := len(mine)
	for i := range 4 * maxWatchersName {
		if w.enter(key, testPeer(2+i)) != nil {
			all++
		}
	}
	if all != maxWatchersName {
		t.Errorf("one name has %d watchers", all)
	}
	for i := range 4 * maxWatchers {
		if w.enter(identity.NameKey{byte(i), byte(i >> 8)}, testPeer(5000+i%100)) != nil {
			all++
		}
	}
	if all != maxWatchers {
		t.Errorf("there are %d watchers", all)
	}
	for _, one := range mine {
		w.leave(key, testPeer(1), one)
	}
	for i := range 1000 { // nobody reads: the newest of each node, of so many nodes
		w.tell(key, record.Lease{Header: record.Header{Signer: identity.Key{byte(i), byte(i >> 8)}}})
	}
	for one := range w.names[key] {
		if len(one.pending) != maxPending {
			t.Fatalf("%d leases wait for a reader", len(one.pending))
		}
	}
}

// A watcher that stops reading costs its holder a stream for a while, and
// nothing more.
func TestWatcherThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 43)
		w.seeded(2)
		holder, reader := w.nodes[0], w.nodes[1]
		reader.host.Peerstore().AddAddrs(holder.host.ID(), holder.host.Addrs(), peerstore.PermanentAddrTTL)
		key := greeter.Key(testNet.ID())
		s, err := reader.host.Open(t.Context(), holder.host.ID(), holder.watchProto)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeMessage(s, request{Op: opWatch, Key: key[:]}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if holder.watched.all != 1 {
			t.Fatalf("%d watchers", holder.watched.all)
		}
		time.Sleep(watchLife + time.Minute)
		if holder.watched.all != 0 {
			t.Errorf("%d watchers after their time", holder.watched.all)
		}
		_ = s.Reset()
		time.Sleep(time.Second)
	})
}
