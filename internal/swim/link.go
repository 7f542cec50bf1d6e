package swim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// What is said on one stream, and taken from it.
const (
	pacing      = 20 * time.Millisecond  // between two messages, where one does not do
	lag         = 250 * time.Millisecond // before contacts are named that the neighbour may get otherwise
	verifyRate  = 50                     // contacts a second that are verified; others are ignored
	verifyBurst = 4096 + spare           // of them at once: a whole table
	rescueRate  = 20                     // the same, of suspects alone: no flood of others' contacts drowns their defence
	rescueBurst = 64
	bulkRate    = 1                // long messages a second, to one neighbour
	bulkBurst   = 160              // of them at once: a whole table
	maxQueue    = 1024             // suspicions that wait to be sent
	maxNamed    = 512              // ids of a kind in one message
	closing     = 10 * time.Second // in which a stream ends after that was said
	shunned     = 10 * time.Minute // in which a node that said junk is not picked
)

// link is a stream to a neighbour.
type link struct {
	node   identity.Key
	member *member // nil before its contact is known
	since  time.Time
	heard  time.Time // when it last said something
	ours   bool      // this node had it dialled
	picked bool      // this node chose it as a neighbour
	closed time.Time // when one end said that it will end the stream, or zero
	warned time.Time // when it was told that it is taken for dead
	verify pace
	bulk   pace // of long messages to it

	rescues  pace // of contacts of suspects, beyond verify
	compares pace // of comparisons that it begins or goes on with

	rtt    time.Duration // smoothed; 0 is unknown
	nonce  uint64        // of the ping that is not answered yet, or 0
	pinged time.Time
	proved time.Time // when the last ping was sent that was answered
	missed int       // pings in a row without an answer

	// What is to be said.
	out     message
	accuses []accusal
	wants   []id
	about   uint64 // buckets whose contacts are to be listed
	full    []*member
	names   []*member
	queued  map[*member]bool // what is in full (true) or names (false)
	urgent  bool             // something is due at once
	namesAt time.Time        // when names are due
	pause   time.Time        // nothing is sent before
	dirty   bool             // listed in Detector.dirty
}

// ready returns when there will be something to send.
func (l *link) ready() time.Time {
	if l.urgent || l.namesAt.Before(l.pause) {
		return l.pause
	}
	return l.namesAt
}

// say returns what is said to a neighbour next, to add to it.
func (d *Detector) say(l *link) *message {
	l.urgent = true
	d.soil(l)
	return &l.out
}

func (d *Detector) soil(l *link) {
	if !l.dirty {
		l.dirty = true
		d.dirty = append(d.dirty, l)
	}
}

// Linked tells that a stream leads to node, whoever opened it.
func (d *Detector) Linked(node identity.Key, now time.Time) {
	if node == d.cfg.Self {
		return
	}
	l := &link{node: node, since: now, heard: now, queued: make(map[*member]bool)}
	if old := d.links[node]; old != nil { // another stream took its place
		l.ours, l.picked, l.rtt = old.ours, old.picked, old.rtt
		d.unlink(old)
	}
	why := d.dialled(node)
	l.ours = l.ours || why != 0
	d.links[node] = l
	d.list = append(d.list, l)
	d.tending = now
	if d.me.contact != nil {
		d.queue(l, d.me, true, now)
	}
	if m := d.members[node]; m != nil {
		l.member, m.link = m, l
		if m.state == Suspect || m.state == Dead {
			l.warned = now
			d.accuseTo(l, d.suspicion(m.id)) // it will refute that
		}
		if m.probe != nil || why&forFavour != 0 {
			d.say(l).Ping = d.number() // a stream alone proves nothing
		}
	}
	if why&(forPick|forMeeting) != 0 {
		l.picked, d.extra = true, 0
	}
	d.greet(l, now)
}

// Release tells that the stream to node, which was opened for another purpose, is
// of no use for that any more: membership has it closed in good time, unless it
// needs it itself.
func (d *Detector) Release(node identity.Key, now time.Time) {
	l := d.links[node]
	switch {
	case l == nil:
	case l.member == nil: // it takes no part
		d.drop(l, now)
	default:
		l.ours, d.tending = true, now
	}
}

// Unlinked tells that the stream to node has ended. That is a reason to probe
// it at once, not a verdict.
func (d *Detector) Unlinked(node identity.Key, now time.Time) {
	l := d.links[node]
	if l == nil {
		return
	}
	m := l.member
	d.unlink(l)
	d.tending = now
	if m == nil || m.state.Gone() || d.leaving() || now.Sub(l.closed) < closing {
		return
	}
	d.doubt(m, now)
}

func (d *Detector) unlink(l *link) {
	delete(d.links, l.node)
	same := func(o *link) bool { return o == l }
	d.list = slices.DeleteFunc(d.list, same)
	d.dirty = slices.DeleteFunc(d.dirty, same)
	if l.member != nil {
		l.member.link = nil
	}
}

// Hear takes a message that came over the stream to from. After an error the
// stream must be closed: an honest node does not say such a thing.
func (d *Detector) Hear(from identity.Key, msg []byte, now time.Time) error {
	l := d.links[from]
	if l == nil {
		return nil // ended in between
	}
	m, err := parse(msg)
	if err == nil {
		err = d.hear(l, m, now)
	}
	if err != nil {
		if l.member != nil {
			l.member.shunned = now.Add(shunned)
		}
		return fmt.Errorf("hear %s: %w", from.Short(), err)
	}
	return nil
}

