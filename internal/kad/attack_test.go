package kad

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peerstore"
)

// grind looks for n keys closer to p than anybody else's.
func grind(p place, n int, others []*member) (keys []identity.Private) {
	best := placeOf(others[0].host.ID()).to(p)
	for _, m := range others {
		if d := m.self.to(p); d.compare(best) < 0 {
			best = d
		}
	}
	for i := 1_000_000; len(keys) < n; i++ {
		if placeOf(testPeer(i)).to(p).compare(best) < 0 {
			keys = append(keys, testKey(i))
		}
	}
	return keys
}

// besiege surrounds a place with n nodes of one attacker, whom everybody knows
// as servers. Each of them says that it stores what it is given and that it
// holds nothing, or says nothing at all.
func (w *world) besiege(p place, n int, silent bool) {
	for i, key := range grind(p, n, w.nodes) {
		h, err := host.New(host.Config{Key: key, Network: testNet, ListenPacket: w.net.Listen,
			Listen: []string{seedListen(500 + i)}})
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { _ = h.Close() })
		h.SetStreamHandler(w.nodes[0].proto, func(s network.Stream) {
			_ = s.SetDeadline(time.Now().Add(time.Minute))
			_, err := readMessage(s, MaxRequest)
			if silent {
				_, _ = s.Read(make([]byte, 1))
			} else if err == nil {
				_ = writeMessage(s, answer{})
			}
			_ = s.Close()
		})
		for _, m := range w.nodes {
			m.Known(key.Public(), h.LeaseAddrs(false), true, true)
			m.host.Peerstore().AddAddrs(h.ID(), h.Addrs(), peerstore.PermanentAddrTTL)
			_, _ = m.dht.RoutingTable().TryAddPeer(h.ID(), true, false)
		}
	}
}

func seedListen(i int) string {
	return seedAddr(i)[:len(seedAddr(i))-len("/p2p/")-len(testPeer(i).String())]
}

// Who owns the twenty ids closest to one of a name's places hides nothing.
// Where names have one place only, all is his.
func TestOwnerOfAPlace(t *testing.T) {
	if testing.Short() {
		t.Skip("many keys")
	}
	for name, c := range map[string]struct {
		weak, silent bool
		found        int // of 30 searches
	}{
		"one place": {weak: true}, "three places": {found: 30}, "three places, one silent": {silent: true, found: 30},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 31)
				w.seeded(40)
				for _, n := range w.nodes {
					n.conf.weak.onePlace = c.weak
				}
				w.membership(w.nodes...)
				w.besiege(placesOf(greeter.Key(testNet.ID()))[0], 20, c.silent)
				owner := w.nodes[7]
				w.put(owner, greeter, 1, time.Hour)
				found, tried := 0, 0
				var took times
				for range 30 {
					n := w.alive()
					for n == owner || len(n.store.get(greeter.Key(testNet.ID()), time.Now(), nobody)) > 0 && c.weak {
						n = w.alive()
					}
					got, _, all, err := n.find(greeter)
					if err != nil {
						t.Error(err)
					}
					found, tried, took = found+len(got), tried+1, append(took, all)
				}
				t.Logf("found in %d of %d searches, %v", found, tried, took)
				if found != c.found {
					t.Errorf("found in %d of %d searches, want %d", found, tried, c.found)
				}
			})
		})
	}
}

