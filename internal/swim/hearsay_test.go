package swim

import (
	"fmt"
	"testing"
	"time"

	"cell.network/cell/internal/record"
)

// blocks are the first three bytes of each address.
func blocks(c record.Contact) (all []string) {
	for _, a := range c.Addrs {
		all = append(all, fmt.Sprint(a[1:4]))
	}
	return all
}

// in has a contact say that its node lives in these blocks.
func in(blocks ...byte) func(*record.ContactOffer) {
	return func(o *record.ContactOffer) {
		first := o.Addrs[0]
		o.Addrs = nil
		for _, b := range blocks {
			a := append([]byte{}, first...)
			a[2] = b
			o.Addrs = append(o.Addrs, a)
		}
	}
}

// A member tells everybody of nodes that do not exist. It is believed nowhere,
// and a newcomer becomes known in spite of it; where hearsay is believed, it fills
// all tables.
func TestMadeUpPeers(t *testing.T) {
	const nodes, made = 40, 300
	for _, gullible := range []bool{false, true} {
		w := newWorld(t, *simSeed, overWAN, 0.01)
		w.gullible = gullible
		build(w, nodes)
		evil, told := w.nodes[0], 0
		w.onChange = func(n *node, c Change) {
			switch {
			case w.byKey[c.Node] == nil:
				told++
			case c.Is == Dead && !gullible:
				t.Errorf("node %d takes node %d for dead", n.index, w.byKey[c.Node].index)
			}
		}
		var all [][]byte
		for i := range made {
			c := contactOf(t, 10000+i, 1, func(o *record.ContactOffer) { o.Addrs[0][2], o.Issued = byte(i), w.now })
			all = append(all, c.Raw)
		}
		next := 0
		var lie func()
		lie = func() {
			m := message{Contacts: all[next : next+20]}
			next = (next + 20) % made
			for _, to := range w.nodes {
				if evil.dial(to); evil.links[to] != nil {
					evil.send(to, m.encode())
				}
			}
			w.after(100*time.Millisecond, lie)
		}
		lie()
		w.run(5 * time.Second)
		j := w.add()
		began := w.now
		j.start()
		j.dial(w.nodes[5])
		knew := 0
		for ; knew < nodes-1 && w.now.Sub(began) < 20*time.Second; w.run(100 * time.Millisecond) {
			knew = 0
			for _, n := range w.nodes[1:] {
				knew += count(n.d.State(j.id) == Alive && j.d.State(n.id) == Alive)
			}
		}
		most := 0
		for _, n := range w.nodes[1:] {
			if n == j { // whoever has few neighbours must believe one
				continue
			}
			most = max(most, n.d.live-nodes)
		}
		t.Logf("gullible %v, seed %d: told of made-up nodes %d times, up to %d in a table; all and a newcomer know each other after %v",
			gullible, w.seed, told, most, w.now.Sub(began))
		if gullible != (most > made/2) || !gullible && (most > 0 || told > 0) {
			t.Errorf("gullible %v: %d made-up members", gullible, most)
		}
		if !gullible && knew < nodes-1 {
			t.Errorf("%d nodes and the newcomer know each other", knew)
		}
	}
}

