package swim

import (
	"fmt"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// a stranger on one stream, unsigned suspicions by made-up accusers.
func TestAttackUnsignedSuspicions(t *testing.T) {
	d := detectorWith(t, 4, nil)
	stranger := testKey(900).Public()
	d.Linked(stranger, epoch)
	now, signed, seq := epoch, 0, uint64(1)
	for i := range 600 { // one minute, 10 a second
		now = now.Add(100 * time.Millisecond)
		n := d.me.id
		a := accusal{ID: n[:], Accuser: identity.Key{1, byte(i), byte(i >> 8)}, Sig: make([]byte, 64)}
		if err := d.Hear(stranger, message{Accuses: []accusal{a}}.encode(), now); err != nil {
			t.Logf("closed after %d", i)
			break
		}
		o := d.Take(now)
		if o.Refute != (record.Order{}) {
			signed++
			seq++
			d.Own(contactOf(t, 0, seq, nil), now)
			d.Take(now)
		}
	}
	t.Logf("signed %d contacts in a minute, health %d", signed, d.health)
	if signed > newsBurst || d.health > 1 {
		t.Errorf("a stranger without a signature had %d contacts signed, health %d", signed, d.health)
	}
}

// whoever has used up its news cannot refute.
func TestAttackRefutationNotTaken(t *testing.T) {
	d := detectorWith(t, 6, nil)
	v := testKey(2).Public()
	now := epoch
	for i := range newsBurst { // contacts that A1 has it sign
		now = now.Add(100 * time.Millisecond)
		d.Learn(contactOf(t, 2, uint64(2+i), nil), now)
	}
	d.Take(now)
	// its stream breaks and nobody asked answers: this node suspects it by itself
	d.Unlinked(v, now)
	died := time.Duration(0)
	start := now
	refuted := false
	for range 400 {
		now = now.Add(50 * time.Millisecond)
		for i := 1; i <= 6; i++ {
			if i != 2 {
				_ = d.Hear(testKey(i).Public(), message{}.encode(), now)
			}
		}
		o := d.Take(now)
		for _, c := range o.Dial {
			d.Failed(c.Signer, now)
		}
		if d.State(v) == Suspect && !refuted {
			refuted = true
			c := contactOf(t, 2, 50, nil) // at once
			if err := d.Hear(testKey(3).Public(), message{Contacts: [][]byte{c.Raw}}.encode(), now); err != nil {
				t.Fatal(err)
			}
			t.Logf("suspected after %v; after its refutation it is %v", now.Sub(start), d.State(v))
		}
		if d.State(v) == Dead {
			died = now.Sub(start)
			break
		}
	}
	if died != 0 {
		t.Errorf("it refuted at once and is dead after %v", died)
	}
}

// junk names stop this node from asking for anything.
func TestAttackJunkNames(t *testing.T) {
	d := detectorWith(t, 4, nil)
	evil := testKey(900).Public()
	d.Linked(evil, epoch)
	now := epoch.Add(time.Second)
	n := byte(0)
	for range 5 {
		var m message
		for i := range 1000 {
			m.Haves = append(m.Haves, 1, 2, 3, 4, 5, n, byte(i>>8), byte(i))
		}
		n++
		if err := d.Hear(evil, m.encode(), now); err != nil {
			t.Fatal(err)
		}
	}
	for s := range 50 {
		now = now.Add(time.Second)
		c := contactOf(t, 50, 1, nil)
		i := idOf(c.Raw)
		_ = d.Hear(testKey(1).Public(), message{Haves: i[:]}.encode(), now)
		for _, e := range d.Take(now).Send {
			if m, _ := parse(e.Msg); e.To == testKey(1).Public() && len(m.Wants) > 0 {
				t.Logf("asked after %d s", s)
				if s > 3 {
					t.Errorf("asked after %d s", s)
				}
				return
			}
		}
	}
	t.Errorf("not asked for within 50 s; wanted %d", len(d.wanted))
}

// who heard contacts while its clock was wrong never takes them.
func TestAttackClockAtStart(t *testing.T) {
	d := detectorWith(t, 1, nil)
	from := testKey(1).Public()
	c := contactOf(t, 7, 1, func(o *record.ContactOffer) { o.Issued = epoch.Add(6 * time.Minute) })
	_ = d.Hear(from, message{Contacts: [][]byte{c.Raw}}.encode(), epoch)
	now := epoch.Add(10 * time.Minute) // or NTP has set the clock
	for range 60 {
		now = now.Add(time.Minute)
		if err := d.Hear(from, message{Contacts: [][]byte{c.Raw}}.encode(), now); err != nil {
			t.Fatal(err)
		}
		d.Take(now)
	}
	if d.State(c.Signer) != Alive {
		t.Errorf("after an hour it is %v", d.State(c.Signer))
	}
}

// a node that moves into a full group is buried.
func TestAttackMoverIsBuried(t *testing.T) {
	group := func(c record.Contact) []string { return []string{fmt.Sprint(c.Addrs[0][1:4])} }
	d := detectorWith(t, 3, func(o *Config) { o.Group, o.PerGroup = group, 3 })
	away := func(seq uint64) record.Contact {
		return contactOf(t, 50, seq, func(o *record.ContactOffer) { o.Addrs[0][2] = 77 })
	}
	here := func(seq uint64) record.Contact { return contactOf(t, 50, seq, nil) }
	d.Learn(away(1), epoch)
	v := away(1).Signer
	now := epoch.Add(time.Second)
	d.Learn(here(2), now)
	was := map[State]bool{}
	seq := uint64(2)
	for range 1200 {
		now = now.Add(100 * time.Millisecond)
		for i := 1; i <= 3; i++ {
			_ = d.Hear(testKey(i).Public(), message{}.encode(), now)
		}
		for _, c := range d.Take(now).Dial {
			if c.Signer == v && c.Addrs[0][2] == 77 {
				d.Failed(v, now) // it is not there any more
			}
		}
		if s := d.State(v); s == Suspect || s == Dead {
			seq++
			d.Learn(here(seq), now) // its refutation
		}
		was[d.State(v)] = true
	}
	if was[Dead] {
		t.Errorf("it refuted %d times, and is %v", seq-2, d.State(v))
	}
}

// the flood of others uses up what a neighbour may pass on.
func TestAttackVerifyBudget(t *testing.T) {
	d := detectorWith(t, 6, nil)
	from := testKey(1).Public() // honest: passes on what it gets
	now := epoch
	n := 1000
	for n < 1000+verifyBurst+50 { // contacts of 4000 and more keys of an attacker, all valid
		var m message
		for range 20 {
			c := contactOf(t, n, 1, nil)
			m.Contacts = append(m.Contacts, c.Raw)
			n++
		}
		if err := d.Hear(from, m.encode(), now); err != nil {
			t.Fatal(err)
		}
	}
	d.Take(now)
	v := contactOf(t, 2, 1, nil)
	for i := 3; i <= 6; i++ {
		if err := d.Hear(from, message{Accuses: []accusal{suspicionOf(i, v)}}.encode(), now); err != nil {
			t.Fatal(err)
		}
	}
	d.Unlinked(v.Signer, now)
	t.Log(d.State(v.Signer))
	r := contactOf(t, 2, 2, nil)
	if err := d.Hear(from, message{Contacts: [][]byte{r.Raw}}.encode(), now); err != nil {
		t.Fatal(err)
	}
	if d.State(v.Signer) != Alive {
		t.Errorf("its refutation came, and it is %v", d.State(v.Signer))
	}
}

// a bucket with more than 512 contacts is never compared.
func TestAttackFullBucket(t *testing.T) {
	d := detectorWith(t, 1, nil)
	b := bucketOf(testKey(1).Public())
	added := 0
	for i := 1000; added < 520; i++ {
		if k := testKey(i).Public(); bucketOf(k) == b {
			d.Learn(contactOf(t, i, 1, nil), epoch)
			added++
		}
	}
	about := uint64(1) << b
	listed, all := d.holdings(&about, 6000)
	if listed == 0 {
		t.Errorf("bucket %d: %d ids listed, left %x", b, len(all)/8, about)
	}
}

// goodbyes of strangers push out the dead.
func TestAttackGoodbyesPushOutTheDead(t *testing.T) {
	d := detectorWith(t, 3, func(o *Config) { o.MaxMembers = 50 })
	dead := contactOf(t, 40, 1, nil)
	d.Learn(dead, epoch)
	d.become(d.members[dead.Signer], Dead, epoch)
	d.Take(epoch)
	changes := 0
	for i := range 200 {
		c := contactOf(t, 1000+i, 1, func(o *record.ContactOffer) { o.Left = true })
		_ = d.Hear(testKey(1).Public(), message{Contacts: [][]byte{c.Raw}}.encode(), epoch)
	}
	for _, c := range d.Take(epoch).Changes {
		if c.Is == Left {
			changes++
		}
	}
	t.Logf("%d goodbyes told, dead one is %v", changes, d.State(dead.Signer))
	d.Learn(dead, epoch.Add(time.Hour)) // anybody's replay
	if s := d.State(dead.Signer); s != Dead {
		t.Errorf("the dead one is %v", s)
	}
}

// what a message of a dozen bytes costs, and one of sums.
func BenchmarkAttack(b *testing.B) {
	for name, m := range map[string]message{"about": {About: 1<<64 - 1}, "buckets": {Buckets: make([]byte, 256)}} {
		b.Run(name, func(b *testing.B) {
			d := newDetector(0, nil)
			d.Own(contactOf(b, 0, 1, nil), epoch)
			for i := 1; i <= 4000; i++ {
				d.Learn(contactOf(b, i, 1, nil), epoch)
			}
			evil := testKey(9000).Public()
			d.Linked(evil, epoch)
			d.Take(epoch)
			msg := m.encode()
			b.Logf("%d bytes", len(msg))
			now := epoch
			for b.Loop() {
				now = now.Add(2 * time.Millisecond)
				if err := d.Hear(evil, msg, now); err != nil {
					b.Fatal(err)
				}
				d.Take(now)
			}
		})
	}
}

// a neighbour that says alternately that it has and wants the same.
func TestAttackBacklog(t *testing.T) {
	d := detectorWith(t, 1, func(o *Config) { o.MaxMembers = 600 })
	for i := 10; i < 522; i++ {
		d.Learn(contactOf(t, i, 1, nil), epoch)
	}
	evil := testKey(9000).Public()
	d.Linked(evil, epoch)
	now := epoch
	for s := 0; s < 600; s++ { // 10 s
		now = now.Add(20 * time.Millisecond)
		var m message
		for _, o := range d.order {
			if len(m.Haves) < 500*idSize && o.contact.Signer != evil {
				m.Haves = append(m.Haves, o.id[:]...)
			}
		}
		m.Wants = m.Haves[:480*idSize]
		if err := d.Hear(evil, m.encode(), now); err != nil {
			t.Fatal(err)
		}
		d.Take(now)
	}
	n := len(d.links[evil].full)
	t.Logf("%d contacts wait to be sent to one neighbour after %v, of %d members", n, now.Sub(epoch), len(d.order))
	if n > 2*(600+spare) {
		t.Error("without bound")
	}
}

// ids that are named again and again.
func TestAttackWants(t *testing.T) {
	d := detectorWith(t, 1, nil)
	evil := testKey(9000).Public()
	d.Linked(evil, epoch)
	now := epoch
	for s := 0; s < 1200; s++ { // 4 messages in 2 s, 10 minutes
		now = now.Add(500*time.Millisecond + time.Millisecond)
		var m message
		for i := range 1000 {
			m.Haves = append(m.Haves, 1, 2, 3, 4, 5, byte(s%4), byte(i>>8), byte(i))
		}
		if err := d.Hear(evil, m.encode(), now); err != nil {
			t.Fatal(err)
		}
		d.Take(now)
	}
	n := len(d.links[evil].wants)
	t.Logf("%d wants wait after %v", n, now.Sub(epoch))
	if n > 2*maxWanted {
		t.Error("without bound")
	}
}
