package pulse

import (
	"bytes"
	"context"
	"slices"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/swim"
)

// How a node presents itself.
const (
	contactRefresh = 8 * time.Hour          // after which an unchanged contact is signed anew
	contactGap     = time.Second            // between two contacts, unless one refutes a suspicion
	farewell       = 100 * time.Millisecond // in which a goodbye is said
	maxRefutes     = 4                      // in one go
	maxRefusals    = 64                     // that wait to be told
)

// Members returns every other node that is known, the dead of late included.
func (p *Pulse) Members() []swim.Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.members.Members()
}

// State returns what is held of a node.
func (p *Pulse) State(node identity.Key) swim.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.members.State(node)
}

// Learn takes a verified contact that came another way, such as from the LAN or
// from the disk.
func (p *Pulse) Learn(c record.Contact) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.members.Learn(c, time.Now())
	p.stirLocked()
}

// OwnContact returns the newest contact of this node, for other carriers; its
// Raw is nil before the first.
func (p *Pulse) OwnContact() record.Contact {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.contact
}

// stirLocked has membership do what is due.
func (p *Pulse) stirLocked() {
	select {
	case p.stir <- struct{}{}:
	default:
	}
}

// refusal waits for Config.OnRefused, which is not called with the lock held.
type refusal struct {
	from   identity.Key
	reason string
}

func (p *Pulse) refuseLocked(from identity.Key, reason string) {
	if len(p.refusals) < maxRefusals {
		p.refusals = append(p.refusals, refusal{from, reason})
	}
	p.stirLocked()
}

func (p *Pulse) takeRefusals() []refusal {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.refusals
	p.refusals = nil
	return all
}

// watch does what membership asks for until ctx ends.
func (p *Pulse) watch(ctx context.Context) {
	p.present(time.Now())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-p.stir:
		case <-ctx.Done():
			return
		}
		changes, next := p.step(time.Now())
		for _, c := range changes {
			p.cfg.OnMember(c)
		}
		for _, r := range p.takeRefusals() {
			p.cfg.OnRefused(r.from, r.reason)
		}
		timer.Reset(time.Until(next))
	}
}

// step does once what membership asks for, and returns what has changed and when
// to look again.
func (p *Pulse) step(now time.Time) (changes []swim.Change, next time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range maxRefutes {
		out := p.members.Take(now)
		for _, e := range out.Send {
			if l := p.links[e.To]; l != nil {
				l.sayLocked(e.Msg)
			}
		}
		for _, c := range out.Dial {
			p.callLocked(c, now)
		}
		for _, k := range out.Drop {
			p.dropLocked(k)
		}
		for _, c := range out.Changes {
			p.changedLocked(c, now)
		}
		changes, next = append(changes, out.Changes...), out.Next
		if out.Refute == (record.Order{}) || !p.presentLocked(p.reach, out.Refute, now) {
			break
		}
	}
	p.dialLocked(now)
	return changes, next
}

// changedLocked draws the conclusions of a change.
func (p *Pulse) changedLocked(c swim.Change, now time.Time) {
	l, t := p.links[c.Node], p.targets[c.Node]
	former := l != nil && l.life != 0 && c.Contact.Order.Incarnation > l.life && now.Sub(l.heard) > stale
	if c.Is == swim.Dead || former {
		if l != nil {
			_ = l.stream.Reset()
		}
		p.hangUpLocked(c.Node)
	}
	if c.Is == swim.Alive && t != nil { // back, or at another address
		t.wait, t.next = minWait, now
	}
}

// hangUpLocked closes the connections to a dead node: where it is back, be it at
// another address, they would stand in the way of new ones.
func (p *Pulse) hangUpLocked(k identity.Key) {
	id, err := host.PeerID(k)
	if err != nil {
		return
	}
	p.work.Add(1)
	go func() {
		defer p.work.Done()
		_ = p.host.Network().ClosePeer(id)
	}()
}

// present signs a new contact where there is something to say.
func (p *Pulse) present(now time.Time) {
	if p.cfg.Contact == nil {
		return
	}
	o := p.cfg.Contact()
	p.mu.Lock()
	defer p.mu.Unlock()
	same := p.contact.Raw != nil && o.Server == p.reach.Server && o.Relay == p.reach.Relay &&
		slices.EqualFunc(o.Addrs, p.reach.Addrs, bytes.Equal)
	age := now.Sub(p.contact.Issued)
	if age > -contactGap && (same && age < contactRefresh || p.contact.Raw != nil && age < contactGap) { // below that the clock was set back
		return
	}
	p.presentLocked(o, record.Order{}, now)
}

// depart tells the network that this node leaves on purpose.
func (p *Pulse) depart() {
	now := time.Now()
	p.mu.Lock()
	if p.contact.Raw != nil {
		p.presentLocked(record.ContactOffer{Left: true}, record.Order{}, now)
	}
	p.mu.Unlock()
	for end := now.Add(farewell); ; { // membership does not say everything in one go
		_, next := p.step(time.Now())
		if next.After(end) {
			return
		}
		time.Sleep(max(time.Until(next), farewell/10))
	}
}

// presentLocked signs a contact above an order, and reports whether it could.
func (p *Pulse) presentLocked(o record.ContactOffer, above record.Order, now time.Time) bool {
	if p.cfg.Contact == nil || p.contact.Left {
		return false
	}
	o.Order = record.Order{Incarnation: p.cfg.Incarnation, Sequence: p.contact.Order.Sequence + 1}
	if p.contact.Order.Incarnation > o.Order.Incarnation {
		o.Order.Incarnation = p.contact.Order.Incarnation
	}
	if above.Compare(o.Order) >= 0 {
		o.Order = record.Order{Incarnation: above.Incarnation, Sequence: above.Sequence + 1}
	}
	o.Issued = now
	c, err := record.SignContact(p.cfg.Key, p.id, o)
	if err != nil {
		p.refuseLocked(p.self, record.Reason(err))
		return false
	}
	p.contact, p.reach = c, o
	p.members.Own(c, now)
	p.stirLocked()
	return true
}