// Whoever fills a name with keys of his own, all behind one address, keeps
// nobody else out. Where who comes first stays, he does.
func TestFlooderOfAName(t *testing.T) {
	for _, firstCome := range []bool{true, false} {
		s, key := newStore(false), greeter.Key(testNet.ID())
		s.firstCome = firstCome
		for i := range 2 * MaxPerKey {
			put(s, key, lease(testKey(1000+i), greeter, 1, epoch, time.Hour), "flooder", epoch)
		}
		kept := 0
		for i := range 20 {
			if put(s, key, lease(testKey(i), greeter, 1, epoch, time.Minute), fmt.Sprint("honest", i), epoch) == "" {
				kept++
			}
		}
		for i := range 2 * MaxPerKey { // he comes again
			put(s, key, lease(testKey(1000+i), greeter, 2, epoch, time.Hour), "flooder", epoch)
		}
		held := 0
		for i := range 20 {
			if h := s.shelves[key][testKey(i).Public()]; h != nil {
				held++
			}
		}
		if want := map[bool]int{true: 0, false: 20}[firstCome]; held != want || kept != want {
			t.Errorf("first come %v: %d of 20 were taken and %d are held, want %d", firstCome, kept, held, want)
		}
		if n := len(s.shelves[key]); n > MaxPerKey {
			t.Errorf("%d leases under one name", n)
		}
	}
	s, key := newStore(true), greeter.Key(testNet.ID())
	for i := range MaxPerKey {
		_, _ = s.put(key, lease(testKey(i), greeter, 1, epoch, time.Hour), origin{source: fmt.Sprint(i), group: "1.2.3.0/24"}, epoch)
	}
	if n := len(s.shelves[key]); n != MaxPerGroup {
		t.Errorf("%d leases of one name from one block of addresses", n)
	}
	if put(s, key, lease(testKey(99), greeter, 1, epoch, time.Hour), "elsewhere", epoch) != "" {
		t.Error("another block is refused")
	}
}

// A holder that restarts still refuses what was withdrawn before.
func TestReplayAfterRestart(t *testing.T) {
	for _, remembers := range []bool{false, true} {
		file := filepath.Join(t.TempDir(), "floor")
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 32)
			c := Config{still: true}
			if remembers {
				c.FloorFile = file
			}
			old := lease(testKey(50), greeter, 1, time.Now(), time.Hour)
			key := greeter.Key(testNet.ID())
			put := func(holder *member, l record.Lease) string {
				return holder.hold(key, l.Raw, origin{source: "x", group: "x"}, time.Now())
			}
			n := w.add(0, c)
			if put(n, old) != "" || put(n, lease(testKey(50), greeter, 2, time.Now(), 0)) != "" {
				t.Fatal("not stored")
			}
			n.stop()
			n = w.add(0, c)
			if got, want := put(n, old), map[bool]string{true: "order", false: ""}[remembers]; got != want {
				t.Errorf("remembers %v: a withdrawn lease was answered %q, want %q", remembers, got, want)
			}
		})
	}
}

// Leases of a node that membership calls dead are neither handed out nor found,
// until it is back, puts one itself, or signs a newer one.
func TestDeadNodesAreHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 33)
		w.seeded(20)
		w.membership(w.nodes...)
		owner, finder := w.nodes[3], w.nodes[9]
		finds := func(what string, want int) {
			t.Helper()
			if got, _, _, err := finder.find(greeter); len(got) != want || err != nil {
				t.Errorf("%s: found %d, want %d, %v", what, len(got), want, err)
			}
		}
		dead := func(is bool, nodes ...*member) {
			for _, n := range nodes {
				n.Known(owner.key.Public(), owner.host.LeaseAddrs(false), true, !is)
			}
		}
		w.put(owner, greeter, 1, time.Hour)
		time.Sleep(time.Second)
		finds("at first", 1)
		dead(true, finder)
		finds("the finder knows of the death", 0)
		dead(false, finder)
		finds("it is back", 1)
		var others []*member
		for _, n := range w.nodes {
			if n != owner && n != finder {
				others = append(others, n)
			}
		}
		dead(true, others...)
		finder.store.drop(greeter.Key(testNet.ID()))
		finds("holders know of the death", 0)
		w.put(owner, greeter, 2, time.Hour)
		time.Sleep(time.Second)
		finds("it has put a lease itself", 1)
		dead(true, finder)
		finds("an old lease of a dead node", 0)
		w.put(owner, greeter, 3, time.Hour)
		time.Sleep(time.Second)
		finds("a newer lease", 1)
	})
}

// drop forgets a name.
func (s *store) drop(key identity.NameKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.shelves[key] {
		s.dropLocked(key, h)
	}
}

