package kad

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"cell.network/cell/internal/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
)

// seedsPerPlace is how many of the closest peers known a lookup begins with.
const seedsPerPlace = 2 * Holders

// silentFactor is after how many times what was expected a peer that has not
// answered, when a lookup ends without it, is taken for one that will not.
const silentFactor = 3

// errBusy says that a peer is there but wants to be spared.
var errBusy = errors.New("peer is busy")

// event is what became of one query.
type event struct {
	query
	answer answer
	err    error
	took   time.Duration
	warm   bool // it was asked on a connection at hand
}

// lookUp begins a lookup with the closest peers that are known.
func (k *Kad) lookUp(r rules, places []place) *lookup {
	now := time.Now()
	l := newLookup(r, places, k.host.ID(), k.dir.usual(), rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
	for _, p := range places {
		for _, c := range k.closest(p, seedsPerPlace, now) {
			l.add(c)
		}
	}
	return l
}

// closest returns up to n candidates of the directory and up to n of the
// routing table: those closest to p. Beside suspects there are others.
func (k *Kad) closest(p place, n int, now time.Time) []candidate {
	var out []candidate
	for _, c := range k.dir.closest(p, n) {
		id, err := host.PeerID(c.key)
		if err == nil {
			out = append(out, k.candidate(peer.AddrInfo{ID: id, Addrs: k.multiaddrs(c.addrs)}, c, now))
		}
	}
	for _, id := range k.nearest(p, n) {
		if slices.ContainsFunc(out, func(c candidate) bool { return c.ID == id }) {
			continue
		}
		if c, _ := k.dir.about(id); !c.dead {
			out = append(out, k.candidate(peer.AddrInfo{ID: id}, c, now))
		}
	}
	return out
}

// candidate is a peer with what is known of it.
func (k *Kad) candidate(p peer.AddrInfo, c contact, now time.Time) candidate {
	at := c.at
	if at == (place{}) {
		at = placeOf(p.ID)
	}
	return candidate{AddrInfo: p, at: at, hops: 1, rtt: c.rtt, suspect: c.dead || c.suspect(now), hearsay: c.member && !c.spoke, warm: k.warm(p.ID)}
}

func (k *Kad) warm(p peer.ID) bool { return k.host.Network().Connectedness(p) == network.Connected }

// multiaddrs are those of raw addresses that this network's nodes may dial.
func (k *Kad) multiaddrs(raw [][]byte) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, b := range raw {
		if a, err := ma.NewMultiaddrBytes(b); err == nil && host.Dialable(k.conf.Network, a) {
			out = append(out, a)
		}
	}
	return out
}

