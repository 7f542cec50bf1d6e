package swim

import (
	"slices"
	"time"
)

// To how many neighbours a contact is sent at once; to the others it is named
// after a while, and they ask for it where they do not have it by then.
const (
	reachRefresh = 2 // only signed anew
	reachNew     = 4 // of a newcomer, or one of many changes
	reachAll     = 1 << 20

	hasteBurst = 16 // contacts sent to all neighbours, at once
	hasteRate  = 2  // and then a second

	wantAgain = 2 * time.Second // after which a contact is asked for again
	maxWanted = 4096

	compareEvery = 45 * time.Second
	compareSoon  = 3 * time.Second // after much was new
	bulkTime     = 2 * time.Second // for which a neighbour sends its table, until more comes
	small        = 16              // members, up to which a table is small

	emptyBucket = "\x00\x00\x00\x00" // its sum

	compareRate  = 2  // comparisons a second that are answered to one neighbour; each goes through the whole table
	compareBurst = 64 // of them at once: a whole table, some times
)

// all is the reach of what all must know at once, unless that is much.
func (d *Detector) all(now time.Time) int {
	if d.haste.spend(hasteRate, hasteBurst, now) {
		return reachAll
	}
	return reachNew
}

// spread passes a contact on.
func (d *Detector) spread(m *member, from *link, reach int, now time.Time) {
	if reach >= len(d.list) {
		for _, l := range d.list {
			if l != from {
				d.queue(l, m, true, now)
			}
		}
		return
	}
	for n, i := range d.cfg.Rand.Perm(len(d.list)) {
		if l := d.list[i]; l != from && l.member != m {
			d.queue(l, m, n < reach, now)
		}
	}
}

// queue has a contact sent to a neighbour, or named.
func (d *Detector) queue(l *link, m *member, full bool, now time.Time) {
	if m.contact == nil {
		return
	}
	if was, ok := l.queued[m]; ok && (was || !full) {
		return
	}
	if most := 2 * (d.cfg.MaxMembers + spare); len(l.full) >= most || len(l.names) >= most {
		return // it says again and again that it lacks what it has
	}
	l.queued[m] = full
	if full {
		l.full = append(l.full, m)
		d.say(l)
		return
	}
	if len(l.names) == 0 {
		l.namesAt = now.Add(lag)
	}
	l.names = append(l.names, m)
	d.soil(l)
}

// named acts on what a neighbour has, wants and holds.
func (d *Detector) named(l *link, m message, now time.Time) {
	for _, i := range ids(m.Haves) {
		if o := d.ids[i]; o == nil {
			d.want(l, i, now)
		} else if o.id == i {
			delete(l.queued, o)
			d.vouch(o, now)
		}
	}
	for _, i := range ids(m.Wants) {
		if o := d.ids[i]; o != nil {
			d.queue(l, o, true, now)
		} else if slices.Contains(d.mine, i) {
			d.queue(l, d.me, true, now)
		}
	}
	if len(m.Sum) > 0 && id(m.Sum) != d.sum {
		switch {
		case d.live+len(d.rumours) > small:
			d.say(l).Buckets = d.wishes()
		case now.After(d.bulk): // one neighbour at a time sends the table
			d.bulk = now.Add(bulkTime)
			d.say(l).Buckets = d.wishes()
		default:
			d.sooner(compareSoon, now)
		}
	}
	if len(m.Buckets) > 0 && l.compares.spend(compareRate, compareBurst, now) {
		d.differ(l, m.Buckets, now)
	}
	if m.About != 0 && l.compares.spend(compareRate, compareBurst, now) {
		d.listed(l, m.About, ids(m.Holds), now)
	}
	if len(m.Contacts) > maxContacts/4 {
		d.bulk = now.Add(bulkTime)
		d.sooner(compareSoon, now)
	}
}

// sooner has tables compared soon.
func (d *Detector) sooner(span time.Duration, now time.Time) {
	if at := now.Add(d.vary(span)); at.Before(d.syncing) {
		d.syncing = at
	}
}

// want asks a neighbour for a contact, unless another one has just been asked.
func (d *Detector) want(l *link, i id, now time.Time) {
	if r := d.heardOf[i]; r != nil {
		d.confirm(r, l, now)
		return
	}
	if d.useless(i, now) || slices.Contains(d.mine, i) || len(l.wants) >= maxWanted {
		return
	}
	w := d.wanted[i]
	if w == nil {
		for old := range d.wanted { // of what others made up, perhaps: it is only kept so that nothing is asked for twice
			if len(d.wanted) < maxWanted {
				break
			}
			delete(d.wanted, old)
		}
		w = &want{}
		d.wanted[i] = w
	}
	if d.attest(&w.word, l); !w.at.IsZero() && now.Sub(w.at) < wantAgain {
		return
	}
	w.at = now
	l.wants = append(l.wants, i)
	d.say(l)
}

