package mesh

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// observer is a Watch whose changes are kept, as "+20 after 3s: why".
type observer struct {
	mu     sync.Mutex
	lines  []string
	err    error
	cancel context.CancelFunc
	done   chan struct{}
}

// observe watches until the test ends.
func observe(t *testing.T, m *Mesh, cell string) *observer {
	ctx, cancel := context.WithCancel(context.Background())
	o := &observer{cancel: cancel, done: make(chan struct{})}
	of := make(map[identity.Key]int)
	for i := range 40 {
		of[key(i).Public()] = i
	}
	began := time.Now()
	go func() {
		defer close(o.done)
		for c, err := range m.Watch(ctx, cellOf(cell)) {
			o.mu.Lock()
			mark := "+"
			if c.Gone {
				mark = "-"
			}
			if o.err = err; err == nil {
				o.lines = append(o.lines, fmt.Sprintf("%s%d after %v: %s, %s", mark, of[c.Node], c.Took, c.Tier, c.Why))
				if c.Took != time.Since(began) {
					t.Errorf("%s: took %v, not %v", o.lines[len(o.lines)-1], c.Took, time.Since(began))
				}
			}
			o.mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-o.done })
	return o
}

// expect checks what came since the last time.
func (o *observer) expect(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	if !slices.Equal(o.lines, want) {
		t.Errorf("saw\n%s\nwant\n%s", strings.Join(o.lines, "\n"), strings.Join(want, "\n"))
	}
	o.lines = nil
}

// TestWatch sees nodes come, change and go in every way that there is, each at once.
func TestWatch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := start(t, 10, Config{LAN: (&ether{}).join()})
		m.Heard(lease(t, 20, "greeter", 1))
		time.Sleep(time.Second)
		o := observe(t, m, "greeter")
		o.expect(t, "+20 after 0s: cache, announced on the LAN 1s ago")
		time.Sleep(time.Second)

		m.Heard(lease(t, 21, "greeter", 1))
		o.expect(t, "+21 after 1s: lan, announced on the LAN just now")
		m.Heard(lease(t, 22, "other", 1))
		m.Heard(lease(t, 21, "greeter", 2)) // a renewal
		o.expect(t)
		m.Heard(lease(t, 21, "greeter", 3, draining))
		o.expect(t, "+21 after 1s: lan, announced on the LAN just now")
		m.Heard(lease(t, 21, "greeter", 4, tombstone))
		o.expect(t, "-21 after 1s: lan, it withdrew")
		m.Heard(lease(t, 20, "greeter", 2, addrs("elsewhere")))
		o.expect(t, "+20 after 1s: lan, announced on the LAN just now")

		m.Lost(key(20).Public(), false)
		o.expect(t, "-20 after 1s: lan, its host fell silent")
		m.Back(key(20).Public())
		o.expect(t, "+20 after 1s: lan, announced on the LAN just now")
		m.Lost(key(20).Public(), false)
		o.expect(t, "-20 after 1s: lan, its host fell silent")
		m.Heard(lease(t, 20, "other", 3)) // of another cell, but a sign of life
		o.expect(t, "+20 after 1s: lan, announced on the LAN just now")
		m.Forget(cellOf("greeter"), key(20).Public())
		o.expect(t, "-20 after 1s: lan, it did not answer")

		m.Heard(lease(t, 23, "greeter", 1))
		o.expect(t, "+23 after 1s: lan, announced on the LAN just now")
		time.Sleep(2*time.Minute - time.Nanosecond)
		o.expect(t)
		time.Sleep(time.Nanosecond)
		o.expect(t, "-23 after 2m1s: lan, its lease lapsed")

		l := m.Announce(cellOf("greeter"), grantAny(t), nil)
		o.expect(t, "+10 after 2m1s: self, this node announces it")
		time.Sleep(5 * time.Minute)
		o.expect(t)
		l.Drain()
		o.expect(t, "+10 after 7m1s: self, this node announces it")
		if err := l.Withdraw(t.Context()); err != nil {
			t.Fatal(err)
		}
		o.expect(t, "-10 after 7m1s: self, this node announces it no more")
	})
}

// TestWatchSeesAReplacedGrant: all that comes is a lease of another cell.
func TestWatchSeesAReplacedGrant(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := start(t, 10, Config{})
		m.Heard(lease(t, 20, "greeter", 1))
		o := observe(t, m, "greeter")
		o.expect(t, "+20 after 0s: cache, announced on the LAN just now")
		time.Sleep(time.Second)
		m.Heard(lease(t, 21, "other", 1, func(o *record.Offer) {
			g, err := record.SignGrant(author, network, "", []record.Subject{{Kind: record.SubjectNode, Key: key(21).Public()}}, time.Now(), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			o.Grant = g.Raw
		}))
		time.Sleep(watchEvery)
		synctest.Wait()
		if len(o.lines) != 1 || !strings.HasSuffix(o.lines[0], "its grant was replaced") {
			t.Errorf("saw %v", o.lines)
		}
	})
}

