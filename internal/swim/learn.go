package swim

import (
	"slices"
	"time"

	"cell.network/cell/internal/record"
)

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
	pays := &m.news
	if m.state == Suspect || m.state == Dead {
		pays = &m.refutals
	}
	if !(c.Left && m.state.live()) && !pays.spend(newsRate, newsBurst, now) {
		return false
	}
	if !d.regroupable(m, c) { // there is no room where it is now; to hold on to where it was would be to bury it
		d.refuse(i, now)
		d.changes = append(d.changes, Change{c.Signer, m.state, Alive, *c})
		d.remove(m)
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
		d.refuse(idOf(c.Raw), now)
		return false
	}
	most := d.cfg.MaxMembers
	if c.Left && len(d.order) >= most {
		return false // a stranger's goodbye pushes nobody out
	}
	if d.links[c.Signer] != nil {
		most += spare
	}
	if len(d.order) >= most && !d.evict(func(*member) bool { return true }) {
		d.refuse(idOf(c.Raw), now)
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