// Whose word makes a member, and when.
func TestWords(t *testing.T) {
	type step struct {
		by   int
		name bool // the contact is named, not sent
	}
	for name, c := range map[string]struct {
		homes func(i int) byte // where neighbours live
		steps []step
		ours  bool // this node picked them
		many  bool // members
		is    State
	}{
		"one":                         {func(i int) byte { return byte(i) }, []step{{1, false}, {1, true}}, true, false, Unknown},
		"two":                         {func(i int) byte { return byte(i) }, []step{{1, false}, {2, true}}, true, false, Alive},
		"two who send it":             {func(i int) byte { return byte(i) }, []step{{1, false}, {2, false}}, true, false, Alive},
		"two who name it first":       {func(i int) byte { return byte(i) }, []step{{1, true}, {2, true}, {2, false}}, true, false, Alive},
		"two from one place":          {func(i int) byte { return byte(i / 3) }, []step{{1, false}, {2, false}}, true, false, Unknown},
		"two that picked this node":   {func(i int) byte { return byte(i) }, []step{{1, false}, {2, false}}, false, true, Unknown},
		"the same in a small network": {func(i int) byte { return byte(i) }, []step{{1, false}, {2, false}}, false, false, Alive},
		"two that it picked of many":  {func(i int) byte { return byte(i) }, []step{{1, false}, {2, false}}, true, true, Alive},
	} {
		d := newDetector(0, func(o *Config) { o.Group = blocks })
		d.Own(contactOf(t, 0, 1, nil), epoch)
		for i := 1; i <= 4; i++ {
			n := contactOf(t, i, 1, in(c.homes(i)))
			d.Linked(n.Signer, epoch)
			if err := d.Hear(n.Signer, message{Contacts: [][]byte{n.Raw}}.encode(), epoch); err != nil {
				t.Fatal(err)
			}
			d.links[n.Signer].ours = c.ours
		}
		if c.many {
			for i := 100; i < 100+allUpTo; i++ {
				d.Learn(contactOf(t, i, 1, in(byte(i))), epoch)
			}
		}
		stranger := contactOf(t, 50, 1, in(200))
		i := idOf(stranger.Raw)
		for _, s := range c.steps {
			m := message{Contacts: [][]byte{stranger.Raw}}
			if s.name {
				m = message{Haves: i[:]}
			}
			if err := d.Hear(testKey(s.by).Public(), m.encode(), epoch); err != nil {
				t.Fatal(err)
			}
			books(t, d)
		}
		if s := d.State(stranger.Signer); s != c.is {
			t.Errorf("%s: %v, want %v", name, s, c.is)
		}
		d.Linked(stranger.Signer, epoch)
		if err := d.Hear(stranger.Signer, message{Contacts: [][]byte{stranger.Raw}}.encode(), epoch); err != nil || d.State(stranger.Signer) != Alive {
			t.Errorf("%s: spoke for itself and is %v, %v", name, d.State(stranger.Signer), err)
		}
		books(t, d)
	}
}

// Who has neighbours in one place only must believe one after a while.
func TestWordOfTheOnlyOne(t *testing.T) {
	d := detectorWith(t, 1, nil)
	stranger := contactOf(t, 50, 1, nil)
	if err := d.Hear(testKey(1).Public(), message{Contacts: [][]byte{stranger.Raw}}.encode(), epoch); err != nil {
		t.Fatal(err)
	}
	d.Take(epoch.Add(time.Second))
	if s := d.State(stranger.Signer); s != Unknown {
		t.Errorf("at once: %v", s)
	}
	d.Take(epoch.Add(rumourAge))
	d.Take(epoch.Add(3 * rumourAge))
	if s := d.State(stranger.Signer); s != Alive {
		t.Errorf("later: %v", s)
	}
	books(t, d)
}

// A rumour that a dial disproves is over, and those that nothing comes of end.
func TestRumoursEnd(t *testing.T) {
	d := detectorWith(t, 6, func(o *Config) { o.MaxMembers = 100 })
	from := testKey(1).Public()
	for i := 1000; i < 1200; i++ {
		c := contactOf(t, i, 1, nil)
		if err := d.Hear(from, message{Contacts: [][]byte{c.Raw}}.encode(), epoch); err != nil {
			t.Fatal(err)
		}
	}
	books(t, d)
	if n := len(d.rumours); n != 100 {
		t.Fatalf("%d rumours", n)
	}
	now, dials := epoch, 0
	for now.Sub(epoch) < time.Minute {
		now = now.Add(time.Second)
		for _, c := range d.Take(now).Dial {
			dials++
			d.Failed(c.Signer, now)
			if d.about[c.Signer] != nil {
				t.Fatal("still a rumour")
			}
			if err := d.Hear(from, message{Contacts: [][]byte{c.Raw}}.encode(), now); err != nil || d.about[c.Signer] != nil {
				t.Fatalf("a rumour again, %v", err)
			}
		}
		for i := 1; i <= 6; i++ {
			_ = d.Hear(testKey(i).Public(), message{}.encode(), now)
		}
	}
	for i := 1000; i < 1200; i++ { // one of them is there after all
		if c := contactOf(t, i, 1, nil); d.useless(idOf(c.Raw), now) {
			d.Linked(c.Signer, now)
			if err := d.Hear(c.Signer, message{Contacts: [][]byte{c.Raw}}.encode(), now); err != nil || d.State(c.Signer) != Alive {
				t.Errorf("it spoke for itself and is %v, %v", d.State(c.Signer), err)
			}
			break
		}
	}
	books(t, d)
	if dials == 0 || len(d.rumours) > 100-dials {
		t.Errorf("%d dials, %d rumours", dials, len(d.rumours))
	}
	for now.Sub(epoch) < rumourLife+2*sweepEvery {
		now = now.Add(time.Second)
		d.Take(now)
	}
	if n := len(d.rumours); n != 0 {
		t.Errorf("%d rumours of long ago", n)
	}
}

