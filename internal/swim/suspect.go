package swim

import (
	"fmt"
	"math"
	"slices"
	"time"

	"cell.network/cell/internal/record"
)

// How long a suspect has to refute: at least refuteBase and four round trips, for
// there and back through the whole network, and up to loneFactor times as long
// while only one node accuses it.
const (
	refuteBase = time.Second
	refuteMax  = 3 * time.Second // the least, however slow the network
	loneFactor = 3
	confirms   = 3         // more accusers, after which it has no more than the least
	amnesty    = time.Hour // in which a node that has refuted is not accused because it cannot be dialled
)

// patience returns for how long a suspect may still refute since suspicion began.
func (d *Detector) patience(m *member) time.Duration {
	least := min(refuteBase+4*d.rtt, refuteMax)
	most := loneFactor * least
	k := min(confirms, d.live-2) // others that could confirm
	if n := len(m.accusers) - 1; k > 0 && n < k {
		least = max(least, most-time.Duration(float64(most-least)*math.Log(float64(n+1))/math.Log(float64(k+1))))
	}
	return d.scaled(least)
}

// suspicion signs that the node with this contact does not answer.
func (d *Detector) suspicion(i id) accusal {
	return accusal{ID: i[:], Accuser: d.cfg.Self, Sig: d.cfg.Sign(accusalText(d.cfg.Network, i))}
}

// accuse suspects a member by this node's own experience.
func (d *Detector) accuse(m *member, now time.Time) {
	if m.state.live() && !slices.Contains(m.accusers, d.cfg.Self) && len(m.accusers) <= confirms {
		d.suspect(m, d.suspicion(m.id), nil, now)
	}
}

// suspect puts a suspicion on a member and passes it on.
func (d *Detector) suspect(m *member, a accusal, from *link, now time.Time) {
	if m.state == Alive {
		m.suspected, m.judged, m.accusers = now, now, nil
		d.become(m, Suspect, now)
		switch l := m.link; {
		case m.probe != nil:
			if m.probe.quick = true; l != nil {
				d.say(l).Ping = d.number()
			}
		case l != nil && a.Accuser != d.cfg.Self:
			d.ping(l, true, now)
		}
	}
	m.accusers = append(m.accusers, a.Accuser)
	for _, l := range d.list {
		if l != from {
			d.accuseTo(l, a)
		}
	}
}

func (d *Detector) accuseTo(l *link, a accusal) {
	if len(l.accuses) < maxQueue {
		l.accuses = append(l.accuses, a)
		d.say(l)
	}
}

// accused takes a suspicion from a neighbour.
func (d *Detector) accused(l *link, a accusal, now time.Time) error {
	i := id(a.ID)
	if slices.Contains(d.mine, i) {
		switch {
		case i != d.me.id: // refuted already: defend says so
		case a.Accuser == l.node:
			if !d.slandered(l, now) {
				return fmt.Errorf("%w: one suspicion too many, over a stream that works", ErrMessage)
			}
		case !a.Accuser.Verify(accusalText(d.cfg.Network, i), a.Sig):
			return fmt.Errorf("%w: suspicion by %s with a bad signature", ErrMessage, a.Accuser.Short())
		case d.members[a.Accuser] == nil && !d.slandered(l, now):
			return nil // keys are free: others, who do not know it either, do not listen to it
		}
		d.defend(l, i, now)
		return nil
	}
	m := d.ids[i]
	switch {
	case m == nil || m.state.Gone():
		return nil
	case m.id != i: // it has refuted that already
		d.queue(l, m, true, now)
		return nil
	case slices.Contains(m.accusers, a.Accuser) || len(m.accusers) > confirms || a.Accuser == d.cfg.Self:
		return nil
	case m.state == Alive && !m.refutals.has(newsRate, newsBurst, now):
		return nil // its refutation would not be taken either
	}
	by := d.members[a.Accuser]
	if by == nil || by.state == Left || by == m || !by.accusals.has(accusalRate, accusalBurst, now) && !d.cfg.gullible {
		return nil
	}
	if !a.Accuser.Verify(accusalText(d.cfg.Network, i), a.Sig) {
		return fmt.Errorf("%w: suspicion by %s with a bad signature", ErrMessage, a.Accuser.Short())
	}
	by.accusals.spend(accusalRate, accusalBurst, now)
	d.suspect(m, a, l, now)
	return nil
}

// A neighbour whose own words and no others reach this node may suspect it this
// often at once, and once in a minute. Those that others pass on they have counted.
const (
	slanderBurst = 4
	slanderRate  = 1.0 / 60
	maxSlander   = 256 // neighbours for which that is counted
)

// slandered counts a neighbour's suspicion of this node, and reports whether it
// is to be borne.
func (d *Detector) slandered(l *link, now time.Time) bool {
	p := d.slander[l.node]
	if p == nil {
		if len(d.slander) >= maxSlander {
			clear(d.slander)
		}
		p = &pace{}
		d.slander[l.node] = p
	}
	return p.spend(slanderRate, slanderBurst, now)
}

// defend answers a suspicion of this node.
func (d *Detector) defend(l *link, i id, now time.Time) {
	d.queue(l, d.me, true, now)
	if i != d.me.id || d.leaving() || d.refute != (record.Order{}) || !d.refutes.spend(refuteRate, refuteBurst, now) {
		return
	}
	if now.Sub(d.worsened) >= d.cfg.Period { // one cause may have many accuse it at once
		d.worsened = now
		d.worse()
	}
	d.refute = d.me.contact.Order
}

// judge ends the suspicions that nobody has refuted in time.
func (d *Detector) judge(now time.Time) {
	for _, m := range slices.Clone(d.suspects) {
		if now.Before(m.judged.Add(d.patience(m))) {
			continue
		}
		if l := m.link; l != nil && !l.proved.Before(m.suspected) { // it has answered this node since
			m.accusers = nil
			d.become(m, Alive, now)
			continue
		}
		if m.link == nil && len(m.accusers) == 1 && m.accusers[0] != d.cfg.Self && len(m.contact.Addrs) > 0 {
			d.check(m, now)
			continue
		}
		d.become(m, Dead, now)
		if m.link != nil {
			d.drop(m.link, now)
		}
	}
}

// check tries a member that only one node accuses, whom the others may not
// believe any more: then the suspect does not hear of it.
func (d *Detector) check(m *member, now time.Time) {
	if m.probe == nil {
		d.doubt(m, now)
	}
	m.judged, m.probe.check = now, true
}

// become puts a member into a state and tells so.
func (d *Detector) become(m *member, s State, now time.Time) {
	was := m.state
	d.enter(m, s)
	m.since = now
	if s == Dead {
		m.died = now
	}
	d.changes = append(d.changes, Change{m.contact.Signer, was, s, *m.contact})
	d.tending = now
}