// greet begins the comparison of tables on a new stream: the lower key does.
func (d *Detector) greet(l *link, now time.Time) {
	if string(d.cfg.Self[:]) > string(l.node[:]) {
		return
	}
	if d.live+len(d.rumours) > small || !now.After(d.bulk) {
		d.say(l).Sum = d.sum[:]
		return
	}
	d.bulk = now.Add(bulkTime)
	d.say(l).Buckets = d.wishes()
}

// compare compares tables with a random neighbour.
func (d *Detector) compare(now time.Time) {
	if now.Before(d.syncing) {
		return
	}
	every := compareEvery
	if d.dead > 0 && !d.returned.IsZero() && now.Sub(d.returned) < healTime {
		every = healEvery
	}
	d.syncing = now.Add(d.vary(every))
	if len(d.list) > 0 && !d.leaving() {
		l := d.list[d.cfg.Rand.IntN(len(d.list))]
		d.say(l).Sum = d.sum[:]
	}
}

// differ looks where tables differ. A neighbour that has nothing at a place is
// sent everything; others are told what is here.
func (d *Detector) differ(l *link, theirs []byte, now time.Time) {
	ours, empty := d.wireSums(), uint64(0)
	for b := range buckets {
		at := b * bucketSize
		switch their, our := string(theirs[at:at+bucketSize]), string(ours[at:at+bucketSize]); {
		case their == our:
		case their == emptyBucket:
			empty |= 1 << b
		default:
			l.about |= 1 << b
			d.say(l)
		}
	}
	d.inBuckets(empty, func(m *member) { d.queue(l, m, true, now) })
}

// inBuckets goes through the live nodes of some buckets, this one included.
func (d *Detector) inBuckets(set uint64, do func(*member)) {
	if set == 0 {
		return
	}
	if d.me.contact != nil && !d.me.contact.Left && set>>bucketOf(d.cfg.Self)&1 == 1 {
		do(d.me)
	}
	for _, m := range d.order {
		if m.state.live() && set>>bucketOf(m.contact.Signer)&1 == 1 {
			do(m)
		}
	}
}

// holdings lists contacts by bucket as long as there is room, and takes the
// buckets from about.
func (d *Detector) holdings(about *uint64, room int) (listed uint64, all []byte) {
	var in [buckets][]byte
	for _, m := range append([]*member{d.me}, d.order...) {
		if m == d.me && (m.contact == nil || m.contact.Left) || m != d.me && !m.state.live() {
			continue
		}
		if b := bucketOf(m.contact.Signer); *about>>b&1 == 1 {
			in[b] = append(in[b], m.id[:]...)
		}
	}
	for b := range buckets {
		if over := len(in[b])/idSize - maxNamed; over > 0 { // keys made to lie here: some of them, others next time
			at := idSize * d.cfg.Rand.IntN(over+1)
			in[b] = in[b][at : at+maxNamed*idSize]
		}
		switch {
		case *about>>b&1 == 0:
		case len(all)+len(in[b]) <= min(room, maxNamed*idSize):
			*about &^= 1 << b
			listed |= 1 << b
			all = append(all, in[b]...)
		}
	}
	return listed, all
}

// listed takes what a neighbour holds in some buckets: it is sent what it lacks,
// asked for what it has, and told whom this node takes for dead.
func (d *Detector) listed(l *link, about uint64, theirs []id, now time.Time) {
	has := make(map[id]bool, len(theirs))
	for _, i := range theirs {
		has[i] = true
		switch m := d.ids[i]; {
		case m == nil:
			d.want(l, i, now)
		case m.state == Left:
			d.queue(l, m, true, now)
		case m.state == Dead && m.id == i:
			if d.vouch(m, now); m.state == Dead && now.Sub(d.returned) > healTime && len(l.accuses) < accusalBurst/2 {
				d.accuseTo(l, d.suspicion(i))
			}
		}
	}
	d.inBuckets(about, func(m *member) {
		if !has[m.id] {
			d.queue(l, m, false, now)
		}
	})
	if len(l.names) > 0 {
		l.namesAt = now
	}
}
