package swim

import (
	"slices"
	"time"

	"cell.network/cell/internal/record"
)

// Learn takes a verified contact that came another way: from the LAN or the
// disk. It reports whether it is news.
func (d *Detector) Learn(c record.Contact, now time.Time) bool { return d.learn(&c, nil, word{}, now) }

// learn takes a verified contact. Of a node that is not known a neighbour may
// only speak for itself; others have a word in it, see [hearsay].
func (d *Detector) learn(c *record.Contact, from *link, w word, now time.Time) bool {
	i := idOf(c.Raw)
	if c.Signer == d.cfg.Self {
		if !d.leaving() && (d.me.contact == nil || c.Order.Compare(d.me.contact.Order) > 0) { // of an earlier life, by a clock ahead
			d.refute = c.Order
		}
		return false
	}
	m := d.members[c.Signer]
	if m == nil {
		if from == nil || from.node == c.Signer || d.cfg.gullible {
			return d.meet(c, from, now)
		}
		return d.rumoured(c, from, w, now)
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
		d.lose(m)
		return d.meet(c, from, now)
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
	if changed || was == Dead {
		m.tried = time.Time{}
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

// meet takes a node into the table, where there is room. For one that a stream
// leads to room is made at the cost of those that others have told of.
func (d *Detector) meet(c *record.Contact, from *link, now time.Time) bool {
	linked := d.links[c.Signer] != nil
	groups := d.groupsOf(c)
	for _, g := range groups {
		if d.groups[g] >= d.cfg.PerGroup && !d.evict(func(m *member) bool { return slices.Contains(m.groups, g) }, linked) {
			d.refuse(idOf(c.Raw), now)
			return false
		}
	}
	if most := d.cfg.MaxMembers; len(d.order) >= most {
		if c.Left {
			return false // a stranger's goodbye pushes nobody out
		}
		if !d.evict(func(*member) bool { return true }, linked) && !(linked && len(d.order) < most+spare) {
			d.refuse(idOf(c.Raw), now)
			return false
		}
	}
	d.quash(c.Signer)
	m := &member{contact: c, id: idOf(c.Raw), groups: groups}
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

// groupsOf returns the different groups that a contact counts in.
func (d *Detector) groupsOf(c *record.Contact) []string {
	if d.cfg.Group == nil || c.Left {
		return nil
	}
	groups := slices.Clone(d.cfg.Group(*c))
	slices.Sort(groups)
	return slices.Compact(groups)
}

// regroupable puts a member into the groups of its next contact, if there is room.
func (d *Detector) regroupable(m *member, c *record.Contact) bool {
	if d.cfg.Group == nil || c.Left {
		return true
	}
	groups := d.groupsOf(c)
	for _, g := range groups {
		if d.groups[g] >= d.cfg.PerGroup && !slices.Contains(m.groups, g) {
			return false
		}
	}
	d.regroup(m, groups)
	return true
}

// evict makes room among these: the longest gone is forgotten, or else, if
// others may be, one that has never said anything to this node.
func (d *Detector) evict(of func(*member) bool, others bool) bool {
	if i := slices.IndexFunc(d.gone, of); i >= 0 {
		d.remove(d.gone[i])
		return true
	}
	if !others || len(d.order) == 0 {
		return false
	}
	for n, from := 0, d.cfg.Rand.IntN(len(d.order)); n < len(d.order); n++ {
		m := d.order[(from+n)%len(d.order)]
		if m.met || m.link != nil || m.state.Gone() || !of(m) {
			continue
		}
		d.lose(m)
		return true
	}
	return false
}

// lose takes a node out of the table that may well be alive.
func (d *Detector) lose(m *member) {
	if m.probe != nil {
		d.end(m.probe)
	}
	d.changes = append(d.changes, Change{m.contact.Signer, m.state, Unknown, *m.contact})
	d.remove(m)
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
	for _, r := range slices.Clone(d.rumours) {
		if now.Sub(r.since) > rumourLife {
			d.quash(r.contact.Signer)
			d.refuse(r.id, now)
		}
	}
	for i, w := range d.wanted {
		if now.Sub(w.at) > wantAgain {
			delete(d.wanted, i)
		}
	}
}
