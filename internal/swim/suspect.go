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
			m.probe.quick = true
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
		if a.Accuser == l.node && i == d.me.id && !d.slandered(l, now) {
			return fmt.Errorf("%w: one suspicion too many, over a stream that works", ErrMessage)
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
	case m.state == Alive && !m.news.has(newsRate, newsBurst, now):
		return nil // its refutation would not be taken either
	}
	by := d.members[a.Accuser]
	if by == nil || by.state == Left || by == m || !by.accusals.has(accusalRate, accusalBurst, now) {
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
	if i != d.me.id || d.leaving() || d.refute != (record.Order{}) || !d.refutes.spend(newsRate, newsBurst, now) {
		return
	}
	d.worse()
	d.refute = d.me.contact.Order
}

// judge ends the suspicions that nobody has refuted in time.
func (d *Detector) judge(now time.Time) {
	for _, m := range slices.Clone(d.suspects) {
		if now.Before(m.judged.Add(d.patience(m))) {
			continue
		}
		if l := m.link; l != nil && l.heard.After(m.suspected) { // this node hears it
			m.accusers = nil
			d.become(m, Alive, now)
			continue
		}
		d.become(m, Dead, now)
		if m.link != nil {
			d.drop(m.link, now)
		}
	}
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

// How parts of a network that was cut come together again.
const (
	healTime  = 15 * time.Second // in which tables are compared more often
	healEvery = 1500 * time.Millisecond
	backTime  = time.Minute     // in which neighbours can vouch for the dead, after one of these is back
	accord    = 5 * time.Second // after a death, until all agree on it
)

// vouch revives a dead member on the word of a neighbour, if another one has just
// turned out not to be dead: that both were lost may have been the fault of this
// node or of its part of the network. Otherwise everybody would have to sign a
// new contact whenever one node was cut off. Nobody is revived twice so, and who
// is revived wrongly is accused by the neighbours that know better.
func (d *Detector) vouch(m *member, now time.Time) {
	if m.state != Dead || m.vouched || d.returned.IsZero() || now.Sub(d.returned) > backTime ||
		now.Sub(m.died) > recent || d.returned.Sub(m.died) < accord {
		return
	}
	m.vouched, m.accusers = true, nil
	d.become(m, Alive, now)
}

// Learn takes a verified contact that came another way: from the LAN or the
// disk. It reports whether it is news.
func (d *Detector) Learn(c record.Contact, now time.Time) bool { return d.learn(&c, nil, now) }

func (d *Detector) learn(c *record.Contact, from *link, now time.Time) bool {
	i := idOf(c.Raw)
	if c.Signer == d.cfg.Self {
		if !d.leaving() && (d.me.contact == nil || c.Order.Compare(d.me.contact.Order) > 0) { // of an earlier life, by a clock ahead
			d.refute = c.Order
		}
		return false
	}
	m := d.members[c.Signer]
	if m == nil {
		return d.meet(c, from, now)
	}
	if c.Order.Compare(m.contact.Order) <= 0 {
		if from != nil && i != m.id {
			d.queue(from, m, true, now)
		}
		return false
	}
	if !(c.Left && m.state.live()) && !m.news.spend(newsRate, newsBurst, now) {
		return false
	}
	if !d.regroupable(m, c) {
		d.refuse(i)
		return false
	}
	was, changed := m.state, says(m.contact, c)
	is, reach := Alive, reachRefresh
	if c.Left {
		is = Left
	}
	if changed || was != Alive || is != Alive {
		reach = d.all(now)
	}
	if was == Suspect || was == Dead {
		m.refuted = now
	}
	d.replace(m, c)
	m.accusers = nil
	if m.probe != nil {
		d.end(m.probe) // it has just shown that it is there
	}
	if from == nil || from.member != m {
		d.elsewhere(m, now)
	}
	if is != was {
		d.become(m, is, now)
		if was == Dead {
			d.returned = now
			d.sooner(healEvery, now)
		}
	} else if changed {
		d.changes = append(d.changes, Change{c.Signer, was, is, *c})
	}
	d.bind(m)
	d.spread(m, from, reach, now)
	return true
}

// meet takes a node into the table, where there is room.
func (d *Detector) meet(c *record.Contact, from *link, now time.Time) bool {
	group := ""
	if d.cfg.Group != nil {
		group = d.cfg.Group(*c)
	}
	if group != "" && d.groups[group] >= d.cfg.PerGroup && !d.evict(func(m *member) bool { return m.group == group }) {
		d.refuse(idOf(c.Raw))
		return false
	}
	most := d.cfg.MaxMembers
	if d.links[c.Signer] != nil {
		most += spare
	}
	if len(d.order) >= most && !d.evict(func(*member) bool { return true }) {
		d.refuse(idOf(c.Raw))
		return false
	}
	m := &member{contact: c, id: idOf(c.Raw), group: group}
	d.add(m)
	is := Alive
	if c.Left {
		is = Left
	}
	d.become(m, is, now)
	d.bind(m)
	d.spread(m, from, reachNew, now)
	return true
}

// regroupable puts a member into the group of its next contact, if there is room.
func (d *Detector) regroupable(m *member, c *record.Contact) bool {
	if d.cfg.Group == nil || c.Left {
		return true
	}
	group := d.cfg.Group(*c)
	if group == m.group {
		return true
	}
	if group != "" && d.groups[group] >= d.cfg.PerGroup {
		return false
	}
	d.regroup(m, group)
	return true
}

// evict forgets the longest gone of these.
func (d *Detector) evict(of func(*member) bool) bool {
	i := slices.IndexFunc(d.gone, of)
	if i >= 0 {
		d.remove(d.gone[i])
	}
	return i >= 0
}

// bind tells a link whose it is.
func (d *Detector) bind(m *member) {
	if l := d.links[m.contact.Signer]; l != nil {
		l.member, m.link = m, l
	}
}

// sweep forgets what is over.
func (d *Detector) sweep(now time.Time) {
	for _, m := range slices.Clone(d.order) {
		switch {
		case m.state.Gone() && now.Sub(m.since) > memory:
			d.remove(m)
		case m.state.live() && now.After(m.contact.Expires().Add(record.MaxSkew)):
			m.suspected = now
			d.become(m, Dead, now)
		}
	}
	for i, at := range d.wanted {
		if now.Sub(at) > wantAgain {
			delete(d.wanted, i)
		}
	}
}
