package swim

import (
	"slices"
	"time"

	"cell.network/cell/internal/identity"
)

// How long an answer may take. A lost packet comes again after about a round
// trip more, the second time after two: two losses in a row are no failure.
const (
	firstRTT   = 200 * time.Millisecond // before anything was measured
	shortRTT   = 20 * time.Millisecond  // below it, probes are three times as frequent
	pingBase   = 250 * time.Millisecond // and four round trips: of a ping
	dialBase   = 500 * time.Millisecond // and eight: of a stream
	askBase    = 300 * time.Millisecond // and four: of a neighbour's word on another
	tryBase    = 200 * time.Millisecond // and two: of such a try, so that the word is in time
	maxRTT     = time.Second            // that is believed
	helpers    = 3                      // neighbours asked to try
	maxFavours = 32                     // tries for others at a time
	ownFavours = 4                      // of these, for one neighbour
	maxHealth  = 8
)

// probe waits for a sign of life of a member.
type probe struct {
	member   *member
	indirect bool // others are trying
	quick    bool // others doubt it too: no time for that
	asked    []identity.Key
	nonce    uint64
	deadline time.Time
}

// favour is a try for a neighbour.
type favour struct {
	from     identity.Key
	nonce    uint64
	member   *member
	deadline time.Time
}

// scaled stretches a span as far as this node distrusts itself.
func (d *Detector) scaled(span time.Duration) time.Duration {
	return span * time.Duration(1+d.health)
}

func (d *Detector) worse() { d.health = min(d.health+1, maxHealth) }

// number returns a number for the next ping or request.
func (d *Detector) number() uint64 {
	d.nonce = d.nonce%0xffff + 1
	return d.nonce
}

// probe pings who was silent for longest and ends what has waited long enough.
func (d *Detector) probe(now time.Time) {
	for _, p := range slices.Clone(d.probes) {
		if !now.Before(p.deadline) {
			d.overdue(p, now)
		}
	}
	d.favours = slices.DeleteFunc(d.favours, func(f favour) bool {
		if now.Before(f.deadline) {
			return false
		}
		d.tell(f, false)
		return true
	})
	if now.Before(d.probing) {
		return
	}
	d.measure()
	period := d.cfg.Period
	if d.rtt < shortRTT {
		period /= 3
	}
	period = d.vary(d.scaled(period))
	var oldest *link
	for _, l := range d.list {
		if m := l.member; m != nil && m.probe == nil && m.state.live() && (oldest == nil || l.heard.Before(oldest.heard)) {
			oldest = l
		}
	}
	d.probing = now.Add(period)
	switch {
	case oldest == nil || d.leaving():
	case now.Sub(oldest.heard) < period*9/10:
		d.probing = oldest.heard.Add(period)
	default:
		d.ping(oldest, false, now)
	}
}

// ping begins a probe of a neighbour.
func (d *Detector) ping(l *link, quick bool, now time.Time) {
	rtt := l.rtt
	if rtt == 0 {
		rtt = d.rtt
	}
	d.say(l).Ping = d.number()
	d.begin(&probe{member: l.member, quick: quick, deadline: now.Add(d.scaled(pingBase + 4*rtt))})
}

func (d *Detector) begin(p *probe) {
	p.member.probe = p
	d.probes = append(d.probes, p)
}

func (d *Detector) end(p *probe) {
	p.member.probe = nil
	d.probes = slices.DeleteFunc(d.probes, func(o *probe) bool { return o == p })
}

// doubt probes a member that a stream does not lead to any more.
func (d *Detector) doubt(m *member, now time.Time) {
	if m.probe != nil {
		return
	}
	p := &probe{member: m, deadline: now}
	if d.dial(m, forProbe, now) {
		p.deadline = now.Add(d.scaled(dialBase + 8*d.rtt))
	}
	d.begin(p)
}

