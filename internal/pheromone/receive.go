package pheromone

import (
	"fmt"
	"net/netip"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// sameMoment is how long a lease that arrives again is the same news, come by another way.
const sameMoment = time.Second

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
	case p.Network != tagOf(l.network):
		l.refuse("foreign", from)
		return
	case p.Kind == KindQuery && len(p.Records) != 1:
		l.refuse("malformed", from)
		return
	}
	for _, raw := range p.Records {
		now := time.Now()
		before := l.recent.last(raw)
		if !before.IsZero() && (p.Kind == KindQuery || now.Sub(before) < sameMoment) {
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
		if err != nil {
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
	return nil
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
	l.mu.Lock()
	l.stats["heard"]++
	for _, key := range []identity.NameKey{lease.Cell.Key(l.network), {}} {
		if a := l.asked[key]; a != nil && !lease.Tombstone() {
			a.heard = true
		}
	}
	l.mu.Unlock()
	l.config.OnLease(lease)
	return nil
}