// While a third of the nodes lose their power, half of them cannot be heard by
// the others, and clocks are minutes apart, what is announced is found.
func TestFindThroughDeaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 34)
		w.seeded(40)
		w.membership(w.nodes...)
		now := time.Now()
		for i := range 10 {
			owner := w.nodes[i]
			// The owner's clock is off by up to five minutes either way.
			l := lease(owner.key, cellNo(i), 1, now.Add(time.Duration(i-5)*time.Minute), time.Hour)
			if _, err := owner.Put(t.Context(), l); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		done := make(chan string, 10)
		for i := range 10 {
			finder := w.nodes[10+i]
			go func() {
				got, _, full, err := finder.find(cellNo(i))
				done <- map[bool]string{false: fmt.Sprintf("cell %d: found %d after %v, %v", i, len(got), full, err)}[len(got) == 1 && err == nil && full < 3*time.Second]
			}()
		}
		time.Sleep(30 * time.Millisecond) // the questions are on their way
		for _, n := range w.nodes[20:32] {
			w.net.Kill(n.addr)
		}
		for range 10 {
			if s := <-done; s != "" {
				t.Error(s)
			}
		}
		// A clock that is off by more is not believed.
		if r := w.nodes[0].hold(cellNo(50).Key(testNet.ID()), lease(testKey(60), cellNo(50), 1, now.Add(7*time.Minute), time.Hour).Raw, ownOrigin, now); r != "clock" {
			t.Errorf("a lease of seven minutes ahead: %q", r)
		}
	})
}

// An answer of a hundred thousand records costs no more than the allowed ones.
func TestManyRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 35)
		w.seeded(2)
		w.put(w.nodes[1], greeter, 1, time.Minute)
		forged := lease(testKey(1), greeter, 1, epoch, time.Minute).Raw[:200]
		huge := mustEncode(answer{Leases: slices.Repeat([][]byte{forged}, 100_000)})
		w.liar(w.nodes[0], 20, func(s network.Stream) {
			_, _ = readMessage(s, MaxRequest)
			_ = s.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = s.Write([]byte{byte(len(huge) >> 24), byte(len(huge) >> 16), byte(len(huge) >> 8), byte(len(huge))})
			_, _ = s.Write(huge)
			_ = s.Close()
		})
		got, _, full, err := w.nodes[0].find(greeter)
		if len(got) != 1 || err != nil || full > time.Second || w.nodes[0].Stats()[reasonAnswer] != 1 {
			t.Errorf("found %d after %v, %v, %v", len(got), full, err, w.nodes[0].Stats())
		}
		time.Sleep(15 * time.Second)
	})
}

// Half of the network's packets to some nodes are lost, those from them arrive.
func TestAsymmetricLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 36)
		w.seeded(30)
		w.membership(w.nodes...)
		w.deaf(w.nodes[5:15], 0.5)
		found := 0
		var took times
		for i := range 12 {
			w.put(w.nodes[20+i%10], cellNo(i), 1, time.Hour)
			got, _, full, _ := w.nodes[(5+i)%30].find(cellNo(i))
			found += len(got)
			took = append(took, full)
		}
		t.Logf("found %d of 12, %v", found, took)
		if found != 12 {
			t.Errorf("found %d of 12", found)
		}
	})
}

// A node that comes back at another address is found there.
func TestAnnouncerMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 37)
		w.seeded(20)
		w.membership(w.nodes...)
		owner := w.nodes[4]
		w.put(owner, greeter, 1, time.Hour)
		o := record.Offer{Cell: greeter, State: record.StateAlive, Grant: grantTo(identity.Key{}, epoch), TTL: time.Hour,
			Addrs: [][]byte{addr("/ip4/9.9.9.9/udp/9/quic-v1")}, Order: record.Order{Incarnation: 2}, Issued: time.Now()}
		moved, err := record.SignLease(owner.key, testNet.ID(), o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := owner.Put(t.Context(), moved); err != nil {
			t.Fatal(err)
		}
		got, _, _, err := w.nodes[11].find(greeter)
		if l := got[owner.key.Public()]; err != nil || len(l.Addrs) != 1 || !slices.Equal(l.Addrs[0], o.Addrs[0]) {
			t.Errorf("found %v, %v", l.Addrs, err)
		}
	})
}
