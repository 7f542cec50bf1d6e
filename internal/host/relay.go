package host

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	circuitpb "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/pb"
	circuitv2 "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	ma "github.com/multiformats/go-multiaddr"
)

// What a node gives that relays for others. A circuit is for meeting: two nodes
// talk over it until they reach each other directly, or when they never do, so
// that one may open it again at once. All circuits together pass at most
// relayPace × 2 × RelayBytes a second, 2 MiB, however often they are opened.
const (
	RelayTime  = 10 * time.Minute // of one circuit
	RelayBytes = 512 << 10        // in each direction of one circuit

	relayPlaces      = 128       // nodes that have a place
	relayPlacesPerIP = 16        // of them from one address: an office
	relayPlaceLife   = time.Hour // unless it is renewed
	relayCircuits    = 256       // open at once
	relayPerNode     = 16        // of them from or to one node
	relayBurst       = 256       // circuits opened at once after a quiet time
	relayPace        = 2         // circuits opened a second after that
	relayBuffer      = 4 << 10   // bytes for each direction of a circuit

	relayIdentify = 3 * time.Second // for a node that asks for a place to say what it speaks
)

// volunteer relays for others while it is told to.
type volunteer struct {
	host *Host

	mu       sync.Mutex // guards what follows
	service  *circuitv2.Relay
	places   map[peer.ID]time.Time // who has one, and until when
	circuits int
	passed   int64 // bytes
	left     float64
	at       time.Time // when left was right
}

func newVolunteer(h *Host) *volunteer {
	return &volunteer{host: h, places: make(map[peer.ID]time.Time), left: relayBurst, at: time.Now()}
}

// set begins or ends the service and reports whether that changed anything.
func (v *volunteer) set(on bool) (changed bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case on == (v.service != nil):
		return false, nil
	case !on:
		err = v.service.Close()
		v.service = nil
		for id := range v.places {
			v.host.ConnManager().Unprotect(id, relayGuestTag)
		}
		clear(v.places)
		return true, err
	}
	v.service, err = circuitv2.New(v.host.Host,
		circuitv2.WithACL(v), circuitv2.WithMetricsTracer(v),
		circuitv2.WithReservationAddressFilter(func(a ma.Multiaddr) bool { return isQUIC(a) && Dialable(v.host.network, a) }),
		circuitv2.WithResources(circuitv2.Resources{
			Limit:          &circuitv2.RelayLimit{Duration: RelayTime, Data: RelayBytes},
			ReservationTTL: relayPlaceLife, MaxReservations: relayPlaces,
			MaxReservationsPerIP: relayPlacesPerIP, MaxReservationsPerASN: relayPlaces,
			MaxCircuits: relayPerNode, BufferSize: relayBuffer,
		}))
	return err == nil, err
}

// relayGuestTag keeps the connection manager from closing connections of nodes
// that have a place.
const relayGuestTag = "relay guest"

// AllowReserve implements libp2p's filter: places are for nodes of this network,
// as far as they say so, and who has one keeps its connection.
func (v *volunteer) AllowReserve(id peer.ID, _ ma.Multiaddr) bool {
	if !v.host.speaks(id) {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(v.places, func(id peer.ID, until time.Time) bool {
		if until.Before(now) {
			v.host.ConnManager().Unprotect(id, relayGuestTag)
		}
		return until.Before(now)
	})
	if _, has := v.places[id]; !has && len(v.places) >= relayPlaces {
		return false
	}
	v.places[id] = now.Add(relayPlaceLife)
	v.host.ConnManager().Protect(id, relayGuestTag)
	return true
}

// speaks reports whether a peer that is connected says in identify that it has a
// protocol of this host's network.
func (h *Host) speaks(id peer.ID) bool {
	patience := time.After(relayIdentify)
	for _, c := range h.Network().ConnsToPeer(id) {
		select {
		case <-h.nat.basic.IDService().IdentifyWait(c):
		case <-patience:
		}
	}
	all, _ := h.Peerstore().GetProtocols(id)
	return slices.ContainsFunc(all, func(p protocol.ID) bool { return strings.HasPrefix(string(p), string(Prefix(h.network))+"/") })
}

// AllowConnect implements libp2p's filter: circuits are opened at a bounded pace.
func (v *volunteer) AllowConnect(peer.ID, ma.Multiaddr, peer.ID) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	v.left = min(relayBurst, v.left+relayPace*now.Sub(v.at).Seconds())
	v.at = now
	if v.left < 1 || v.circuits >= relayCircuits {
		return false
	}
	v.left--
	return true
}

// gone notes that a node is connected no more.
func (v *volunteer) gone(id peer.ID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, has := v.places[id]; has && v.host.Network().Connectedness(id) != network.Connected {
		delete(v.places, id)
		v.host.ConnManager().Unprotect(id, relayGuestTag)
	}
}

// Serving is what a node does as a relay.
type Serving struct {
	On       bool
	Guests   int   // nodes that have a place
	Circuits int   // open now
	Bytes    int64 // passed on since the start
}

func (v *volunteer) state() Serving {
	v.mu.Lock()
	defer v.mu.Unlock()
	return Serving{On: v.service != nil, Guests: len(v.places), Circuits: v.circuits, Bytes: v.passed}
}

func (v *volunteer) count(circuits int, bytes int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.circuits += circuits
	v.passed += bytes
}

// ConnectionOpened and what follows implement libp2p's metrics of a relay.
func (v *volunteer) ConnectionOpened() { v.count(1, 0) }

// ConnectionClosed implements libp2p's metrics of a relay.
func (v *volunteer) ConnectionClosed(time.Duration) { v.count(-1, 0) }

// BytesTransferred implements libp2p's metrics of a relay.
func (v *volunteer) BytesTransferred(n int) { v.count(0, int64(n)) }

// RelayStatus implements libp2p's metrics of a relay and counts nothing.
func (*volunteer) RelayStatus(bool) {}

// ConnectionRequestHandled implements libp2p's metrics of a relay and counts nothing.
func (*volunteer) ConnectionRequestHandled(circuitpb.Status) {}

// ReservationAllowed implements libp2p's metrics of a relay and counts nothing.
func (*volunteer) ReservationAllowed(bool) {}

// ReservationClosed implements libp2p's metrics of a relay and counts nothing.
func (*volunteer) ReservationClosed(int) {}

// ReservationRequestHandled implements libp2p's metrics of a relay and counts nothing.
func (*volunteer) ReservationRequestHandled(circuitpb.Status) {}

// Close ends the service.
func (v *volunteer) Close() error {
	_, err := v.set(false)
	return err
}
