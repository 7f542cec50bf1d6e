package host

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"cell.network/cell/internal/identity"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	circuitv2 "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	circuitproto "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// How a node that others do not reach keeps a place at relays.
const (
	wantedPlaces   = 2               // one may vanish
	maxCandidates  = 8               // asked for at a time
	placeDial      = 2 * time.Second // to connect to a candidate
	placeReserve   = 5 * time.Second // for its answer
	placeRetry     = 5 * time.Second // between two searches while places lack, growing to placeRetryMax
	placeRetryMax  = time.Minute
	placeBan       = time.Minute      // a relay that refused is not asked again
	placeCheck     = 30 * time.Second // between two looks at whether places are needed
	relayPlaceTag  = "relay place"
	maxRelayedWays = 2 // addresses of one relay
)

// places keeps this node reachable over relays while it is not by itself.
type places struct {
	host    *Host
	source  func(ctx context.Context, n int) []peer.AddrInfo
	emitter event.Emitter
	wake    chan struct{} // one token

	mu     sync.Mutex // guards what follows
	needed bool
	held   map[peer.ID]*place
	banned map[peer.ID]time.Time // until when
}

// place is a reservation at a relay.
type place struct {
	until time.Time // of the relay's promise
	addrs []ma.Multiaddr
}

func newPlaces(h *Host, source func(context.Context, int) []peer.AddrInfo) (*places, error) {
	emitter, err := h.EventBus().Emitter(new(event.EvtAutoRelayAddrsUpdated), eventbus.Stateful)
	if err != nil {
		return nil, err
	}
	return &places{
		host: h, source: source, emitter: emitter, wake: make(chan struct{}, 1),
		held: make(map[peer.ID]*place), banned: make(map[peer.ID]time.Time),
	}, nil
}

// need says whether there should be places.
func (p *places) need(needed bool) {
	p.mu.Lock()
	news := needed != p.needed || needed && len(p.held) < wantedPlaces
	p.needed = needed
	p.mu.Unlock()
	if news {
		p.look()
	}
}

func (p *places) wanted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.needed
}

// look makes run look again at once.
func (p *places) look() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run keeps places until ctx ends.
func (p *places) run(ctx context.Context) {
	retry := placeRetry
	for {
		wait := placeCheck
		if p.wanted() {
			p.renew(ctx)
			if p.find(ctx); p.count() < wantedPlaces {
				wait = retry
				retry = min(2*retry, placeRetryMax)
			} else {
				retry = placeRetry
			}
		} else {
			p.giveUp()
		}
		t := time.NewTimer(wait)
		select {
		case <-p.wake:
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			_ = p.emitter.Close()
			return
		}
		t.Stop()
	}
}

func (p *places) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.held)
}

// addrs returns where this node is reached over relays.
func (p *places) addrs() []ma.Multiaddr {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []ma.Multiaddr
	for _, id := range slices.Sorted(maps.Keys(p.held)) { // in one order, so that nothing seems to change
		out = append(out, p.held[id].addrs...)
	}
	return out
}

// relays returns the relays that have a place for this node.
func (p *places) relays() []peer.ID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.held))
}

// lost notes that a relay is gone.
func (p *places) lost(id peer.ID) {
	p.mu.Lock()
	had := p.held[id] != nil
	delete(p.held, id)
	p.mu.Unlock()
	if had {
		p.host.ConnManager().Unprotect(id, relayPlaceTag)
		p.tell()
		p.look()
	}
}

// giveUp lets go of every place: others reach this node by itself.
func (p *places) giveUp() {
	p.mu.Lock()
	held := slices.Collect(maps.Keys(p.held))
	clear(p.held)
	p.mu.Unlock()
	for _, id := range held {
		p.host.ConnManager().Unprotect(id, relayPlaceTag)
	}
	if len(held) > 0 {
		p.tell()
	}
}

// tell says that the addresses changed.
func (p *places) tell() {
	_ = p.emitter.Emit(event.EvtAutoRelayAddrsUpdated{RelayAddrs: p.addrs()})
	p.host.nat.look()
}

// renew asks relays to keep places whose time is half over.
func (p *places) renew(ctx context.Context) {
	p.mu.Lock()
	var due []peer.ID
	for id, place := range p.held {
		if time.Until(place.until) < relayPlaceLife/2 {
			due = append(due, id)
		}
	}
	p.mu.Unlock()
	for _, id := range due {
		if !p.reserve(ctx, id) {
			p.lost(id)
		}
	}
}

// find looks for relays until there are enough places: among those that the
// node was told of and the peers that it has anyway, the nearest first.
func (p *places) find(ctx context.Context) {
	if p.count() >= wantedPlaces {
		return
	}
	for _, id := range p.connect(ctx, p.candidates(ctx)) {
		if p.count() >= wantedPlaces {
			return
		}
		p.reserve(ctx, id)
	}
}

