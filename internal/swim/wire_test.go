package swim

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

var update = flag.Bool("update", false, "rewrite testdata/messages.txt")

func contactOf(t testing.TB, i int, sequence uint64, change func(*record.ContactOffer)) record.Contact {
	t.Helper()
	o := record.ContactOffer{Addrs: [][]byte{{4, 10, 0, 0, byte(i), 0x91, 2, 0x23, 0x6b, 0xcc, 3}}, Server: true,
		Order: record.Order{Incarnation: 9, Sequence: sequence}, Issued: epoch}
	if change != nil {
		change(&o)
	}
	c, err := record.SignContact(testKey(i), testNet, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func suspicionOf(i int, c record.Contact) accusal {
	n := idOf(c.Raw)
	return accusal{ID: n[:], Accuser: testKey(i).Public(), Sig: testKey(i).Sign(accusalText(testNet, n))}
}

// messages are examples by name, in order.
func messages(t testing.TB) (names []string, all map[string]message) {
	one, two := contactOf(t, 1, 1, nil), contactOf(t, 2, 1, nil)
	a, b := idOf(one.Raw), idOf(two.Raw)
	both := append(bytes.Clone(a[:]), b[:]...)
	return []string{"empty", "ping", "ack", "contact", "names", "wants", "suspicion", "ask", "tell", "sum", "buckets", "holds", "bye"}, map[string]message{
		"empty":     {},
		"ping":      {Ping: 4711},
		"ack":       {Acks: []uint64{4711}},
		"contact":   {Contacts: [][]byte{one.Raw, two.Raw}},
		"names":     {Haves: both},
		"wants":     {Wants: both},
		"suspicion": {Accuses: []accusal{suspicionOf(3, one)}},
		"ask":       {Asks: []ask{{Nonce: 7, ID: a[:]}}},
		"tell":      {Tells: []tell{{Nonce: 7, OK: true}, {Nonce: 8}}},
		"sum":       {Sum: a[:]},
		"buckets":   {Buckets: bytes.Repeat([]byte{1, 2, 3, 4}, buckets)},
		"holds":     {About: 1 << 63, Holds: both},
		"bye":       {Bye: true},
	}
}

func TestMessageRoundTrip(t *testing.T) {
	names, all := messages(t)
	for _, name := range names {
		b := all[name].encode()
		got, err := parse(b)
		if err != nil || !reflect.DeepEqual(got, all[name]) {
			t.Errorf("%s: came back as %+v, %v", name, got, err)
		}
		for n := range b {
			if _, err := parse(b[:n]); !errors.Is(err, ErrMessage) {
				t.Errorf("%s, the first %d bytes: %v", name, n, err)
			}
		}
		t.Logf("%s: %d bytes", name, len(b))
	}
}

func TestParseRefuses(t *testing.T) {
	eight, key := make([]byte, idSize), testKey(1).Public()
	sig := make([]byte, identity.SignatureSize)
	for name, m := range map[string]message{
		"part of an id":         {Haves: eight[1:]},
		"part of a want":        {Wants: eight[1:]},
		"part of a holding":     {About: 1, Holds: eight[1:]},
		"short sum":             {Sum: eight[1:]},
		"short buckets":         {Buckets: make([]byte, buckets*bucketSize-1)},
		"too many answers":      {Acks: make([]uint64, maxAcks+1)},
		"too many contacts":     {Contacts: make([][]byte, maxContacts+1)},
		"short contact":         {Contacts: [][]byte{make([]byte, identity.SignatureSize)}},
		"long contact":          {Contacts: [][]byte{make([]byte, record.MaxContactSize+1)}},
		"too many asks":         {Asks: make([]ask, maxAsks+1)},
		"ask about nobody":      {Asks: []ask{{Nonce: 1}}},
		"too many tells":        {Tells: make([]tell, maxAsks+1)},
		"suspicion of nobody":   {Accuses: []accusal{{Accuser: key, Sig: sig}}},
		"suspicion by nobody":   {Accuses: []accusal{{ID: eight, Sig: sig}}},
		"suspicion not signed":  {Accuses: []accusal{{ID: eight, Accuser: key, Sig: sig[1:]}}},
		"more than one message": {Haves: make([]byte, MaxMessage)},
	} {
		if _, err := parse(m.encode()); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string]string{
		"nothing":          "",
		"an array":         "80",
		"trailing byte":    "a000",
		"unknown key":      "a10e01",
		"text key":         "a16450696e6701",
		"key twice":        "a201010102",
		"negative ping":    "a10120",
		"ping of a float":  "a101f93c00",
		"tagged":           "c1a0",
		"indefinite":       "bfff",
		"indefinite bytes": "a1045f48000000000000000048000000000000000" + "0ff",
	} {
		raw, err := hex.DecodeString(b)
		if err != nil {
			t.Fatal(name, err)
		}
		if m, err := parse(raw); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

// The bytes of a message are the protocol: this file may only grow.
func TestVectors(t *testing.T) {
	var b strings.Builder
	names, all := messages(t)
	for _, name := range names {
		b.WriteString(name + " " + hex.EncodeToString(all[name].encode()) + "\n")
	}
	if *update {
		if err := os.WriteFile("testdata/messages.txt", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/messages.txt")
	if err != nil || b.String() != string(want) {
		t.Errorf("messages no longer encode as in testdata/messages.txt (%v)", err)
	}
}

func FuzzParse(f *testing.F) {
	_, all := messages(f)
	for _, m := range all {
		f.Add(m.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b)
		if err != nil {
			if !errors.Is(err, ErrMessage) {
				t.Errorf("untyped error: %v", err)
			}
			return
		}
		c := m.encode()
		if len(c) > MaxMessage {
			return // what came in was shorter: nothing empty is ever sent
		}
		again, err := parse(c)
		if err != nil || !bytes.Equal(again.encode(), c) {
			t.Errorf("%+v came back as %+v, %v", m, again, err)
		}
	})
}

// Whatever a neighbour says, and in whichever order things happen, a detector
// keeps its books and its limits.
func FuzzDetector(f *testing.F) {
	names, all := messages(f)
	for _, m := range all {
		f.Add(append([]byte{0, byte(len(m.encode()))}, m.encode()...))
	}
	var contacts [10][16]record.Contact
	for i := range contacts {
		for n := range contacts[i] {
			contacts[i][n] = contactOf(f, i, uint64(n), func(o *record.ContactOffer) { o.Left = n%4 == 0 })
		}
	}
	own := contactOf(f, 0, 1, nil)
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 1, 9, 2, 9, 3, 9, 4, 9, 5, 40, 6, 40, 5, 200, 1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		d := newDetector(0, func(c *Config) { c.MaxMembers = 4 })
		now := epoch
		d.Own(own, now)
		for len(b) > 1 && len(b) < 1<<10 {
			op, n := b[0], int(b[1])
			b = b[2:]
			i := 1 + n%9
			k := testKey(i).Public()
			switch op % 8 {
			case 0:
				n = min(n, len(b))
				_ = d.Hear(testKey(1).Public(), b[:n], now)
				b = b[n:]
			case 1:
				d.Linked(k, now)
			case 2:
				d.Unlinked(k, now)
			case 3:
				d.Failed(k, now)
			case 4:
				d.Learn(contacts[i][n%16], now)
			case 5:
				now = now.Add(time.Duration(n) * 100 * time.Millisecond)
			case 6:
				_ = d.Hear(k, all[names[n%len(names)]].encode(), now)
			}
			o := d.Take(now)
			if o.Next.Before(now) {
				t.Fatalf("look again %v ago", now.Sub(o.Next))
			}
			for _, e := range o.Send {
				if _, err := parse(e.Msg); err != nil {
					t.Fatalf("said something malformed: %v", err)
				}
			}
			books(t, d)
		}
	})
}

func newDetector(i int, change func(*Config)) *Detector {
	c := Config{Self: testKey(i).Public(), Network: testNet, Sign: testKey(i).Sign, Rand: rand.New(rand.NewPCG(1, 2))}
	if change != nil {
		change(&c)
	}
	return New(c)
}

// books checks what a detector counts against what it holds.
func books(t testing.TB, d *Detector) {
	t.Helper()
	var sum id
	live, dead, gone, suspects := 0, 0, 0, 0
	add := func(i id) {
		for n := range sum {
			sum[n] ^= i[n]
		}
	}
	if d.me.contact != nil && !d.me.contact.Left {
		add(d.me.id)
	}
	groups := map[string]int{}
	for at, m := range d.order {
		switch {
		case m.state == Unknown, m.place != at, d.members[m.contact.Signer] != m, d.ids[m.id] != m:
			t.Fatalf("member %s in state %v is out of place", m.contact.Signer.Short(), m.state)
		case m.link != nil && (m.link.member != m || d.links[m.link.node] != m.link):
			t.Fatal("a member with a link that is not its own")
		}
		if m.state.live() {
			live++
			add(m.id)
		}
		for _, g := range m.groups {
			groups[g]++
		}
		dead += count(m.state == Dead)
		gone += count(m.state.Gone())
		suspects += count(m.state == Suspect)
	}
	if live != d.live || dead != d.dead || gone != len(d.gone) || suspects != len(d.suspects) || sum != d.sum || !reflect.DeepEqual(groups, d.groups) {
		t.Fatalf("%d live, %d dead, %d gone, %d suspect, but %d, %d, %d, %d are counted, or sums differ", live, dead, gone, suspects,
			d.live, d.dead, len(d.gone), len(d.suspects))
	}
	if len(d.order) > d.cfg.MaxMembers+spare || len(d.ids) > 2*len(d.order) || len(d.members) != len(d.order) || len(d.links) != len(d.list) ||
		len(d.refused) > maxRefused || len(d.wanted) > maxWanted || len(d.dials) > maxPending || len(d.favours) > maxFavours {
		t.Fatal("a limit is exceeded")
	}
	for at, r := range d.rumours {
		if r.place != at || r.state != Unknown || d.about[r.contact.Signer] != r || d.heardOf[r.id] != r || d.members[r.contact.Signer] != nil {
			t.Fatalf("a rumour of %s is out of place", r.contact.Signer.Short())
		}
	}
	if n := len(d.rumours); n > d.cfg.MaxMembers || len(d.about) != n || len(d.heardOf) != n {
		t.Fatalf("%d rumours, %d, %d", n, len(d.about), len(d.heardOf))
	}
	for _, p := range d.probes {
		if p.member.probe != p {
			t.Fatal("a probe of somebody else")
		}
	}
}

func count(is bool) int {
	if is {
		return 1
	}
	return 0
}