func (d *Detector) hear(l *link, m message, now time.Time) error {
	l.heard, l.missed = now, 0
	for _, raw := range m.Contacts {
		if err := d.take(l, raw, now); err != nil {
			return err
		}
	}
	if o := l.member; o != nil {
		o.met = true
		d.answered(o, now)
		if o.state == Dead && now.Sub(l.warned) > wantAgain { // it is not, but others need its own word for that
			l.warned = now
			d.accuseTo(l, d.suspicion(o.id))
		}
	}
	if m.Bye {
		l.closed = now
	}
	if m.Ping != 0 && len(l.out.Acks) < maxAcks {
		o := d.say(l)
		o.Acks = append(o.Acks, m.Ping)
	}
	for _, n := range m.Acks {
		d.acked(l, n, now)
	}
	for _, a := range m.Accuses {
		if err := d.accused(l, a, now); err != nil {
			return err
		}
	}
	for _, a := range m.Asks {
		d.favour(l, a, now)
	}
	for _, t := range m.Tells {
		d.told(l, t, now)
	}
	d.named(l, m, now)
	return nil
}

// awaited reports whether a contact may be what clears its node of a suspicion.
func (d *Detector) awaited(raw []byte) bool {
	k, ok := record.PeekSigner(raw)
	m := d.members[k]
	return ok && m != nil && (m.state == Suspect || m.state == Dead)
}

// take verifies a contact, unless it is known.
func (d *Detector) take(l *link, raw []byte, now time.Time) error {
	i := idOf(raw)
	if m := d.ids[i]; m != nil {
		if m.id == i {
			delete(l.queued, m)
			d.vouch(m, now)
		} else {
			d.queue(l, m, true, now)
		}
		return nil
	}
	if r := d.heardOf[i]; r != nil && l.node != r.contact.Signer {
		d.confirm(r, l, now)
		return nil
	}
	signer, _ := record.PeekSigner(raw)
	if d.useless(i, now) && signer != l.node || slices.Contains(d.mine, i) ||
		!l.verify.spend(verifyRate, verifyBurst, now) && !(d.awaited(raw) && l.rescues.spend(rescueRate, rescueBurst, now)) {
		return nil
	}
	c, err := d.cfg.open(raw, now)
	switch {
	case errors.Is(err, record.ErrStale), errors.Is(err, record.ErrClock):
		d.refuse(i, now)
		return nil
	case err != nil:
		return err
	}
	var w word
	if o := d.wanted[i]; o != nil {
		w = o.word
		delete(d.wanted, i)
	}
	d.learn(c, l, w, now)
	return nil
}

// compose makes the messages that are due.
func (d *Detector) compose(now time.Time) []Envelope {
	var all []Envelope
	left := d.dirty[:0]
	for _, l := range d.dirty {
		if !now.Before(l.ready()) {
			b := d.message(l, now).encode()
			if len(b) > 1 {
				all = append(all, Envelope{l.node, b})
			}
			l.pause = now.Add(pacing)
			if len(b) > MaxMessage/2 && !l.bulk.spend(bulkRate, bulkBurst, now) {
				l.pause = now.Add(time.Second / bulkRate)
			}
		}
		if l.dirty = l.urgent || len(l.names) > 0; l.dirty {
			left = append(left, l)
		}
	}
	clear(d.dirty[len(left):])
	d.dirty = left
	return all
}

// Bytes of a message that things take, at most.
const (
	accusalSize = 1 + 9 + 2 + identity.KeySize + 2 + identity.SignatureSize
	smallSize   = 1200 // pings, answers, favours, all heads
)

// message takes what is to be said to a neighbour, as much as fits. The rest is
// left for the next one.
func (d *Detector) message(l *link, now time.Time) message {
	m, room := l.out, MaxMessage-smallSize-len(l.out.Buckets)
	l.out, l.urgent = message{}, false
	if m.Ping != 0 {
		l.nonce, l.pinged = m.Ping, now
	}
	n := min(len(l.accuses), maxAccuses, room/accusalSize)
	m.Accuses, l.accuses = l.accuses[:n:n], l.accuses[n:]
	room -= n * accusalSize
	n = min(len(l.wants), maxNamed, room/idSize)
	for _, i := range l.wants[:n] {
		m.Wants = append(m.Wants, i[:]...)
	}
	l.wants = l.wants[n:]
	room -= n * idSize
	if l.about != 0 {
		m.About, m.Holds = d.holdings(&l.about, room)
		room -= len(m.Holds)
	}
	for n = 0; n < len(l.full) && len(m.Contacts) < maxContacts; n++ {
		o := l.full[n]
		if full, ok := l.queued[o]; !ok || !full {
			continue
		}
		if room -= len(o.contact.Raw) + 3; room < 0 {
			break
		}
		m.Contacts = append(m.Contacts, o.contact.Raw)
		delete(l.queued, o)
	}
	l.full = l.full[n:]
	if len(l.names) > 0 && !now.Before(l.namesAt) {
		for n = 0; n < len(l.names) && n < maxNamed && room >= idSize; n++ {
			o := l.names[n]
			if full, ok := l.queued[o]; ok && !full {
				m.Haves = append(m.Haves, o.id[:]...)
				delete(l.queued, o)
				room -= idSize
			}
		}
		l.names = l.names[n:]
	}
	l.urgent = len(l.accuses)+len(l.wants)+len(l.full) > 0 || l.about != 0
	return m
}