func (p *places) candidates(ctx context.Context) []peer.AddrInfo {
	var all []peer.AddrInfo
	for _, id := range p.host.Network().Peers() {
		if supported, err := p.host.Peerstore().SupportsProtocols(id, circuitproto.ProtoIDv2Hop); err == nil && len(supported) > 0 {
			all = append(all, peer.AddrInfo{ID: id})
		}
	}
	if p.source != nil {
		all = append(all, p.source(ctx, maxCandidates)...)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(p.banned, func(_ peer.ID, until time.Time) bool { return now.After(until) })
	seen := make(map[peer.ID]bool)
	all = slices.DeleteFunc(all, func(i peer.AddrInfo) bool {
		_, banned := p.banned[i.ID]
		skip := banned || seen[i.ID] || p.held[i.ID] != nil || i.ID == p.host.ID()
		seen[i.ID] = true
		return skip
	})
	return all[:min(len(all), 2*maxCandidates)]
}

// connect dials the candidates at once and returns those that answered, the
// nearest first.
func (p *places) connect(ctx context.Context, all []peer.AddrInfo) []peer.ID {
	ctx, cancel := context.WithTimeout(network.WithForceDirectDial(ctx, relayPlaceTag), placeDial)
	defer cancel()
	type answer struct {
		id  peer.ID
		rtt time.Duration
	}
	answers := make([]answer, len(all))
	var wg sync.WaitGroup
	for i, info := range all {
		wg.Go(func() {
			p.host.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.TempAddrTTL)
			start := time.Now()
			c, err := p.host.swarm.DialPeer(ctx, info.ID)
			if err != nil {
				p.ban(info.ID)
				return
			}
			rtt, ok := rttOf(c)
			if !ok {
				rtt = time.Since(start) // of a handshake
			}
			answers[i] = answer{info.ID, rtt}
		})
	}
	wg.Wait()
	answers = slices.DeleteFunc(answers, func(a answer) bool { return a.id == "" })
	slices.SortStableFunc(answers, func(a, b answer) int { return cmp.Compare(a.rtt, b.rtt) })
	out := make([]peer.ID, len(answers))
	for i, a := range answers {
		out[i] = a.id
	}
	return out
}

func (p *places) ban(id peer.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.banned[id] = time.Now().Add(placeBan)
}

// reserve asks a relay for a place and reports whether there is one.
func (p *places) reserve(ctx context.Context, id peer.ID) bool {
	ctx, cancel := context.WithTimeout(ctx, placeReserve)
	defer cancel()
	r, err := circuitv2.Reserve(ctx, eager{p.host}, peer.AddrInfo{ID: id})
	if err != nil {
		p.host.log.Debug("reserve a place at a relay", "relay", id, "err", err)
		p.ban(id)
		return false
	}
	addrs := p.ways(id, r.Addrs)
	if len(addrs) == 0 {
		p.ban(id) // nobody could be told how to reach it
		return false
	}
	p.host.ConnManager().Protect(id, relayPlaceTag)
	p.mu.Lock()
	was := p.held[id]
	p.held[id] = &place{until: r.Expiration, addrs: addrs}
	p.mu.Unlock()
	if p.host.Network().Connectedness(id) != network.Connected {
		p.lost(id) // while it answered
		return false
	}
	if was == nil || !slices.EqualFunc(was.addrs, addrs, ma.Multiaddr.Equal) {
		p.tell()
	}
	return true
}

// ways returns the addresses at which others reach this node over a relay: where
// it is reached from here, and what it said of itself.
func (p *places) ways(id peer.ID, said []ma.Multiaddr) []ma.Multiaddr {
	var all []ma.Multiaddr
	for _, c := range p.host.Network().ConnsToPeer(id) {
		all = append(all, c.RemoteMultiaddr())
	}
	for i, a := range said {
		if len(a) > 3 && a[3].Code() == ma.P_P2P {
			said[i] = a[:3]
		}
	}
	elsewhere := func(a ma.Multiaddr) bool { return isQUIC(a) && !manet.IsIPLoopback(a) }
	all = append(all, ranked(said, elsewhere, reach)...)
	var out []ma.Multiaddr
	for _, way := range all {
		if isQUIC(way) && Dialable(p.host.network, way) && len(out) < maxRelayedWays {
			if a := relayedAddr(way, id); !ma.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

// Place is a relay over which others reach this node.
type Place struct {
	Relay identity.Key
	Until time.Time // unless it is renewed
	RTT   time.Duration
}

func (p *places) list() []Place {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Place
	for id, place := range p.held {
		key, _ := KeyOf(id)
		l := Place{Relay: key, Until: place.until}
		for _, c := range p.host.Network().ConnsToPeer(id) {
			if rtt, ok := rttOf(c); ok {
				l.RTT = rtt
			}
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b Place) int { return cmp.Compare(a.RTT, b.RTT) })
	return out
}

// eager is the host for libp2p's relay client: it opens streams directly to the
// relay and without waiting for identify.
type eager struct{ *Host }

// NewStream implements [host.Host].
func (h eager) NewStream(ctx context.Context, p peer.ID, protos ...protocol.ID) (network.Stream, error) {
	return h.openAs(network.WithForceDirectDial(ctx, relayPlaceTag), p, protos[0])
}
