package swim

import (
	"encoding/binary"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// What is remembered.
const (
	memory     = 24 * time.Hour // of nodes that are gone: contacts can be replayed for as long
	spare      = 128            // members beyond MaxMembers, that streams lead to
	maxRefused = 4096           // contacts that were refused and are not asked for again soon
	refusedFor = 5 * time.Minute
	sweepEvery = time.Minute
)

// A node's contacts that follow each other, and suspicions of one node that are
// passed on, come in this number at once and then at this rate.
const (
	newsBurst    = 8
	newsRate     = 0.1 // a second
	accusalBurst = 16  // of one accuser
	accusalRate  = 0.02
	refuteBurst  = 4 * newsBurst // of own contacts: more than others take, never fewer
	refuteRate   = 4 * newsRate
)

// member is what is known of one node.
type member struct {
	contact *record.Contact
	id      id
	past    id // of the contact before
	state   State
	since   time.Time
	groups  []string
	place   int // in table.order
	link    *link
	probe   *probe

	suspected time.Time      // when suspicion began
	judged    time.Time      // the same, for the judgement: see Detector.wake
	accusers  []identity.Key // different ones
	refuted   time.Time      // when it last refuted
	died      time.Time      // when it was last taken for dead
	vouched   bool           // others' word has revived it with this contact
	met       bool           // it has said something on a stream of its own
	tried     time.Time      // when a dial to where it is was last asked for
	shunned   time.Time      // until when it is not picked: it has said junk

	news     pace // of its contacts
	refutals pace // of those that refute: however much it has said before
	accusals pace // of its suspicions
}

// table holds the members. It is not safe for concurrent use.
type table struct {
	members  map[identity.Key]*member
	ids      map[id]*member // of their contacts and the ones before
	order    []*member
	suspects []*member
	gone     []*member // the longest first
	live     int
	dead     int
	groups   map[string]int
	refused  map[id]time.Time // when
	sum      id
	sums     [buckets]uint32
}

func newTable() table {
	return table{members: make(map[identity.Key]*member), ids: make(map[id]*member), groups: make(map[string]int), refused: make(map[id]time.Time)}
}

// bucketOf returns the bucket that a node is in.
func bucketOf(k identity.Key) int { return int(k[0] >> 2) }

// toggle puts a contact into the sums, or takes it out.
func (t *table) toggle(k identity.Key, i id) {
	for n := range t.sum {
		t.sum[n] ^= i[n]
	}
	t.sums[bucketOf(k)] ^= uint32(i.number())
}

// wireSums returns the sums of all buckets as they are sent.
func (t *table) wireSums() []byte {
	b := make([]byte, 0, buckets*bucketSize)
	for _, s := range t.sums {
		b = binary.BigEndian.AppendUint32(b, s)
	}
	return b
}

func (t *table) add(m *member) {
	m.place = len(t.order)
	t.order = append(t.order, m)
	t.members[m.contact.Signer] = m
	t.ids[m.id] = m
	for _, g := range m.groups {
		t.groups[g]++
	}
}

func (t *table) remove(m *member) {
	t.enter(m, Unknown)
	last := t.order[len(t.order)-1]
	t.order[m.place], last.place = last, m.place
	t.order = t.order[:len(t.order)-1]
	delete(t.members, m.contact.Signer)
	t.forget(m.id, m)
	t.forget(m.past, m)
	t.regroup(m, nil)
	if m.link != nil {
		m.link.member, m.link = nil, nil
	}
}

func (t *table) forget(i id, m *member) {
	if t.ids[i] == m {
		delete(t.ids, i)
	}
}

// regroup has a member counted in these groups and no others.
func (t *table) regroup(m *member, groups []string) {
	for _, g := range m.groups {
		if t.groups[g]--; t.groups[g] == 0 {
			delete(t.groups, g)
		}
	}
	m.groups = groups
	for _, g := range groups {
		t.groups[g]++
	}
}

// enter puts a member into a state.
func (t *table) enter(m *member, s State) {
	was := m.state
	if was.live() != s.live() {
		t.toggle(m.contact.Signer, m.id)
		t.live += step(s.live())
	}
	if (was == Dead) != (s == Dead) {
		t.dead += step(s == Dead)
	}
	t.suspects = moved(t.suspects, m, was == Suspect, s == Suspect)
	t.gone = moved(t.gone, m, was.Gone(), s.Gone())
	m.state = s
}

func step(up bool) int {
	if up {
		return 1
	}
	return -1
}

func moved(all []*member, m *member, was, is bool) []*member {
	if was && !is {
		i := slices.Index(all, m)
		return slices.Delete(all, i, i+1)
	}
	if is && !was {
		return append(all, m)
	}
	return all
}

// replace gives a member its next contact.
func (t *table) replace(m *member, c *record.Contact) {
	if m.state.live() {
		t.toggle(c.Signer, m.id)
	}
	t.forget(m.past, m)
	m.past, m.id, m.contact, m.vouched = m.id, idOf(c.Raw), c, false
	t.ids[m.id] = m
	if m.state.live() {
		t.toggle(c.Signer, m.id)
	}
}

// refuse remembers that a contact is of no use now.
func (t *table) refuse(i id, now time.Time) {
	if len(t.refused) >= maxRefused {
		clear(t.refused)
	}
	t.refused[i] = now
}

// useless reports whether a contact was of no use a while ago: since then there
// may be room for it, or a clock was set.
func (t *table) useless(i id, now time.Time) bool {
	at, no := t.refused[i]
	return no && now.Sub(at) < refusedFor
}

// pace is a token bucket.
type pace struct {
	used float64
	at   time.Time
}

// has reports whether a token is left.
func (p *pace) has(rate, burst float64, now time.Time) bool {
	if p.used > 0 {
		p.used = max(0, p.used-now.Sub(p.at).Seconds()*rate)
	}
	p.at = now
	return p.used+1 <= burst
}

// spend takes a token, if one is left.
func (p *pace) spend(rate, burst float64, now time.Time) bool {
	ok := p.has(rate, burst, now)
	if ok {
		p.used++
	}
	return ok
}