// In a full table, and in a full group, those that have never said anything make
// room for one that does; those that have said something stay.
func TestProofMakesRoom(t *testing.T) {
	for name, full := range map[string]func(o *Config){
		"table": func(o *Config) { o.MaxMembers = 20 },
		"group": func(o *Config) { o.Group, o.PerGroup = blocks, 20 },
	} {
		d := detectorWith(t, 5, full)
		for i := 100; i < 200; i++ {
			d.Learn(contactOf(t, i, 1, nil), epoch)
		}
		if d.Take(epoch); d.Len() != 20 {
			t.Fatalf("%s: %d members", name, d.Len())
		}
		for i := 1; i <= 5; i++ { // it is what they said once that counts
			d.Unlinked(testKey(i).Public(), epoch)
		}
		for i := 10; i < 40; i++ {
			c := contactOf(t, i, 1, nil)
			d.Linked(c.Signer, epoch)
			if err := d.Hear(c.Signer, message{Contacts: [][]byte{c.Raw}}.encode(), epoch); err != nil {
				t.Fatal(err)
			}
			books(t, d)
			forgot := 0
			for _, o := range d.Take(epoch).Changes {
				if o.Is == Unknown {
					forgot++
				}
			}
			if made := i < 25; made && (d.State(c.Signer) != Alive || forgot != 1) {
				t.Errorf("%s: newcomer %d is %v, %d forgotten", name, i, d.State(c.Signer), forgot)
			} else if !made && forgot != 0 {
				t.Errorf("%s: one that has spoken was forgotten for newcomer %d", name, i)
			}
		}
		for i := 1; i <= 5; i++ {
			if s := d.State(testKey(i).Public()); s != Alive {
				t.Errorf("%s: neighbour %d is %v", name, i, s)
			}
		}
	}
}

// A contact counts where each of its addresses is.
func TestEveryAddressCounts(t *testing.T) {
	d := newDetector(0, func(o *Config) { o.Group, o.PerGroup = blocks, 4 })
	d.Own(contactOf(t, 0, 1, nil), epoch)
	for i := 1; i <= 10; i++ {
		c := contactOf(t, i, 1, in(byte(10+i), 77, 77)) // the first is always another one
		if got := d.Learn(c, epoch); got != (i <= 4) {
			t.Errorf("contact %d: taken %v", i, got)
		}
	}
	books(t, d)
	if d.Learn(contactOf(t, 20, 1, in(78)), epoch); d.Learn(contactOf(t, 20, 2, in(78, 77)), epoch.Add(time.Second)) {
		t.Error("one more moved in")
	}
	if d.Learn(contactOf(t, 1, 2, in(79)), epoch.Add(time.Second)); !d.Learn(contactOf(t, 21, 1, in(77)), epoch.Add(time.Second)) {
		t.Error("one moved out, and there is no room")
	}
	books(t, d)
}

// Whoever moves to where only the dead are in the way takes their room, as a
// newcomer does.
func TestMoveAmongTheDead(t *testing.T) {
	d := detectorWith(t, 1, func(o *Config) { o.Group, o.PerGroup = blocks, 4 })
	for i := 10; i < 14; i++ {
		d.Learn(contactOf(t, i, 1, in(77)), epoch)
		m := d.members[testKey(i).Public()]
		m.suspected = epoch
		d.become(m, Dead, epoch)
	}
	d.Learn(contactOf(t, 20, 1, in(78)), epoch)
	moved := contactOf(t, 20, 2, in(77))
	if !d.Learn(moved, epoch.Add(time.Second)) || d.State(moved.Signer) != Alive {
		t.Errorf("who moved is %v", d.State(moved.Signer))
	}
	books(t, d)
}

