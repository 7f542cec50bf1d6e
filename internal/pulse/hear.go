package pulse

import (
	"bytes"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// hear acts on a message. It returns false where the stream is to be closed.
func (p *Pulse) hear(l *link, m message) bool {
	p.mu.Lock()
	if l.old != nil && !p.followLocked(l) || p.links[l.key] != l && !l.moved {
		p.mu.Unlock()
		return false // replaced
	}
	now := time.Now()
	l.heard = now
	if !l.linked && !l.moved {
		l.linked, l.counted = true, true
		p.members.Linked(l.key, now)
		p.stirLocked()
	}
	if len(m.nodes) > 0 {
		defer p.mu.Unlock()
		return p.hearNodesLocked(l, m.nodes[0], now)
	}
	welcome, deaf := l.welcome, now.Before(l.deaf)
	p.mu.Unlock()
	if !welcome && deaf {
		return true
	}
	rows := m.Rows
	if !welcome {
		if len(rows) > 0 { // a stranger introduces himself
			p.admit(rows[0].Row, age(rows[0].Age), l)
			rows = rows[1:]
		}
		if !p.introduced(l, now) {
			p.cfg.OnRefused(l.key, ReasonLinks)
			return true
		}
	}
	for _, n := range rows {
		p.admit(n.Row, age(n.Age), l)
	}
	for _, s := range m.Splices {
		p.join(s, l)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.Told {
		first := l.near == nil
		l.near = make(map[tag]struct{}, len(m.Linked))
		for _, b := range m.Linked {
			l.near[tag(b)] = struct{}{}
		}
		if first {
			p.catchUpLocked(l)
		}
	}
	p.compareLocked(l, m.Holds, m.All)
	return true
}

// hearNodesLocked hands what a neighbour says about nodes to membership.
func (p *Pulse) hearNodesLocked(l *link, msg []byte, now time.Time) bool {
	if len(msg) == 0 {
		return true
	}
	err := p.members.Hear(l.key, msg, now)
	p.stirLocked()
	if err != nil {
		p.refuseLocked(l.key, ReasonMember)
	}
	return err == nil
}

func age(ms uint32) time.Duration { return time.Duration(ms) * time.Millisecond }

// introduced welcomes a neighbour whose own row is wanted here; others are
// not listened to for a while.
func (p *Pulse) introduced(l *link, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case l.welcome: // by now
	case p.table.nodes[l.key] == nil:
		l.deaf = now.Add(deafness)
		return false
	default:
		p.welcomeLocked(l)
	}
	return true
}

// compareLocked sends a neighbour what it lacks and asks for what it has.
func (p *Pulse) compareLocked(l *link, holds []holding, all bool) {
	named := make(map[identity.Key]bool, len(holds))
	for _, h := range holds {
		k, e := p.table.byTag(h.Node)
		if tag(h.Node) == tagOf(p.self) {
			k, e = p.self, &p.own
		}
		o := h.order()
		if e == nil {
			if o != (record.Order{}) {
				p.wantLocked(l, tag(h.Node), record.Order{})
			}
			continue
		}
		named[k] = true
		switch {
		case k == l.key:
		case o == (record.Order{}):
			delete(l.has, k)
		default:
			l.has[k] = o
		}
		switch c := e.row.Order.Compare(o); {
		case c > 0 && k != l.key:
			l.due[k] = struct{}{}
		case c < 0 && k != p.self:
			p.wantLocked(l, tag(h.Node), e.row.Order)
		}
	}
	if all {
		for k := range p.table.nodes {
			if !named[k] && k != l.key {
				delete(l.has, k)
				l.due[k] = struct{}{}
			}
		}
	}
	l.rouse()
}

// wantLocked asks a neighbour about a node, unless nothing is wanted of it.
func (p *Pulse) wantLocked(l *link, t tag, held record.Order) {
	if _, deaf := p.deaf[t]; !deaf && len(l.asks) < MaxNodes {
		l.asks[t] = held
	}
}

// join makes a whole row of a splice, or asks for it.
func (p *Pulse) join(s spliceNews, l *link) {
	p.mu.Lock()
	_, e := p.table.byTag(s.Node)
	var old []byte
	if e != nil {
		if bytes.HasPrefix(e.row.Raw, s.Sig) {
			e.freshen(time.Now().Add(-age(s.Age)))
			l.has[e.row.Signer] = e.row.Order
			p.mu.Unlock()
			return
		}
		old = e.find(s.Base)
	}
	if old == nil {
		p.wantLocked(l, tag(s.Node), record.Order{})
	}
	p.mu.Unlock()
	if old == nil {
		return
	}
	raw, err := s.apply(old)
	if err != nil || !p.admit(raw, age(s.Age), l) {
		p.cfg.OnRefused(l.key, ReasonSplice)
		p.mu.Lock()
		p.wantLocked(l, tag(s.Node), record.Order{})
		p.mu.Unlock()
	}
}

// admit verifies a row and keeps it where it is news. It returns false where
// the row is not one at all. A nil link stands for another way.
func (p *Pulse) admit(raw []byte, age time.Duration, l *link) bool {
	var from identity.Key
	if l != nil {
		from = l.key
	}
	r, err := record.OpenRow(raw, p.id, time.Now())
	if err != nil {
		p.cfg.OnRefused(from, record.Reason(err))
		return false
	}
	if r.Signer == p.self {
		p.mu.Lock()
		newer := r.Order.Compare(p.own.row.Order) > 0
		p.mu.Unlock()
		if newer {
			p.cfg.OnRefused(from, ReasonTwin)
		}
		return true
	}
	wanted := p.cfg.Wanted(r)
	news, reason := p.keep(r, age, l, from, wanted)
	if reason != "" {
		p.cfg.OnRefused(from, reason)
	}
	if news {
		p.cfg.OnRow(r)
	}
	return true
}

func (p *Pulse) keep(r record.Row, age time.Duration, l *link, from identity.Key, wanted bool) (news bool, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if !wanted {
		if len(p.deaf) < MaxNodes {
			p.deaf[tagOf(r.Signer)] = now.Add(deafness)
		}
		p.asideLocked(r, age, from, now)
		return false, ReasonUnwanted
	}
	delete(p.aside, r.Signer)
	linked := from == r.Signer || p.links[r.Signer] != nil
	changed := true
	if e := p.table.nodes[r.Signer]; e != nil {
		changed = differs(said(e.row), said(r))
	}
	news, reason = p.table.put(r, age, from, linked, now)
	if l != nil && p.table.nodes[r.Signer] != nil && l.has[r.Signer].Compare(r.Order) < 0 {
		l.has[r.Signer] = r.Order
	}
	if news {
		p.passLocked(r, from, changed)
	}
	return news, reason
}

// said is what a row says.
func said(r record.Row) record.RowOffer {
	o := record.RowOffer{Capacity: r.Capacity, Cells: r.Cells}
	if r.Member != nil {
		o.Member = r.Member.Raw
	}
	return o
}

// aside is a row that was not wanted when it came.
type aside struct {
	row    record.Row
	signed time.Time
	from   identity.Key
}

// asideLocked keeps a row that is not wanted: its neighbour will not send it again,
// and what is wanted here may change.
func (p *Pulse) asideLocked(r record.Row, age time.Duration, from identity.Key, now time.Time) {
	if old, ok := p.aside[r.Signer]; ok && old.row.Order.Compare(r.Order) >= 0 {
		return
	} else if !ok && len(p.aside) >= maxAside {
		for k := range p.aside {
			delete(p.aside, k)
			break
		}
	}
	p.aside[r.Signer] = aside{r, now.Add(-age), from}
}

// reconsider takes the rows that are wanted by now, and listens to their nodes.
func (p *Pulse) reconsider(now time.Time) {
	p.mu.Lock()
	var all []aside
	for k, a := range p.aside {
		if now.Sub(a.signed) >= life(a.row) {
			delete(p.aside, k)
		} else {
			all = append(all, a)
		}
	}
	p.mu.Unlock()
	for _, a := range all {
		if !p.cfg.Wanted(a.row) {
			continue
		}
		p.mu.Lock()
		delete(p.deaf, tagOf(a.row.Signer))
		l := p.links[a.from]
		p.mu.Unlock()
		p.admit(a.row.Raw, now.Sub(a.signed), l)
		if l != nil && l.key == a.row.Signer {
			p.introduced(l, now)
		}
	}
}

// passLocked passes a row on to some of the neighbours that its node has no
// stream with; where it says something new, the others are asked later whether they have it.
func (p *Pulse) passLocked(r record.Row, from identity.Key, changed bool) {
	if by := p.table.nodes[r.Signer].brought; by != r.Signer && p.table.brought[by] > maxPassed {
		return
	}
	far := slices.DeleteFunc(p.toldLocked(), func(l *link) bool { return l.key == from || !p.farLocked(l, r) })
	p.rng.Shuffle(len(far), func(i, j int) { far[i], far[j] = far[j], far[i] })
	eager := fanout
	if !changed {
		eager = fanoutSame
	}
	for i, l := range far {
		if i < eager {
			l.due[r.Signer] = struct{}{}
			l.rouse()
		} else if changed {
			l.late[r.Signer] = struct{}{}
		}
	}
}

// farLocked reports whether a neighbour may hear of a row only from here.
func (p *Pulse) farLocked(l *link, r record.Row) bool {
	_, near := l.near[tagOf(r.Signer)]
	if signer := p.links[r.Signer]; signer != nil && !near {
		_, near = signer.near[tagOf(l.key)]
	}
	return !near && l.near != nil && l.key != r.Signer && l.has[r.Signer].Compare(r.Order) < 0
}

// catchUpLocked sends a neighbour what came before it told who its neighbours are.
func (p *Pulse) catchUpLocked(l *link) {
	for k, e := range p.table.nodes {
		if p.farLocked(l, e.row) {
			l.due[k] = struct{}{}
		}
	}
	l.rouse()
}

// remindLocked asks a neighbour whether it has the rows that others were sent.
func (p *Pulse) remindLocked(l *link) {
	for k := range l.late {
		if e := p.table.nodes[k]; e != nil && p.farLocked(l, e.row) {
			l.asks[tagOf(k)] = e.row.Order
			l.rouse()
		}
	}
	clear(l.late)
}

// compose takes the next message for a neighbour.
func (p *Pulse) compose(l *link) (m message, some bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for size := 0; len(l.unsent) > 0 && size < MaxMessage; l.unsent = l.unsent[1:] {
		m.nodes = append(m.nodes, l.unsent[0])
		size += len(l.unsent[0])
		l.bytes -= len(l.unsent[0])
	}
	if !l.welcome {
		return m, len(m.nodes) > 0
	}
	now, room := time.Now(), MaxMessage-64
	if _, due := l.due[p.self]; due { // first of all: it introduces this node
		p.addLocked(&m, l, p.self, &p.own, now, &room)
	}
	if l.tell {
		m.Told, l.tell = true, false
		for _, near := range p.toldLocked() {
			t := tagOf(near.key)
			m.Linked = append(m.Linked, t[:])
			room -= tagSize + 1
		}
	}
	hold := func(t tag, o record.Order) {
		m.Holds = append(m.Holds, holding{Node: t[:], Incarnation: o.Incarnation, Sequence: o.Sequence})
		room -= holdSize
	}
	switch {
	case l.all && room > len(p.table.nodes)*holdSize:
		m.All, l.all = true, false
		for k, e := range p.table.nodes {
			hold(tagOf(k), e.row.Order)
		}
		clear(l.asks)
	default:
		for t, o := range l.asks {
			if room > holdSize && len(m.Holds) < maxAsks {
				hold(t, o)
				delete(l.asks, t)
			}
		}
	}
	for k := range l.due {
		if len(m.Rows) == maxNews || len(m.Splices) == maxNews || room < record.MaxRowSize+rowExtra {
			break
		}
		if e := p.table.nodes[k]; e != nil {
			p.addLocked(&m, l, k, e, now, &room)
		} else {
			delete(l.due, k)
		}
	}
	return m, m.some() || len(m.nodes) > 0
}

// Bytes of a message that things take, at most.
const (
	holdSize = 1 + 1 + tagSize + 9 + 9
	rowExtra = 1 + 5 + 3
)

// addLocked adds the row of a node, as a splice where the neighbour is known to
// hold an earlier one.
func (p *Pulse) addLocked(m *message, l *link, k identity.Key, e *entry, now time.Time, room *int) {
	delete(l.due, k)
	r := e.row
	if r.Raw == nil || l.has[k].Compare(r.Order) >= 0 {
		return
	}
	var s spliceNews
	old := e.at(l.has[k])
	if old != nil {
		s = splice(old, r.Raw)
	}
	if t := tagOf(k); old != nil && s.size() < len(r.Raw) {
		s.Node, s.Age = t[:], millis(now.Sub(e.signed))
		m.Splices = append(m.Splices, s)
		*room -= s.size()
	} else {
		m.Rows = append(m.Rows, fullNews{Age: millis(now.Sub(e.signed)), Row: r.Raw})
		*room -= len(r.Raw) + rowExtra
	}
	l.has[k] = r.Order
}