// TestWatchTheDHT is told of leases and tombstones by the DHT, and searches
// before a lease lapses that is renewed without a word.
func TestWatchTheDHT(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &beacon{sky: sky{delay: 100 * time.Millisecond}}
		m := start(t, 10, Config{WAN: dht})
		o := observe(t, m, "greeter")
		o.expect(t)
		l := lease(t, 20, "greeter", 1)
		dht.tell(l)
		o.expect(t, "+20 after 0s: dht, told by the DHT's watch just now")
		for i := range 60 { // twenty minutes, of which the DHT tells nothing
			dht.Put(t.Context(), lease(t, 20, "greeter", uint64(2+i)))
			time.Sleep(20 * time.Second)
		}
		o.expect(t)
		if _, finds := dht.log(); finds < 19 || finds > 25 {
			t.Errorf("%d searches in twenty minutes, want about one a minute", finds)
		}
		short := func(o *record.Offer) { o.TTL = 30 * time.Second }
		for i := range 60 { // ten more, with a lease that lasts for half a minute
			dht.Put(t.Context(), lease(t, 20, "greeter", uint64(62+i), short))
			time.Sleep(10 * time.Second)
		}
		o.expect(t)
		dht.tell(lease(t, 20, "greeter", 200, tombstone))
		synctest.Wait()
		if len(o.lines) != 1 || !strings.HasSuffix(o.lines[0], ": dht, it withdrew") {
			t.Errorf("saw %v", o.lines)
		}
		if dht.watches != 1 || len(dht.open) != 1 {
			t.Errorf("the DHT was asked to tell %d times, %d open; want one", dht.watches, len(dht.open))
		}
		two := observe(t, m, "greeter")
		synctest.Wait()
		if dht.watches != 1 {
			t.Error("two who watch one cell do not share what the DHT tells")
		}
		two.cancel()
		o.cancel()
		synctest.Wait()
		if len(dht.open) != 0 || len(m.watches) != 0 || m.watching != 0 {
			t.Errorf("%d watches of the DHT, %d cells, %d watchers are left", len(dht.open), len(m.watches), m.watching)
		}
		if o.err != nil {
			t.Errorf("a watch that its caller ended: %v", o.err)
		}
	})
}

// TestWatchWithoutHelp watches over a DHT that tells nothing by itself, or
// cannot just now: it is searched every ten seconds.
func TestWatchWithoutHelp(t *testing.T) {
	for _, c := range []struct {
		name string
		dht  WAN
		of   func(WAN) *sky
	}{
		{"no watching", &sky{}, func(w WAN) *sky { return w.(*sky) }},
		{"nobody to ask", &beacon{broken: true}, func(w WAN) *sky { return &w.(*beacon).sky }},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				told := 0
				m := start(t, 10, Config{WAN: c.dht, Rand: func() float64 { return 0 }, Event: func(Event) { told++ }})
				o := observe(t, m, "greeter")
				o.expect(t)
				time.Sleep(time.Minute)
				if told != 1 {
					t.Errorf("%d events of searches that found nothing, want one of the first", told)
				}
				c.dht.Put(t.Context(), lease(t, 20, "greeter", 1))
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if len(o.lines) != 1 || !strings.Contains(o.lines[0], "lease held by this node") {
					t.Errorf("saw %v", o.lines)
				}
				if _, finds := c.of(c.dht).log(); finds < 7 || finds > 8 {
					t.Errorf("%d searches in 70 s, want 8", finds)
				}
				if b, ok := c.dht.(*beacon); ok && (b.watches < 7 || b.watches > 10) {
					t.Errorf("the DHT was asked to tell %d times in 70 s, want about 8", b.watches)
				}
			})
		})
	}
}

// TestWatchThroughChurn sees many nodes come and go at once, and does not
// search for each that went.
func TestWatchThroughChurn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dht := &sky{}
		m := start(t, 10, Config{WAN: dht})
		o := observe(t, m, "greeter")
		const nodes = 3 * maxPerName
		for i := range nodes {
			m.Heard(lease(t, 100+i, "greeter", 1))
			synctest.Wait()
			m.Heard(lease(t, 100+i, "greeter", 2, tombstone))
			synctest.Wait()
		}
		withdrew := 0
		for _, line := range o.lines {
			if strings.HasPrefix(line, "-") && strings.HasSuffix(line, "it withdrew") {
				withdrew++
			}
		}
		if len(o.lines) != 2*nodes || withdrew != nodes {
			t.Errorf("%d changes, %d withdrawals; %d nodes came and went", len(o.lines), withdrew, nodes)
		}
		time.Sleep(time.Second)
		if _, finds := dht.log(); finds != 1 {
			t.Errorf("%d searches within a second", finds)
		}
		for _, w := range m.watches {
			for each := range w.watchers {
				if len(each.shown)+len(each.known)+len(each.parted) > 0 {
					t.Errorf("of nodes that went %d, %d and %d are remembered", len(each.shown), len(each.known), len(each.parted))
				}
			}
		}
	})
}

