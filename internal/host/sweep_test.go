package host

import (
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/sim"
	"github.com/libp2p/go-libp2p/core/network"
)

func circuitsTo(h, to *Host) (out []network.Conn) {
	for _, c := range h.Network().ConnsToPeer(to.ID()) {
		if c.Stat().Limited {
			out = append(out, c)
		}
	}
	return out
}

// A host that knows nothing of address translators goes on directly with one
// that is behind one, whatever kind that is, and leaves the relay alone then.
func TestPlainHostGoesDirect(t *testing.T) {
	for name, box := range map[string]*sim.NATConfig{"keeps": keeps, "filters": filters, "symmetric": symmetric} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlanet(t, 2, Config{Network: private})
				b := p.sheltered(p.box(*box), Config{Network: private})
				a := p.plain(nil, Config{Network: private})
				p.join(a, p.public[0])
				if err := a.Dial(t.Context(), b.Key(), relayedAddrs(b)); err != nil {
					t.Fatal(err)
				}
				if len(circuitsTo(a, b)) == 0 {
					t.Fatal("no relay was needed, so this proves nothing")
				}
				took := p.within(5*time.Second, "a direct connection", func() bool { return direct(a, b.Key()) })
				t.Logf("direct after %v; %+v", took, a.Reach().Punches)
				p.within(3*sweepEvery, "nothing is left at the relay", func() bool { return len(circuitsTo(a, b)) == 0 && len(circuitsTo(b, a)) == 0 })
				if r := a.Reach(); len(r.Seen) == 0 || len(r.Foreign) > 0 || r.Punches.OK != 1 || r.Public != Unknown {
					t.Errorf("the host without a box: %+v", r)
				}
			})
		})
	}
}

// A relayed connection that a direct one replaces is closed soon after the last
// stream on it has ended, and not before.
func TestSupersededCircuitIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanet(t, 2, Config{})
		a, b := p.sheltered(p.box(*filters), Config{}), p.sheltered(p.box(*filters), Config{})
		if err := a.Dial(t.Context(), b.Key(), relayedAddrs(b)); err != nil {
			t.Fatal(err)
		}
		s, err := a.Open(t.Context(), b.ID(), Protocol(a.NetworkName(), echoName))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte("x")); err != nil || !s.Conn().Stat().Limited {
			t.Fatalf("not on a relay: %v", err)
		}
		p.within(10*time.Second, "a direct connection", func() bool { return direct(a, b.Key()) })
		time.Sleep(time.Minute)
		if _, err := s.Write([]byte("x")); err != nil || len(circuitsTo(a, b)) != 1 {
			t.Fatalf("a stream was cut: %v, %d circuits", err, len(circuitsTo(a, b)))
		}
		_ = s.Reset()
		took := p.within(2*sweepEvery+time.Second, "the circuit is closed at both ends", func() bool {
			return len(circuitsTo(a, b))+len(circuitsTo(b, a)) == 0
		})
		t.Logf("closed %v after its last stream", took)
		if !direct(a, b.Key()) || !direct(b, a.Key()) {
			t.Error("the direct connection went with it")
		}
	})
}

// A relayed connection that nothing replaces stays, however idle.
func TestNeededCircuitStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanet(t, 2, Config{})
		a, b := p.sheltered(p.box(*symmetric), Config{}), p.sheltered(p.box(*symmetric), Config{})
		if err := a.Dial(t.Context(), b.Key(), relayedAddrs(b)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(RelayTime / 2)
		if direct(a, b.Key()) || len(circuitsTo(a, b)) != 1 {
			t.Errorf("%d circuits", len(circuitsTo(a, b)))
		}
	})
}

// A host behind a translator that was told nothing of it sees that it is.
func TestForeignAddressIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanet(t, 2, Config{Network: private})
		box := p.box(*filters)
		h := p.plain(box, Config{Network: private})
		for _, o := range p.public {
			p.join(h, o)
		}
		p.within(5*time.Second, "peers tell where they see it", func() bool { return len(h.Reach().Foreign) == 1 })
		if r := h.Reach(); r.Foreign[0].Addr[0].Value() != box.Public().String() || r.Translated != translatedAll {
			t.Errorf("%+v", r)
		}
	})
}
