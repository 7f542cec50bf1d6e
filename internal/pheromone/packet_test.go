package pheromone

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

var update = flag.Bool("update", false, "rewrite testdata/vectors.txt")

var epoch = time.UnixMilli(1_700_000_000_000)

type vector struct {
	name string
	p    Packet
}

func vectors(t testing.TB) []vector {
	t.Helper()
	query := func(key identity.NameKey) []byte {
		raw, err := signQuery(key9, network.ID(), key, 42, epoch)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	greeter := lease(t, 1, "greeter", epoch)
	packet := func(kind Kind, records ...[]byte) Packet {
		return Packet{Kind: kind, Network: tagOf(network.ID()), Records: records}
	}
	return []vector{
		{"announce", packet(KindAnnounce, greeter.Raw, lease(t, 1, "ledger", epoch).Raw)},
		{"query-any", packet(KindQuery, query(identity.NameKey{}))},
		{"query-cell", packet(KindQuery, query(greeter.Cell.Key(network.ID())))},
		{"answer", packet(KindAnswer, greeter.Raw)},
		{"goodbye", packet(KindGoodbye, tombstone(t, 1, "greeter", epoch).Raw)},
		{"bytes", packet(KindAnswer, []byte{1}, []byte{2, 3})},
	}
}

// The packets of other implementations must be read and written like these.
func TestVectors(t *testing.T) {
	const path = "testdata/vectors.txt"
	var text strings.Builder
	for _, v := range vectors(t) {
		fmt.Fprintf(&text, "%s %x\n", v.name, v.p.Append(nil))
	}
	if *update {
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text.String() != string(want) {
		t.Errorf("packets are written otherwise than in %s", path)
	}
	for i, line := range strings.Split(strings.TrimSpace(string(want)), "\n") {
		_, digits, _ := strings.Cut(line, " ")
		b, err := hex.DecodeString(digits)
		if err != nil {
			t.Fatal(err)
		}
		v := vectors(t)[i]
		if p, err := ParsePacket(b); err != nil || !reflect.DeepEqual(p, v.p) {
			t.Errorf("%s: read as %+v, %v", v.name, p, err)
		}
	}
}

func TestQueryRoundTrip(t *testing.T) {
	for _, want := range []identity.NameKey{{}, {1, 2, 3}} {
		raw, err := signQuery(key9, network.ID(), want, 1<<63, epoch)
		if err != nil {
			t.Fatal(err)
		}
		for _, skew := range []time.Duration{-record.MaxSkew, 0, record.MaxSkew + queryTTL} {
			if q, err := openQuery(raw, network.ID(), epoch.Add(skew)); err != nil || q.key != want || q.asker != key9.Public() {
				t.Errorf("%v later: %+v, %v", skew, q, err)
			}
		}
		for skew, want := range map[time.Duration]error{-record.MaxSkew - 1: record.ErrClock, record.MaxSkew + queryTTL + 1: record.ErrStale} {
			if q, err := openQuery(raw, network.ID(), epoch.Add(skew)); !errors.Is(err, want) {
				t.Errorf("%v later: %+v, %v", skew, q, err)
			}
		}
		raw[1] ^= 1
		if q, err := openQuery(raw, network.ID(), epoch); !errors.Is(err, record.ErrSignature) {
			t.Errorf("forged: %+v, %v", q, err)
		}
	}
}

func TestPack(t *testing.T) {
	sizes := func(lengths ...int) (records [][]byte) {
		for _, n := range lengths {
			records = append(records, make([]byte, n))
		}
		return records
	}
	const room = MaxPacket - headerSize - lengthSize
	for _, c := range []struct {
		records [][]byte
		want    []int // records in each packet
	}{
		{nil, nil},
		{sizes(1), []int{1}},
		{sizes(room), []int{1}},
		{sizes(room-lengthSize-1, 1), []int{2}},
		{sizes(room-lengthSize, 1), []int{1, 1}},
		{sizes(600, 600, 600, 600, 600), []int{2, 2, 1}},
		{sizes(record.MaxLeaseSize, record.MaxLeaseSize), []int{1, 1}},
		{sizes(make([]int, 300)...), []int{maxRecords, 300 - maxRecords}},
	} {
		var got []int
		for _, p := range pack(KindAnnounce, c.records) {
			got = append(got, len(p.Records))
			p.Append(nil) // panics where it is too long
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("packed as %d, want %d", got, c.want)
		}
	}
}

func TestLimiter(t *testing.T) {
	l := newLimiter(10, 20)
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	count := func(addr netip.Addr, now time.Time) (n int) {
		for range 100 {
			if l.allow(addr, now) {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		addr  netip.Addr
		after time.Duration
		want  int
	}{{a, 0, 20}, {a, 0, 0}, {b, 0, 20}, {a, 500 * time.Millisecond, 5}, {a, time.Second, 5}, {a, time.Hour, 20}, {b, time.Hour, 20}} {
		if got := count(c.addr, epoch.Add(c.after)); got != c.want {
			t.Errorf("%v after %v: %d, want %d", c.addr, c.after, got, c.want)
		}
	}
	now, allowed := epoch.Add(2*time.Hour), 0
	for i := range 10 * maxSources { // made-up addresses share what is left
		if l.allow(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), now) {
			allowed++
		}
	}
	if len(l.budgets) > maxSources+1 || allowed > maxSources+20 {
		t.Errorf("%d addresses are remembered, %d allowed", len(l.budgets), allowed)
	}
	if count(netip.MustParseAddr("12.0.0.1"), now.Add(time.Minute)) != 20 || len(l.budgets) > maxSources {
		t.Error("idle addresses are not forgotten")
	}
}

func TestRecentIsBounded(t *testing.T) {
	r := newRecent()
	raw := func(i int) []byte { return fmt.Append(nil, i) }
	for i := range 3 * maxRecent {
		r.note(raw(i), epoch.Add(time.Duration(i)))
		r.note(raw(i), epoch.Add(time.Duration(i)))
	}
	if len(r.met) != maxRecent || len(r.ring) != maxRecent {
		t.Errorf("%d records are remembered, %d places taken", len(r.met), len(r.ring))
	}
	if got := r.last(raw(3*maxRecent - 1)); !got.Equal(epoch.Add(3*maxRecent - 1)) {
		t.Error("the last one is forgotten:", got)
	}
	if !r.last(raw(2*maxRecent)).Equal(epoch.Add(2*maxRecent)) || !r.last(raw(2*maxRecent-1)).IsZero() {
		t.Error("not the oldest ones have been forgotten")
	}
}

func FuzzParsePacket(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.p.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePacket(b)
		if err != nil {
			if r := reason(err); r != "oversize" && r != "malformed" && r != "version" {
				t.Errorf("%v is counted as %s", err, r)
			}
			return
		}
		again := p.Append(nil)
		again[7] = b[7] // reserved
		if !bytes.Equal(again, b) {
			t.Errorf("%x came back as %x", b, again)
		}
	})
}

// FuzzHandle gives a node whatever the network may bring. Whoever has no key
// can at most repeat what node 1 said.
func FuzzHandle(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.p.Append(nil))
	}
	fresh := Packet{Kind: KindAnnounce, Network: tagOf(network.ID()), Records: [][]byte{lease(f, 1, "greeter", time.Now()).Raw}}
	f.Add(fresh.Append(nil))
	question, err := signQuery(key9, network.ID(), identity.NameKey{}, 1, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(Packet{Kind: KindQuery, Network: tagOf(network.ID()), Records: [][]byte{question}}.Append(nil))
	own := lease(f, 5, "greeter", time.Now())
	f.Fuzz(func(t *testing.T, b []byte) {
		l := New(Config{Network: network, Key: key(5), OnLease: func(l record.Lease) {
			if l.Signer != key(1).Public() {
				t.Errorf("a lease that nobody signed: %x", l.Raw)
			}
		}})
		l.Announce(own)
		l.handle(b, netip.MustParseAddrPort("10.0.0.7:9"))
		if len(l.answers) > 1 {
			t.Errorf("%d answers to one packet", len(l.answers))
		}
	})
}

func FuzzOpenQuery(f *testing.F) {
	for _, v := range vectors(f)[1:3] {
		f.Add(v.p.Records[0])
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if q, err := openQuery(raw, network.ID(), epoch); err == nil && q.asker != key9.Public() {
			t.Errorf("a query of %v, whose key the fuzzer does not have", q.asker)
		}
	})
}
