package swim

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"cell.network/cell/internal/record"
)

// One node accuses all others all the time. Nobody dies of it, and the network
// does not drown in refutations; a node that does sleep dies. Where an accuser is
// listened to however often he accuses, it does drown.
func TestFalseAccuser(t *testing.T) {
	for _, gullible := range []bool{false, true} {
		accuseAll(t, gullible)
	}
}

func accuseAll(t *testing.T, gullible bool) {
	w := newWorld(t, *simSeed, overWAN, 0.01)
	w.gullible = gullible
	build(w, 24)
	evil, sleeper := w.nodes[0], w.nodes[7]
	deaths := map[*node]int{}
	w.onChange = func(n *node, c Change) {
		if c.Is == Dead && n != evil && c.Node != evil.id { // whom nobody believes after a while
			deaths[w.byKey[c.Node]]++
		}
	}
	w.junk = func(n, from *node, err error) {
		if from != evil {
			t.Errorf("node %d hears node %d: %v", n.index, from.index, err)
		}
	}
	honest := func() int { return w.bytes - evil.sent }
	bytes := honest()
	var accuse func()
	accuse = func() {
		var m message
		for _, n := range w.nodes[1:] {
			a := suspicionOf(0, *n.d.me.contact)
			if m.Accuses = append(m.Accuses, a); len(m.Accuses) == maxAccuses {
				break
			}
		}
		for _, to := range w.nodes {
			evil.dial(to)
			if evil.links[to] != nil {
				evil.send(to, m.encode())
			}
		}
		w.after(200*time.Millisecond, accuse)
	}
	accuse()
	w.run(40 * time.Second)
	resigned := uint64(0)
	for _, n := range w.nodes[1:] {
		resigned = max(resigned, n.seq)
	}
	rate := float64(honest()-bytes) / 40 / float64(len(w.nodes)-1)
	t.Logf("gullible %v, seed %d: accused 5 times a second for 40 s: each signed at most %d contacts, %.0f bytes a second per node", gullible, w.seed, resigned, rate)
	if gullible {
		if rate <= 4000 {
			t.Error("the network does not drown though every accusation counts")
		}
		return
	}
	if len(deaths) > 0 {
		t.Errorf("%d died of it", len(deaths))
	}
	if resigned > 2+slanderBurst+newsBurst || resigned < 2 || rate > 4000 {
		t.Errorf("one signed %d contacts", resigned)
	}
	sleeper.frozen = w.now.Add(time.Minute)
	w.run(35 * time.Second)
	for _, n := range w.nodes {
		if n != sleeper && n != evil && n.d.State(sleeper.id) != Dead {
			t.Errorf("node %d holds the sleeper %v", n.index, n.d.State(sleeper.id))
		}
	}
	if delete(deaths, sleeper); len(deaths) > 0 {
		t.Errorf("%d others are taken for dead", len(deaths))
	}
}

// detectorWith makes a detector with neighbours whose contacts it knows.
func detectorWith(t *testing.T, n int, change func(*Config)) *Detector {
	d := newDetector(0, change)
	d.Own(contactOf(t, 0, 1, nil), epoch)
	for i := 1; i <= n; i++ {
		c := contactOf(t, i, 1, nil)
		d.Linked(c.Signer, epoch)
		if err := d.Hear(c.Signer, message{Contacts: [][]byte{c.Raw}}.encode(), epoch); err != nil {
			t.Fatal(err)
		}
	}
	d.Take(epoch)
	return d
}