// Where no two words count together, a dial that fails does not undo the one.
func TestFailedDialOfTheOnlyWord(t *testing.T) {
	d := detectorWith(t, 3, func(o *Config) { o.Group, o.PerGroup = func(record.Contact) []string { return []string{"one"} }, 64 })
	c := contactOf(t, 50, 1, nil)
	now := epoch
	if err := d.Hear(testKey(1).Public(), message{Contacts: [][]byte{c.Raw}}.encode(), now); err != nil {
		t.Fatal(err)
	}
	if d.about[c.Signer] == nil {
		t.Fatalf("it is %v and no rumour", d.State(c.Signer))
	}
	d.dial(&d.about[c.Signer].member, forPick, now)
	d.Failed(c.Signer, now)
	for range 200 {
		now = now.Add(100 * time.Millisecond)
		d.Take(now)
	}
	if s := d.State(c.Signer); s == Unknown {
		t.Error("it never became a member")
	}
}

// Many accusations that are refuted at once are no reason to distrust oneself more
// than one is.
func TestHealthOfTheAccused(t *testing.T) {
	d := detectorWith(t, 6, nil)
	now := epoch
	for i := uint64(1); i <= 6; i++ {
		now = now.Add(100 * time.Millisecond)
		a := suspicionOf(int(i), *d.me.contact)
		if err := d.Hear(testKey(int(i)).Public(), message{Accuses: []accusal{a}}.encode(), now); err != nil {
			t.Fatal(err)
		}
		if o := d.Take(now); o.Refute == (record.Order{}) {
			t.Errorf("suspicion %d is not refuted", i)
		}
		d.Own(contactOf(t, 0, i+1, nil), now)
	}
	if d.health != 1 {
		t.Errorf("health %d after six suspicions in a period", d.health)
	}
}

// That a node could not be dialled says nothing of where it is later; that it
// said junk does.
func TestTriedElsewhere(t *testing.T) {
	d := detectorWith(t, 3, nil)
	d.Learn(contactOf(t, 50, 1, nil), epoch)
	m := d.members[testKey(50).Public()]
	if d.dial(m, forPick, epoch); d.fresh(m, epoch.Add(time.Second)) {
		t.Error("tried, and tried again at once")
	}
	d.Learn(contactOf(t, 50, 2, nil), epoch.Add(time.Second))
	if d.fresh(m, epoch.Add(time.Second)) {
		t.Error("signed anew, and tried again at once")
	}
	d.Learn(contactOf(t, 50, 3, in(9)), epoch.Add(2*time.Second))
	if !d.fresh(m, epoch.Add(2*time.Second)) {
		t.Error("it is elsewhere, and is not tried")
	}
	if d.Hear(testKey(1).Public(), []byte("junk"), epoch) == nil {
		t.Fatal("junk was taken")
	}
	d.Learn(contactOf(t, 1, 2, in(9)), epoch)
	if d.fresh(d.members[testKey(1).Public()], epoch.Add(shunned-time.Second)) || !d.fresh(d.members[testKey(1).Public()], epoch.Add(shunned)) {
		t.Error("shunned for another time than it should be")
	}
}

// A stream that is of no use for something else any more is closed with a word,
// unless membership needs it.
func TestRelease(t *testing.T) {
	for _, members := range []int{5, 40} {
		d := detectorWith(t, 2, nil)
		for i := 10; i < 8+members; i++ {
			d.Learn(contactOf(t, i, 1, nil), epoch)
		}
		d.Take(epoch)
		former := testKey(1).Public()
		d.Release(former, epoch)
		dropped, bye := false, false
		for now := epoch; now.Sub(epoch) < 3*linger; now = now.Add(500 * time.Millisecond) {
			for i := 1; i <= 2; i++ {
				_ = d.Hear(testKey(i).Public(), message{}.encode(), now)
			}
			o := d.Take(now)
			for _, e := range o.Send {
				if m, _ := parse(e.Msg); e.To == former && m.Bye {
					bye = true
				}
			}
			for _, k := range o.Drop {
				dropped = dropped || k == former
			}
		}
		if want := members > allUpTo; dropped != want || bye != want {
			t.Errorf("%d members: dropped %v, told %v", members, dropped, bye)
		}
	}
}
