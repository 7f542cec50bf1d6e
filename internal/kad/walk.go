package kad

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cell.network/cell/internal/identity"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
)

// Budgets of one query. A peer that has not answered after hedgeAfter no longer
// holds up the lookup, but its answer is still welcome.
const (
	dialBudget = 1 * time.Second
	askBudget  = 2 * time.Second
	hedgeAfter = 350 * time.Millisecond
)

// errBusy says that a peer is there but wants to be spared.
var errBusy = errors.New("peer is busy")

// event is what happened to one query.
type event struct {
	from   peer.ID
	late   bool // not yet answered
	answer answer
	err    error
}

// walk looks for the want peers closest to key and calls found with every
// answer until it returns false. It returns the lookup as it ended. Errors are
// ErrNoPeers, ErrUnreachable and those of ctx.
func (k *Kad) walk(ctx context.Context, key identity.NameKey, o op, want int, found func(answer) bool) (*lookup, error) {
	seeds := k.nearest(key, MaxCloser)
	if len(seeds) == 0 {
		return nil, ErrNoPeers
	}
	ctx, cancel := context.WithCancel(ctx)
	events := make(chan event, 2*maxQueries)
	running := 0 // queries whose last event has not been received
	defer func() {
		cancel()
		for running > 0 {
			if e := <-events; !e.late {
				running--
			}
		}
	}()
	l := newLookup(key, k.host.ID(), want, seeds)
	var dead []peer.ID
	for !l.done() {
		for _, p := range l.next() {
			running++
			go k.query(ctx, p, request{Op: o, Key: key[:]}, events)
		}
		if running == 0 {
			break // the budget of queries is spent
		}
		var e event
		select {
		case e = <-events:
		case <-ctx.Done():
			return l, fmt.Errorf("look up: %w", context.Cause(ctx))
		}
		if e.late {
			l.delay(e.from)
			continue
		}
		running--
		switch {
		case e.err == nil:
			l.answer(e.from, e.answer.peers(k.conf.Network))
			k.dht.RoutingTable().UpdateLastSuccessfulOutboundQueryAt(e.from, time.Now())
			if !found(e.answer) {
				return l, nil
			}
		case errors.Is(e.err, errBusy):
			l.fail(e.from)
		default:
			l.fail(e.from)
			dead = append(dead, e.from)
		}
	}
	if ctx.Err() != nil {
		return l, fmt.Errorf("look up: %w", context.Cause(ctx))
	}
	if len(l.closest()) == 0 { // it may be us who are cut off: keep the table, and try the ways in
		k.lost.Store(true)
		k.wake()
		return l, ErrUnreachable
	}
	for _, p := range dead {
		k.dht.RoutingTable().RemovePeer(p)
	}
	return l, nil
}

// query asks one peer and reports to events, first that it is late where it is.
func (k *Kad) query(ctx context.Context, p peer.AddrInfo, r request, events chan<- event) {
	slow := time.AfterFunc(hedgeAfter, func() { events <- event{from: p.ID, late: true} })
	a, err := k.ask(ctx, p, r)
	slow.Stop()
	events <- event{from: p.ID, answer: a, err: err}
}

// ask sends one request and waits for its answer.
func (k *Kad) ask(ctx context.Context, p peer.AddrInfo, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(network.WithDialPeerTimeout(ctx, dialBudget), askBudget)
	defer cancel()
	if len(p.Addrs) > 0 {
		k.host.Peerstore().AddAddrs(p.ID, p.Addrs, peerstore.TempAddrTTL)
	}
	s, err := k.host.Open(ctx, p.ID, k.proto)
	if err != nil {
		return answer{}, err
	}
	defer s.Reset() // all has been read: nothing more is owed to a stream
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	if err := writeMessage(s, r); err != nil {
		return answer{}, err
	}
	b, err := readMessage(s, MaxAnswer)
	if err != nil {
		if errors.Is(err, errWire) {
			k.refuse(reasonAnswer)
		}
		return answer{}, err
	}
	a, err := parseAnswer(b)
	if err != nil {
		k.refuse(reasonAnswer)
		return answer{}, err
	}
	if a.Code == codeBusy {
		return a, errBusy
	}
	return a, nil
}
