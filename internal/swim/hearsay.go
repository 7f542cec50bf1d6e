package swim

import (
	"slices"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// What others say of nodes that have never said anything to this one.
const (
	rumourLife = 10 * time.Minute
	rumourAge  = 5 * time.Second // after which it is looked into
)

// hearsay are the nodes that one neighbour has told of, and no more: anyone can
// make them up. They are no members: nobody is told of them, here or elsewhere.
// One becomes a member when it says something itself on a stream to this node,
// which picks its neighbours among these nodes, too, or when a second neighbour
// tells of it. The word of those neighbours counts that this node has picked, in a
// small network of all, and of two only where they live in different parts of the
// address space. Where there are no two such, that of one must do.
type hearsay struct {
	rumours []*rumour
	about   map[identity.Key]*rumour
	heardOf map[id]*rumour
}

// rumour is a node that was told of.
type rumour struct {
	member
	word
	since time.Time
}

// word is whose word there is for a contact.
type word struct {
	by     identity.Key // zero: of nobody whose word counts
	groups []string     // that it lives in
	enough bool         // another one's, too
}

// want is a contact that a neighbour was asked for.
type want struct {
	at time.Time
	word
}

func newHearsay() hearsay {
	return hearsay{about: make(map[identity.Key]*rumour), heardOf: make(map[id]*rumour)}
}

// quash ends a rumour.
func (h *hearsay) quash(node identity.Key) {
	r := h.about[node]
	if r == nil {
		return
	}
	last := h.rumours[len(h.rumours)-1]
	h.rumours[r.place], last.place = last, r.place
	h.rumours = h.rumours[:len(h.rumours)-1]
	delete(h.about, node)
	delete(h.heardOf, r.id)
}

// counts reports whether a neighbour's word on others does.
func (d *Detector) counts(l *link) bool {
	return l.member != nil && (l.ours || d.live < allUpTo)
}

// attest takes a neighbour's word, and reports whether there is enough.
func (d *Detector) attest(w *word, l *link) bool {
	switch {
	case w.enough || !d.counts(l):
	case w.by.IsZero():
		w.by, w.groups = l.node, l.member.groups
	case w.by != l.node && apart(w.groups, l.member.groups):
		w.enough = true
	}
	return w.enough
}

// apart reports whether no group is in both.
func apart(a, b []string) bool {
	return !slices.ContainsFunc(a, func(g string) bool { return slices.Contains(b, g) })
}

// confirm takes a neighbour's word on a rumour.
func (d *Detector) confirm(r *rumour, l *link, now time.Time) {
	if d.attest(&r.word, l) {
		d.meet(r.contact, l, now)
	}
}

// rumoured takes a contact that a neighbour told of. It reports whether that makes
// a member.
func (d *Detector) rumoured(c *record.Contact, from *link, w word, now time.Time) bool {
	if r := d.about[c.Signer]; r != nil {
		if c.Order.Compare(r.contact.Order) <= 0 {
			return false
		}
		if w.by.IsZero() {
			w = r.word
		}
		d.quash(c.Signer)
	}
	if c.Left {
		d.refuse(idOf(c.Raw), now)
		return false
	}
	if d.attest(&w, from) {
		return d.meet(c, from, now)
	}
	if n := len(d.rumours); n >= d.cfg.MaxMembers {
		d.quash(d.rumours[d.cfg.Rand.IntN(n)].contact.Signer)
	}
	r := &rumour{member{contact: c, id: idOf(c.Raw), place: len(d.rumours), since: now}, w, now}
	if len(d.rumours) == 0 {
		d.tending = now
	}
	d.rumours = append(d.rumours, r)
	d.about[c.Signer], d.heardOf[r.id] = r, r
	return false
}

// wishes returns the sums of all buckets as they are sent: where there are rumours
// and nothing else, one that no table has, so that the neighbour says whom it knows
// instead of sending their contacts.
func (d *Detector) wishes() []byte {
	sums := d.wireSums()
	for _, r := range d.rumours {
		at := bucketOf(r.contact.Signer) * bucketSize
		if s := sums[at : at+bucketSize]; string(s) == emptyBucket {
			s[bucketSize-1] = 1
		}
	}
	return sums
}

// sift looks into rumours: where there are no two neighbours whose word counts
// together, that of one must do; else the node itself is asked.
func (d *Detector) sift(now time.Time) {
	if len(d.rumours) == 0 || now.Before(d.sifting) {
		return
	}
	d.sifting = now.Add(d.vary(rumourAge))
	if !d.parted() {
		for _, r := range slices.Clone(d.rumours) {
			if now.Sub(r.since) >= rumourAge && !r.by.IsZero() {
				d.meet(r.contact, nil, now)
			}
		}
		return
	}
	if r := d.rumours[d.cfg.Rand.IntN(len(d.rumours))]; now.Sub(r.since) >= rumourAge {
		d.dial(&r.member, forProof, now)
	}
}

// parted reports whether there are two neighbours whose word counts together.
func (d *Detector) parted() bool {
	for i, a := range d.list {
		for _, b := range d.list[:i] {
			if d.counts(a) && d.counts(b) && apart(a.member.groups, b.member.groups) {
				return true
			}
		}
	}
	return false
}
