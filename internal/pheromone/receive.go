package pheromone

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"cell.network/cell/internal/record"
)

// A lease that arrives again is not looked at again for a while: not that of a
// round, which is no sign of life, nor an answer that has come by two ways.
const (
	sameRound  = 20 * time.Second
	sameAnswer = time.Second
)

func sameNewsFor(k Kind) time.Duration {
	switch k {
	case KindQuery: // not as long as it could be replayed
		return math.MaxInt64
	case KindAnswer:
		return sameAnswer
	}
	return sameRound
}

// receive handles packets until the bus ends, and returns why it did.
func (l *LAN) receive() error {
	for {
		pkt, from, err := l.config.Bus.Recv()
		if err != nil {
			return err
		}
		l.handle(pkt, from)
	}
}

// handle acts on one packet. What a stranger sent is trusted in nothing until
// its signature has been checked.
func (l *LAN) handle(pkt []byte, from netip.AddrPort) {
	p, err := ParsePacket(pkt)
	switch {
	case err != nil:
		l.refuse(reason(err), from)
		return
	}
	if p.Kind != KindAnswer {
		l.spoken(pkt, time.Now()) // of other networks, too: the air is the same
	}
	switch {
	case p.Network != tagOf(l.network):
		if p.Kind != KindAnswer {
			l.overheard(stranger(from), len(pkt), time.Now())
		}
		l.refuse("foreign", from)
		return
	case p.Kind == KindQuery && len(p.Records) != 1:
		l.refuse("malformed", from)
		return
	}
	for _, raw := range p.Records {
		now := time.Now()
		before := l.recent.last(raw)
		if !before.IsZero() && now.Sub(before) < sameNewsFor(p.Kind) {
			l.count("repeated")
			continue
		}
		if !l.incoming.allow(from.Addr(), now) || !l.total.allow(netip.Addr{}, now) {
			l.refuse("ratelimited", from)
			return
		}
		l.recent.note(raw, now)
		if p.Kind == KindQuery {
			err = l.asksUs(raw, from, now)
		} else {
			err = l.tellsUs(raw, p.Kind, now)
		}
		if err != nil { // perhaps a good lease in bad company: it has another chance soon
			l.recent.note(raw, now.Add(sameAnswer-sameRound))
			l.refuse(reason(err), from)
		}
	}
}

func (l *LAN) refuse(word string, from netip.AddrPort) {
	l.count(word)
	l.config.OnRefused(word, from)
}

// asksUs handles a query.
func (l *LAN) asksUs(raw []byte, from netip.AddrPort, now time.Time) error {
	q, err := openQuery(raw, l.network, now)
	if err != nil {
		return err
	}
	if q.asker == l.config.Key.Public() {
		l.count("own")
		return nil
	}
	if !l.answered.allow(from.Addr(), now) {
		l.refuse("ratelimited", from)
		return nil
	}
	l.plan(q, from, now)
	l.overheard(voice{node: q.asker}, 0, now)
	return nil
}

func (l *LAN) overheard(v voice, bytes int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.crowd.heard(v, bytes, now)
}

// tellsUs handles a lease or a tombstone.
func (l *LAN) tellsUs(raw []byte, kind Kind, now time.Time) error {
	lease, err := record.OpenAnnouncement(raw, l.network, now)
	if err != nil {
		return err
	}
	if lease.Signer == l.config.Key.Public() {
		l.count("own")
		return nil
	}
	if lease.Tombstone() != (kind == KindGoodbye) {
		return fmt.Errorf("%w: kind %d with a ttl of %v", ErrMalformed, kind, lease.TTL)
	}
	if _, err := l.config.Floor.Admit(lease); err != nil {
		return err
	}
	key := lease.Cell.Key(l.network)
	l.mu.Lock()
	l.stats["heard"]++
	if lease.Tombstone() {
		l.crowd.gone(voice{lease.Signer, key})
	} else {
		l.crowd.heard(voice{lease.Signer, key}, len(raw), now)
		l.answeredLocked(key, kind)
	}
	l.mu.Unlock()
	l.config.OnLease(lease)
	return nil
}
