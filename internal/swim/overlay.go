package swim

import (
	"math/bits"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
)

// Whom a node links with.
const (
	allUpTo     = 16               // nodes of a network, that all link with each other
	maxDials    = 8                // for new neighbours at a time
	maxPending  = 48               // dials of any kind at a time
	dialTime    = 15 * time.Second // after which nothing is expected of a dial any more
	yield       = 3 * time.Second  // that the higher key waits for the lower one to dial
	redial      = 30 * time.Second // between two dials to a node that did not answer
	linger      = 5 * time.Second  // that a stream is kept beyond its use
	tendEvery   = time.Second
	mixEvery    = 5 * time.Minute // between two new neighbours
	meetEvery   = 5 * time.Second // between two dials to a dead node, by all together
	recent      = time.Hour       // for which that is so; later it is
	rarely      = 30              // times rarer
	revivalTime = 10 * time.Second
)

// purpose says what a dial is for.
type purpose uint8

const (
	forPick purpose = 1 << iota
	forProbe
	forFavour
	forMeeting
	forProof // that it is there
)

// dial is one that was asked for.
type dial struct {
	node identity.Key
	why  purpose
	at   time.Time
}

// dial has a stream opened to a member, if that makes sense.
func (d *Detector) dial(m *member, why purpose, now time.Time) bool {
	if m.link != nil || len(m.contact.Addrs) == 0 {
		return false
	}
	for _, o := range d.dials {
		if o.node == m.contact.Signer {
			o.why |= why
			return true
		}
	}
	if len(d.dials) >= maxPending {
		return false
	}
	m.tried = now
	d.dials = append(d.dials, &dial{m.contact.Signer, why, now})
	d.toDial = append(d.toDial, *m.contact)
	return true
}

// dialled ends a dial and returns what it was for.
func (d *Detector) dialled(node identity.Key) (why purpose) {
	d.dials = slices.DeleteFunc(d.dials, func(o *dial) bool {
		if o.node == node {
			why = o.why
		}
		return o.node == node
	})
	return why
}

// Failed tells that a dial asked for by [Output].Dial came to nothing.
func (d *Detector) Failed(node identity.Key, now time.Time) {
	why, m := d.dialled(node), d.members[node]
	if r := d.about[node]; why != 0 && r != nil && (d.parted() || r.by.IsZero()) { // else one word suffices, see sift
		d.quash(node)
		d.refuse(r.id, now)
	}
	if why == 0 || m == nil {
		return
	}
	d.tending = now
	d.favours = slices.DeleteFunc(d.favours, func(f favour) bool {
		if f.member == m && m.link == nil {
			d.tell(f, false)
			return true
		}
		return false
	})
	switch p := m.probe; {
	case m.link != nil:
	case p != nil && !p.indirect:
		p.deadline = now
	case p == nil && why&forPick != 0 && m.state == Alive && (m.refuted.IsZero() || now.Sub(m.refuted) > amnesty):
		d.begin(&probe{member: m, deadline: now}) // others try it
	}
}

// drop has a stream closed.
func (d *Detector) drop(l *link, now time.Time) {
	l.closed, l.ours, l.picked = now, false, false
	d.say(l).Bye = true
	d.toDrop = append(d.toDrop, l.node)
}

// tend looks after the neighbours.
func (d *Detector) tend(now time.Time) {
	if now.Before(d.tending) {
		return
	}
	d.tending = now.Add(d.vary(tendEvery))
	d.dials = slices.DeleteFunc(d.dials, func(o *dial) bool { return now.Sub(o.at) > dialTime })
	if d.leaving() {
		return
	}
	d.sift(now)
	n := d.live + len(d.rumours) + 1
	if n > allUpTo {
		d.prune(bits.Len(uint(n-1))+2, now)
	}
	d.pick(n, now)
	if now.Before(d.meeting) {
		return
	}
	if !d.meeting.IsZero() && d.dead > 0 && d.cfg.Rand.IntN(d.live+1) < d.dead {
		d.revive(now)
	}
	d.meeting = now.Add(d.vary(meetEvery))
}

// prune lets go of neighbours that there are too many of, and of streams that
// have served their purpose.
func (d *Detector) prune(want int, now time.Time) {
	picks := 0
	var oldest *link
	for _, l := range d.list {
		if l.picked && l.member != nil && l.member.state.Gone() && now.Sub(l.since) > revivalTime {
			l.picked = false
		}
		if l.picked {
			picks++
			if oldest == nil || l.since.Before(oldest.since) {
				oldest = l
			}
		}
	}
	if picks > want {
		oldest.picked = false
	}
	for _, l := range d.list {
		if l.ours && !l.picked && now.Sub(l.since) > linger && (l.member == nil || l.member.probe == nil) {
			d.drop(l, now)
		}
	}
}

// pick dials new neighbours.
func (d *Detector) pick(n int, now time.Time) {
	pending := 0
	for _, o := range d.dials {
		if o.why&forPick != 0 {
			pending++
		}
	}
	if n <= allUpTo {
		all := slices.Clone(d.order)
		for _, r := range d.rumours {
			all = append(all, &r.member)
		}
		for _, m := range all {
			k := m.contact.Signer
			if !m.state.Gone() && m.link == nil && pending < maxDials && d.fresh(m, now) &&
				(string(d.cfg.Self[:]) < string(k[:]) || now.Sub(m.since) > yield) && d.dial(m, forPick, now) {
				pending++
			}
		}
		return
	}
	if d.mixing.IsZero() {
		d.mixing = now.Add(d.vary(mixEvery))
	}
	if !now.Before(d.mixing) {
		d.extra, d.mixing = 1, now.Add(d.vary(mixEvery))
	}
	lack := bits.Len(uint(n-1)) + 2 + d.extra - pending
	for _, l := range d.list {
		if l.picked {
			lack--
		}
	}
	for tries := 0; lack > 0 && pending < maxDials && tries < 4*maxDials; tries++ {
		m := d.candidate()
		if (m.state == Alive || m.state == Unknown) && m.link == nil && d.fresh(m, now) && d.dial(m, forPick, now) {
			pending++
			lack--
		}
	}
}

// candidate returns any member, or any of those that one neighbour told of.
func (d *Detector) candidate() *member {
	n := len(d.rumours)
	if n == 0 || len(d.order) > 0 && d.cfg.Rand.IntN(2) == 0 {
		return d.order[d.cfg.Rand.IntN(len(d.order))]
	}
	return &d.rumours[d.cfg.Rand.IntN(n)].member
}

// fresh reports whether a member was not tried of late, and may be.
func (d *Detector) fresh(m *member, now time.Time) bool {
	return !now.Before(m.shunned) && (m.tried.IsZero() || now.Sub(m.tried) > redial)
}

// revive dials one of the dead: a network that was cut in two, or a node that
// was away, is whole again as soon as one stream leads across.
func (d *Detector) revive(now time.Time) {
	for range 8 {
		m := d.gone[d.cfg.Rand.IntN(len(d.gone))]
		if m.state != Dead {
			continue
		}
		if now.Sub(m.since) < recent || d.cfg.Rand.IntN(rarely) == 0 {
			d.dial(m, forMeeting, now)
		}
		return
	}
}
