package kad

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/peer"
)

// The nodes that took a lease are asked again without a lookup for a while.
const (
	holdersFor = 2 * time.Minute
	maxHolders = 4096 // cells remembered
)

// holding is who took the leases of one cell.
type holding struct {
	peers  []peer.ID // at least Quorum of the Replicas that were asked
	passed []peer.ID // closer than the farthest of them, but dead, slow or unwilling
	until  time.Time
}

// Put stores a lease, or the tombstone that withdraws one, on the [Replicas]
// nodes closest to its cell's key and returns how many hold it, this node
// included where it is one of them. The error is nil unless nobody else took
// it: then [ErrNoPeers], [ErrUnreachable], [ErrRefused] or that of ctx. A node
// keeps its own leases in any case, for those who ask it.
func (k *Kad) Put(ctx context.Context, l record.Lease) (holders int, err error) {
	key := l.Cell.Key(k.net)
	if reason := k.hold(key, l.Raw, ownSource, time.Now()); reason != "" {
		return 0, fmt.Errorf("put lease of %s: %w: %s", l.Cell.Short(), ErrRefused, reason)
	}
	targets, remembered := k.holdersOf(key), true
	var stored, passed []peer.ID
	for {
		if len(targets) == 0 {
			remembered = false
			w, err := k.walk(ctx, key, opNear, Replicas, func(answer) bool { return true })
			if err != nil {
				return 0, fmt.Errorf("put lease of %s: %w", l.Cell.Short(), err)
			}
			targets, passed = w.closest(), w.passed()
		}
		stored, err = k.offer(ctx, key, l.Raw, targets)
		if !remembered || len(stored) == len(targets) || ctx.Err() != nil {
			break
		}
		targets = nil // some of the old ones are gone: look again
	}
	if !remembered {
		k.setHolders(key, stored, append(passed, targets...), len(targets) == Replicas)
	}
	if len(stored) == 0 {
		return 0, fmt.Errorf("put lease of %s: %w", l.Cell.Short(), err)
	}
	holders = len(stored)
	if k.amongClosest(key, stored) {
		holders++
	}
	return holders, nil
}

// amongClosest reports whether a lookup of key would come to this node too.
func (k *Kad) amongClosest(key identity.NameKey, stored []peer.ID) bool {
	if !k.Serving() {
		return false
	}
	return len(stored) < Replicas || slices.ContainsFunc(stored, func(p peer.ID) bool {
		return k.self.to(key).compare(placeOf(p).to(key)) < 0
	})
}

// offer sends a lease to every target at once and returns those who took it.
func (k *Kad) offer(ctx context.Context, key identity.NameKey, raw []byte, targets []peer.ID) (stored []peer.ID, err error) {
	type result struct {
		from   peer.ID
		answer answer
		err    error
	}
	results := make(chan result, len(targets))
	for _, p := range targets {
		go func() {
			a, err := k.ask(ctx, peer.AddrInfo{ID: p}, request{Op: opPut, Key: key[:], Lease: raw})
			results <- result{p, a, err}
		}()
	}
	err = ErrUnreachable
	for range targets {
		switch r := <-results; {
		case r.err != nil:
			if !errors.Is(err, ErrRefused) {
				err = fmt.Errorf("%w: %w", ErrUnreachable, r.err)
			}
		case r.answer.Code == codeOK:
			stored = append(stored, r.from)
		default:
			err = fmt.Errorf("%w: %s", ErrRefused, printable(r.answer.Reason))
		}
	}
	if e := context.Cause(ctx); e != nil {
		err = e
	}
	return stored, err
}

// printable keeps a stranger's word fit for a terminal and a log.
func printable(s string) string {
	for i := range len(s) {
		if s[i] < 'a' || s[i] > 'z' {
			return "for no known reason"
		}
	}
	return s
}

// holdersOf returns who took this cell's leases of late, unless the routing
// table has learnt since of a peer that is closer than the farthest of them.
func (k *Kad) holdersOf(key identity.NameKey) []peer.ID {
	k.mu.Lock()
	h := k.holders[key]
	k.mu.Unlock()
	if len(h.peers) == 0 || time.Now().After(h.until) {
		return nil
	}
	far := distance{}
	for _, p := range h.peers {
		if d := placeOf(p).to(key); d.compare(far) > 0 {
			far = d
		}
	}
	for _, p := range k.nearest(key, Replicas) {
		if !slices.Contains(h.peers, p) && !slices.Contains(h.passed, p) && placeOf(p).to(key).compare(far) < 0 {
			return nil
		}
	}
	return h.peers
}

// setHolders remembers who took a lease after a lookup. Where the lookup did
// not find all Replicas the network is small and may grow: then it does not.
func (k *Kad) setHolders(key identity.NameKey, stored, passed []peer.ID, all bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.holders, key)
	if all && len(stored) >= Quorum && len(k.holders) < maxHolders {
		k.holders[key] = holding{stored, passed, time.Now().Add(holdersFor)}
	}
}

func (k *Kad) forgetHolders(now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, h := range k.holders {
		if now.After(h.until) {
			delete(k.holders, key)
		}
	}
}