// walk drives a lookup until it has enough and more says that this will do, or
// until it is idle. It calls found with every good answer, until that returns
// false. Errors are ErrNoPeers, ErrUnreachable, ErrRefused and those of ctx.
func (k *Kad) walk(ctx context.Context, l *lookup, r request, more func() bool, found func(*candidate, answer) bool) error {
	if len(l.known) == 0 {
		return ErrNoPeers
	}
	ctx, cancel := context.WithCancel(ctx)
	events := make(chan event, maxQueries)
	running := 0
	defer func() {
		cancel()
		for range running {
			<-events
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	met, refusal := 0, ""
	defer func() { k.noteSilence(l, met) }()
	for !l.idle() && (!l.enough() || more()) {
		for _, q := range l.next(time.Now()) {
			running++
			k.asked.Add(1)
			go k.query(ctx, q, r, events)
		}
		if running == 0 {
			break // the budget of queries is spent
		}
		if at := l.wake(); !at.IsZero() {
			timer.Reset(time.Until(at))
		}
		var e event
		select {
		case e = <-events:
			running--
		case <-timer.C:
			continue
		case <-ctx.Done():
			return fmt.Errorf("look up: %w", context.Cause(ctx))
		}
		if e.err != nil {
			l.fail(e.ID)
			if !errors.Is(e.err, errBusy) && ctx.Err() == nil {
				k.failed(e.candidate)
			}
			continue
		}
		met++
		k.met(e)
		if e.answer.Code == codeRefused {
			refusal = printable(e.answer.Reason)
		}
		l.answer(e.ID, e.answer.Code == codeOK, k.named(e.answer))
		if e.answer.Code == codeOK && !found(e.candidate, e.answer) {
			return nil
		}
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("look up: %w", context.Cause(ctx))
	case l.answers > 0:
		return nil
	case met > 0:
		return fmt.Errorf("%w: %s", ErrRefused, refusal)
	}
	k.lost.Store(true) // it may be us who are cut off: try the ways in
	k.wake()
	return ErrUnreachable
}

// named are the peers that an answer names, as candidates. The addresses that
// this node knows by itself are not mixed with what a stranger says.
func (k *Kad) named(a answer) []candidate {
	var out []candidate
	now := time.Now()
	for _, p := range a.peers(k.conf.Network) {
		c, _ := k.dir.about(p.ID)
		if c.dead {
			continue
		}
		if own := k.multiaddrs(c.addrs); len(own) > 0 && c.misses == 0 {
			p.Addrs = own
		}
		out = append(out, k.candidate(p, c, now))
	}
	return out
}

// met remembers a peer that has answered.
func (k *Kad) met(e event) {
	rtt := e.took
	if !e.warm {
		rtt /= 2 // the handshake took the other half
	}
	now := time.Now()
	k.dir.answered(e.ID, k.host.Peerstore().Addrs(e.ID), rtt, now)
	k.dht.RoutingTable().UpdateLastSuccessfulOutboundQueryAt(e.ID, now)
}

// failed remembers that a peer could not be reached.
func (k *Kad) failed(c *candidate) { k.dir.silent(c.ID, time.Now()) }

// noteSilence remembers who had not answered when a lookup ended in which others
// did: where nobody answers it may be us who are cut off.
func (k *Kad) noteSilence(l *lookup, met int) {
	if met == 0 {
		return
	}
	now := time.Now()
	for _, c := range l.known {
		switch since := now.Sub(c.sent); {
		case c.sent.IsZero():
		case c.state == failed && !k.warm(c.ID):
			k.dht.RoutingTable().RemovePeer(c.ID)
		case c.state != asked && c.state != late:
		case since > silentFactor*l.expect(c):
			k.dir.silent(c.ID, now)
		case c.state == late:
			k.dir.slow(c.ID, since/2)
		}
	}
}

// query asks one peer and reports to events.
func (k *Kad) query(ctx context.Context, q query, r request, events chan<- event) {
	ctx, cancel := context.WithDeadline(ctx, q.endAt)
	defer cancel()
	r.Places = q.places
	e := event{query: q, warm: k.warm(q.ID)}
	start := time.Now()
	e.answer, e.err = k.ask(ctx, q.AddrInfo, r)
	e.took = time.Since(start)
	events <- e
}

// ask sends one request and waits for its answer; ctx has a deadline.
func (k *Kad) ask(ctx context.Context, p peer.AddrInfo, r request) (answer, error) {
	s, err := k.open(ctx, p, k.proto)
	if err != nil {
		return answer{}, err
	}
	defer s.Reset() // all has been read: nothing more is owed to a stream
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	if err := writeMessage(s, r); err != nil {
		return answer{}, err
	}
	a, err := k.readAnswer(s)
	if err == nil && a.Code == codeBusy {
		return a, errBusy
	}
	return a, err
}

// open begins to talk to a peer, dialling it where there is no connection.
func (k *Kad) open(ctx context.Context, p peer.AddrInfo, proto protocol.ID) (network.Stream, error) {
	if end, ok := ctx.Deadline(); ok {
		ctx = network.WithDialPeerTimeout(ctx, max(time.Until(end), time.Millisecond))
	}
	if len(p.Addrs) > 0 && !k.warm(p.ID) {
		k.host.Peerstore().AddAddrs(p.ID, p.Addrs, peerstore.TempAddrTTL)
	}
	return k.host.Open(ctx, p.ID, proto)
}

// readAnswer reads and counts what is none.
func (k *Kad) readAnswer(s network.Stream) (answer, error) {
	b, err := readMessage(s, MaxAnswer)
	var a answer
	if err == nil {
		a, err = parseAnswer(b)
	}
	if errors.Is(err, errWire) {
		k.refuse(reasonAnswer)
	}
	return a, err
}