func TestSuspicionsNeedAMember(t *testing.T) {
	victim := contactOf(t, 2, 1, nil)
	good := suspicionOf(1, victim)
	forged := good
	forged.Sig = bytes.Clone(good.Sig)
	forged.Sig[3] ^= 1
	other := suspicionOf(1, contactOf(t, 3, 1, nil)) // signed, for somebody else
	other.ID = good.ID
	for name, c := range map[string]struct {
		a    accusal
		is   State
		fail bool
	}{
		"by a member":                  {good, Suspect, false},
		"by a stranger":                {suspicionOf(9, victim), Alive, false},
		"by itself":                    {suspicionOf(2, victim), Alive, false},
		"of a contact that nobody has": {suspicionOf(1, contactOf(t, 2, 2, nil)), Alive, false},
		"forged":                       {forged, Alive, true},
		"of another":                   {other, Alive, true},
	} {
		d := detectorWith(t, 4, nil)
		err := d.Hear(testKey(4).Public(), message{Accuses: []accusal{c.a}}.encode(), epoch.Add(time.Second))
		if got := d.State(victim.Signer); got != c.is || errors.Is(err, ErrMessage) != c.fail {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		o := d.Take(epoch.Add(time.Second))
		passed := 0
		for _, e := range o.Send {
			if m, _ := parse(e.Msg); len(m.Accuses) > 0 {
				passed++
			}
		}
		if want := count(c.is == Suspect) * 3; passed != want {
			t.Errorf("%s: passed on to %d, want %d", name, passed, want)
		}
		books(t, d)
	}
}

// A suspicion that was refuted, and the contact that it was about, count for
// nothing any more; nor does the contact of a dead node.
func TestReplays(t *testing.T) {
	d := detectorWith(t, 4, nil)
	now := epoch.Add(time.Second)
	old := contactOf(t, 2, 1, nil)
	hear := func(m message) {
		t.Helper()
		if err := d.Hear(testKey(1).Public(), m.encode(), now); err != nil {
			t.Fatal(err)
		}
		d.Take(now)
	}
	suspicion := message{Accuses: []accusal{suspicionOf(1, old)}}
	hear(suspicion)
	if d.State(old.Signer) != Suspect || d.Silence(old.Signer, now.Add(time.Second)) != time.Second {
		t.Fatal("not suspected")
	}
	hear(message{Contacts: [][]byte{contactOf(t, 2, 2, nil).Raw}})
	hear(suspicion)
	hear(message{Contacts: [][]byte{old.Raw}})
	if m, _ := d.Member(old.Signer); m.State != Alive || m.Contact.Order.Sequence != 2 || d.Silence(old.Signer, now) != 0 {
		t.Errorf("after a refutation: %v at %v", m.State, m.Contact.Order)
	}
	hear(message{Accuses: []accusal{suspicionOf(1, contactOf(t, 2, 2, nil))}})
	for range 400 {
		now = now.Add(100 * time.Millisecond)
		d.Take(now)
	}
	for _, c := range []record.Contact{old, contactOf(t, 2, 2, nil)} {
		hear(message{Contacts: [][]byte{c.Raw}})
		if d.Learn(c, now) || d.State(old.Signer) != Dead {
			t.Errorf("revived by a replay: %v", d.State(old.Signer))
		}
	}
	if !d.Learn(contactOf(t, 2, 3, nil), now) || d.State(old.Signer) != Alive {
		t.Error("not revived by a newer contact")
	}
	books(t, d)
}

// Own contacts of an earlier life are exceeded, and those that nobody signed are
// no reason for anything.
func TestEarlierLife(t *testing.T) {
	d := detectorWith(t, 1, nil)
	later := contactOf(t, 0, 40, nil)
	if err := d.Hear(testKey(1).Public(), message{Contacts: [][]byte{later.Raw}}.encode(), epoch); err != nil {
		t.Fatal(err)
	}
	if o := d.Take(epoch); o.Refute != later.Order {
		t.Errorf("to exceed %v, want %v", o.Refute, later.Order)
	}
	d.Own(contactOf(t, 0, 41, nil), epoch)
	if o := d.Take(epoch); o.Refute != (record.Order{}) {
		t.Errorf("still to exceed %v", o.Refute)
	}
}

// A flood of contacts from one part of the address space, or of all kinds, is
// kept to its share; without the check it fills the table.
func TestSybils(t *testing.T) {
	group := func(c record.Contact) (all []string) {
		for _, a := range c.Addrs {
			all = append(all, fmt.Sprint(a[1:4]))
		}
		return all
	}
	for _, c := range []struct {
		name  string
		group func(record.Contact) []string
		want  int
	}{{"guarded", group, 8}, {"unguarded", nil, 100}} {
		d := detectorWith(t, 3, func(o *Config) { o.MaxMembers, o.Group, o.PerGroup, o.gullible = 100, c.group, 8, true })
		for i := 4; i < 300; i++ {
			s := contactOf(t, i, 1, nil)
			if err := d.Hear(testKey(1).Public(), message{Contacts: [][]byte{s.Raw}}.encode(), epoch); err != nil {
				t.Fatal(err)
			}
		}
		d.Take(epoch)
		if d.Len() != c.want {
			t.Errorf("%s: %d members, want %d", c.name, d.Len(), c.want)
		}
		honest := contactOf(t, 500, 1, func(o *record.ContactOffer) { o.Addrs[0][2] = 77 })
		if got := d.Learn(honest, epoch); got != (c.group != nil) {
			t.Errorf("%s: an honest node from elsewhere: taken %v", c.name, got)
		}
		mover := contactOf(t, 500, 2, nil)
		if c.group != nil && d.Learn(mover, epoch) {
			t.Error("moved into a group that is full")
		}
		books(t, d)
		d.Take(epoch)
		if n := len(d.Members()); n > 100 {
			t.Errorf("%s: %d members", c.name, n)
		}
	}
}

// A node that signs contacts without end is heard now and then.
func TestChatterbox(t *testing.T) {
	d := detectorWith(t, 2, nil)
	news, now := 0, epoch
	for i := range 200 {
		now = now.Add(50 * time.Millisecond)
		c := contactOf(t, 1, uint64(2+i), func(o *record.ContactOffer) { o.Server = i%2 == 0 })
		if err := d.Hear(c.Signer, message{Contacts: [][]byte{c.Raw}}.encode(), now); err != nil {
			t.Fatal(err)
		}
		for _, e := range d.Take(now).Send {
			if m, _ := parse(e.Msg); e.To == testKey(2).Public() && len(m.Contacts) > 0 {
				news++
			}
		}
	}
	if news == 0 || news > newsBurst+1 {
		t.Errorf("%d of 200 contacts in 10 s were passed on", news)
	}
}

// Junk ends the stream, and who said it is not picked soon.
func TestJunk(t *testing.T) {
	good := contactOf(t, 5, 1, nil)
	flipped := bytes.Clone(good.Raw)
	flipped[100] ^= 1
	foreign, err := record.SignContact(testKey(5), [32]byte{9}, record.ContactOffer{Order: record.Order{Incarnation: 1}, Issued: epoch})
	if err != nil {
		t.Fatal(err)
	}
	for name, msg := range map[string][]byte{
		"nothing":         nil,
		"no message":      []byte("hello"),
		"too long":        make([]byte, MaxMessage+1),
		"flipped contact": message{Contacts: [][]byte{flipped}}.encode(),
		"foreign contact": message{Contacts: [][]byte{foreign.Raw}}.encode(),
	} {
		d := detectorWith(t, 3, nil)
		if err := d.Hear(testKey(1).Public(), msg, epoch); err == nil {
			t.Errorf("%s: taken", name)
		}
		d.Unlinked(testKey(1).Public(), epoch)
		books(t, d)
	}
	d := detectorWith(t, 3, nil)
	late := contactOf(t, 5, 1, func(o *record.ContactOffer) { o.Issued = epoch.Add(-25 * time.Hour) })
	for range 2 { // honest nodes' clocks differ: no reason to hang up
		if err := d.Hear(testKey(1).Public(), message{Contacts: [][]byte{late.Raw}}.encode(), epoch); err != nil || d.State(late.Signer) != Unknown {
			t.Errorf("an expired contact: %v, %v", err, d.State(late.Signer))
		}
	}
	if err := d.Hear(testKey(8).Public(), []byte("junk"), epoch); err != nil {
		t.Errorf("from a stream that has ended: %v", err)
	}
}

// Favours are limited, so that nobody makes others dial for him.
func TestFavoursAreLimited(t *testing.T) {
	d := detectorWith(t, 10, nil)
	var m message
	for i := range 8 {
		c := contactOf(t, 20+i, 1, nil)
		d.Learn(c, epoch)
		n := idOf(c.Raw)
		m.Asks = append(m.Asks, ask{Nonce: uint64(i + 1), ID: n[:]})
	}
	for i := 1; i <= 10; i++ {
		if err := d.Hear(testKey(i).Public(), m.encode(), epoch); err != nil {
			t.Fatal(err)
		}
	}
	if len(d.favours) > maxFavours || len(d.favours) != 4*ownFavours*2 && len(d.favours) != maxFavours {
		t.Errorf("%d favours", len(d.favours))
	}
	if n := len(d.Take(epoch).Dial); n > 8+8 {
		t.Errorf("%d dials", n)
	}
	books(t, d)
}

// What is remembered of the dead, and what expires, is forgotten in a day.
func TestForgets(t *testing.T) {
	d := detectorWith(t, 2, nil)
	gone := contactOf(t, 7, 1, func(o *record.ContactOffer) { o.Left = true })
	d.Learn(gone, epoch)
	d.Learn(contactOf(t, 8, 1, nil), epoch)
	now := epoch
	for now.Before(epoch.Add(23 * time.Hour)) {
		now = now.Add(time.Hour)
		d.Take(now)
	}
	if d.State(gone.Signer) != Left || d.Learn(contactOf(t, 7, 0, nil), now) {
		t.Errorf("forgotten too soon: %v", d.State(gone.Signer))
	}
	for now.Before(epoch.Add(51 * time.Hour)) {
		now = now.Add(time.Hour)
		d.Take(now)
	}
	if n := len(d.Members()); n != 0 {
		t.Errorf("%d members whose contacts have expired", n)
	}
	books(t, d)
}

// A node that is well, but whose stream to this one is not, is not accused for ever.
func TestBrokenStream(t *testing.T) {
	d := detectorWith(t, 4, nil)
	victim, sequence, accused := testKey(2).Public(), uint64(1), 0
	for now := epoch; now.Before(epoch.Add(5 * time.Minute)); now = now.Add(50 * time.Millisecond) {
		for _, e := range d.Take(now).Send {
			m, err := parse(e.Msg)
			if err != nil {
				t.Fatal(err)
			}
			if e.To != victim {
				answer := message{}
				if m.Ping != 0 {
					answer.Acks = []uint64{m.Ping}
				}
				for range m.Accuses {
					sequence++
					answer.Contacts = [][]byte{contactOf(t, 2, sequence, nil).Raw}
				}
				accused += len(m.Accuses)
				if err := d.Hear(e.To, answer.encode(), now); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if accused == 0 || accused > 3*(maxMissed+1) || d.State(victim) != Alive {
		t.Errorf("accused %d times, %v", accused, d.State(victim))
	}
	books(t, d)
}