// overdue goes on with a probe that nothing came of.
func (d *Detector) overdue(p *probe, now time.Time) {
	m := p.member
	if m.link != nil && !p.indirect {
		m.link.missed++
	}
	if !m.state.live() || d.members[m.contact.Signer] != m {
		d.end(p)
		return
	}
	if p.indirect || p.quick {
		if len(p.asked) > 0 { // those asked did not even say no: perhaps it is this node that is slow
			d.worse()
		}
		d.end(p)
		d.accuse(m, now)
		return
	}
	p.indirect, p.nonce = true, d.number()
	p.deadline = now.Add(d.scaled(askBase + 4*d.rtt))
	for _, n := range d.cfg.Rand.Perm(len(d.list)) {
		l := d.list[n]
		if len(p.asked) == helpers {
			break
		}
		if l.member == nil || l.member == m || l.member.state != Alive || l.member.probe != nil || len(l.out.Asks) == maxAsks {
			continue
		}
		o := d.say(l)
		o.Asks = append(o.Asks, ask{Nonce: p.nonce, ID: slices.Clone(m.id[:])})
		p.asked = append(p.asked, l.node)
	}
}

// answered takes a sign of life of a member, from itself.
func (d *Detector) answered(m *member, now time.Time) {
	if m.probe != nil {
		d.end(m.probe)
	}
	d.favours = slices.DeleteFunc(d.favours, func(f favour) bool {
		if f.member == m {
			d.tell(f, true)
		}
		return f.member == m
	})
}

func (d *Detector) acked(l *link, nonce uint64, now time.Time) {
	if nonce != l.nonce || nonce == 0 {
		return
	}
	l.nonce = 0
	d.health = max(0, d.health-1)
	rtt := min(max(now.Sub(l.pinged), time.Microsecond), maxRTT)
	if l.rtt != 0 {
		rtt = (7*l.rtt + rtt) / 8
	}
	l.rtt = rtt
}

// measure finds the round trip in the middle.
func (d *Detector) measure() {
	all := make([]time.Duration, 0, len(d.list))
	for _, l := range d.list {
		if l.rtt != 0 {
			all = append(all, l.rtt)
		}
	}
	if len(all) > 0 {
		slices.Sort(all)
		d.rtt = all[len(all)/2]
	}
}

// favour tries a node for a neighbour.
func (d *Detector) favour(l *link, a ask, now time.Time) {
	f := favour{from: l.node, nonce: a.Nonce, member: d.ids[id(a.ID)]}
	busy := 0
	for _, o := range d.favours {
		if o.from == l.node {
			busy++
		}
	}
	m := f.member
	switch {
	case m == nil || !m.state.live() || busy >= ownFavours || len(d.favours) >= maxFavours:
		d.tell(f, false)
		return
	case m.link != nil:
		if m.link.out.Ping == 0 {
			d.say(m.link).Ping = d.number()
		}
	case !d.dial(m, forFavour, now):
		d.tell(f, false)
		return
	}
	f.deadline = now.Add(tryBase + 2*d.rtt)
	d.favours = append(d.favours, f)
}

// tell says what came of a favour.
func (d *Detector) tell(f favour, ok bool) {
	if l := d.links[f.from]; l != nil && len(l.out.Tells) < maxAsks {
		o := d.say(l)
		o.Tells = append(o.Tells, tell{Nonce: f.nonce, OK: ok})
	}
}

// elsewhere takes a sign of life of a member that did not come over its stream:
// where it keeps silent there, the stream is of no use.
func (d *Detector) elsewhere(m *member, now time.Time) {
	l := m.link
	switch {
	case l == nil:
	case l.missed > 1:
		d.drop(l, now)
	default:
		l.heard = now
	}
}

// told takes what came of a favour that this node asked for.
func (d *Detector) told(l *link, t tell, now time.Time) {
	for _, p := range d.probes {
		i := slices.Index(p.asked, l.node)
		if !p.indirect || p.nonce != t.Nonce || i < 0 {
			continue
		}
		if p.asked = slices.Delete(p.asked, i, i+1); t.OK {
			d.end(p)
			d.elsewhere(p.member, now)
		}
		return
	}
}