// TestSlowWatcher reads nothing while hundreds of things happen, twice.
func TestSlowWatcher(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := start(t, 10, Config{})
		m.Heard(lease(t, 20, "greeter", 1))
		time.Sleep(time.Second)
		m.Heard(lease(t, 21, "greeter", 1))
		next, stop := iter.Pull2(m.Watch(t.Context(), cellOf("greeter")))
		defer stop()
		want := func(node int, gone bool, addrs int) {
			t.Helper()
			if c, err, _ := next(); err != nil || c.Node != key(node).Public() || c.Gone != gone || len(c.Addrs) != addrs {
				t.Errorf("saw %s, gone: %t, %d addresses, %v", c.Node.Short(), c.Gone, len(c.Addrs), err)
			}
		}
		want(20, false, 1)
		for i := range uint64(50) {
			m.Heard(lease(t, 20, "greeter", 2+2*i, tombstone))
			m.Heard(lease(t, 20, "greeter", 3+2*i, addrs("a", "b")))
			m.Heard(lease(t, 21, "greeter", 2+2*i, addrs("a", "b", "c")))
			m.Lost(key(21).Public(), false)
			m.Back(key(21).Public())
		}
		m.Heard(lease(t, 21, "greeter", 2000, tombstone)) // never seen to serve
		want(20, false, 2)
		m.Heard(lease(t, 22, "greeter", 1))
		want(22, false, 1)
		for i := range uint64(50) {
			m.Heard(lease(t, 22, "greeter", 2+2*i, tombstone))
			m.Heard(lease(t, 22, "greeter", 3+2*i))
		}
		m.Lost(key(20).Public(), false)
		want(20, true, 2)
		m.Heard(lease(t, 23, "greeter", 1))
		want(23, false, 1)
	})
}

// TestWatchersAreBounded opens as many as there may be, and stops the mesh.
func TestWatchersAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := New(Config{Network: network, Key: key(10)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		ends := make(chan error)
		for i := range maxWatchers {
			go func() {
				var last error
				for _, err := range m.Watch(context.Background(), cellOf(fmt.Sprint("c-", i%10))) {
					last = err
				}
				ends <- last
			}()
		}
		synctest.Wait()
		for _, err := range m.Watch(t.Context(), cellOf("greeter")) {
			if !errors.Is(err, ErrBusy) {
				t.Errorf("one more: %v", err)
			}
		}
		cancel()
		for range maxWatchers {
			if err := <-ends; !errors.Is(err, ErrStopped) {
				t.Errorf("a watch of a mesh that stopped ends with %v", err)
			}
		}
		<-done
		for _, err := range m.Watch(t.Context(), cellOf("greeter")) {
			if !errors.Is(err, ErrStopped) {
				t.Errorf("after that: %v", err)
			}
		}
	})
}

// TestWatchOverMeshes: announced, drained and withdrawn there, seen here.
func TestWatchOverMeshes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lan, dht := &ether{delay: time.Millisecond}, &beacon{sky: sky{delay: 50 * time.Millisecond}}
		a := start(t, 10, Config{LAN: lan.join(), WAN: dht})
		b := start(t, 11, Config{LAN: lan.join(), WAN: dht})
		c := start(t, 12, Config{WAN: dht}) // far away
		near, far := observe(t, b, "greeter"), observe(t, c, "greeter")
		time.Sleep(5 * time.Second)
		l := a.Announce(cellOf("greeter"), grantAny(t), nil)
		time.Sleep(time.Second)
		near.expect(t, "+10 after 5.001s: lan, announced on the LAN just now")
		puts, _ := dht.log()
		dht.tell(puts[len(puts)-1].lease)
		far.expect(t, "+10 after 6s: dht, told by the DHT's watch just now")
		near.expect(t, "+10 after 6s: lan, announced on the LAN 1s ago") // by another address, too
		if err := l.Withdraw(t.Context()); err != nil {
			t.Fatal(err)
		}
		puts, _ = dht.log()
		dht.tell(puts[len(puts)-1].lease)
		near.expect(t, "-10 after 6.001s: lan, it withdrew")
		far.expect(t, "-10 after 6.05s: dht, it withdrew")
	})
}
