package pulse

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/swim"
)

var update = flag.Bool("update", false, "rewrite testdata/messages.txt")

func rowOf(t testing.TB, i int, sequence uint64, issued time.Time, change func(*record.RowOffer)) record.Row {
	t.Helper()
	o := offerOf(i)
	o.Order, o.Issued, o.TTL = record.Order{Incarnation: 9, Sequence: sequence}, issued, 10*time.Second
	if change != nil {
		change(&o)
	}
	r, err := record.SignRow(testKey(i), testNet.ID(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// messages are examples by name.
func messages(t testing.TB) map[string]message {
	one, two := rowOf(t, 1, 1, epoch, nil), rowOf(t, 1, 2, epoch.Add(2*time.Second), nil)
	node := tagOf(one.Signer)
	s := splice(one.Raw, two.Raw)
	s.Node, s.Age = node[:], 12
	return map[string]message{
		"empty":  {},
		"row":    {Rows: []fullNews{{Age: 3, Row: one.Raw}}},
		"splice": {Splices: []spliceNews{s}},
		"hello": {Rows: []fullNews{{Row: one.Raw}}, All: true, Told: true, Linked: [][]byte{node[:]},
			Holds: []holding{{Node: node[:], Incarnation: 9, Sequence: 1}}},
		"ask":     {Holds: []holding{{Node: node[:]}}},
		"nothing": {nodes: [][]byte{{}}},
		"nodes":   {nodes: [][]byte{[]byte("of swim")}},
	}
}

func encoded(t testing.TB, m message) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := writeMessage(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestMessageRoundTrip(t *testing.T) {
	for name, m := range messages(t) {
		b := encoded(t, m)
		got, err := readMessage(bytes.NewReader(b))
		if err != nil || !bytes.Equal(encoded(t, got), b) {
			t.Errorf("%s: came back as %+v, %v", name, got, err)
		}
		if _, err := readMessage(bytes.NewReader(b[:len(b)-1])); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			t.Errorf("%s, cut: %v", name, err)
		}
		t.Logf("%s: %d bytes", name, len(b))
	}
}

func TestReadMessageRefuses(t *testing.T) {
	short := []byte{1, 2, 3}
	sig := make([]byte, identity.SignatureSize)
	node := make([]byte, tagSize)
	many := func(n int) (all [][]byte) {
		for range n {
			all = append(all, node)
		}
		return all
	}
	for name, m := range map[string]message{
		"short tag":      {Holds: []holding{{Node: short}}},
		"short link":     {Linked: [][]byte{short}},
		"too many links": {Linked: many(MaxLinks + 1)},
		"too many rows":  {Rows: make([]fullNews, maxNews+1)},
		"too many holdings": {Holds: func() (h []holding) {
			for range MaxNodes + 1 {
				h = append(h, holding{Node: node})
			}
			return h
		}()},
		"too many splices":    {Splices: make([]spliceNews, maxNews+1)},
		"splice of no node":   {Splices: []spliceNews{{Node: short, Base: make([]byte, baseSize), Sig: sig}}},
		"splice without base": {Splices: []spliceNews{{Node: node, Sig: sig}}},
		"short signature":     {Splices: []spliceNews{{Node: node, Base: make([]byte, baseSize), Sig: sig[1:]}}},
		"too many patches":    {Splices: []spliceNews{{Node: node, Base: make([]byte, baseSize), Sig: sig, Patches: make([]patch, maxPatches+1)}}},
	} {
		if _, err := readMessage(bytes.NewReader(encoded(t, m))); !errors.Is(err, errWire) {
			t.Errorf("%s: %v, want errWire", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"too long":      append([]byte{0x40, 1}, make([]byte, MaxMessage+1)...),
		"too long too":  append([]byte{0x80 | 0x20, 1}, make([]byte, swim.MaxMessage+1)...),
		"nothing":       {0, 0},
		"not an array":  {0, 1, 0xa0},
		"trailing byte": append([]byte{0, byte(len(encoded(t, message{})) - 1)}, append(encoded(t, message{})[2:], 0)...),
	} {
		if _, err := readMessage(bytes.NewReader(b)); !errors.Is(err, errWire) {
			t.Errorf("%s: %v, want errWire", name, err)
		}
	}
	if _, err := writeMessage(io.Discard, message{Rows: []fullNews{{Row: make([]byte, MaxMessage)}}}); err == nil {
		t.Error("a message was sent that nobody reads")
	}
	if _, err := writeMessage(io.Discard, message{nodes: [][]byte{make([]byte, swim.MaxMessage+1)}}); err == nil {
		t.Error("a message of swim was sent that nobody reads")
	}
}

// Messages of both kinds travel in one Write, in order.
func TestMessagesTogether(t *testing.T) {
	long := bytes.Repeat([]byte{7}, swim.MaxMessage)
	ask := messages(t)["ask"]
	both := ask
	both.nodes = [][]byte{{}, []byte("one"), long}
	var b bytes.Buffer
	n, err := writeMessage(&b, both)
	if err != nil || n != b.Len() {
		t.Fatalf("wrote %d of %d bytes: %v", n, b.Len(), err)
	}
	for i, want := range both.nodes {
		if m, err := readMessage(&b); err != nil || len(m.nodes) != 1 || !bytes.Equal(m.nodes[0], want) || m.some() {
			t.Errorf("%d: %+v, %v", i, m, err)
		}
	}
	if m, err := readMessage(&b); err != nil || !bytes.Equal(encoded(t, m), encoded(t, ask)) || b.Len() > 0 {
		t.Errorf("%+v, %v, %d bytes left", m, err, b.Len())
	}
}

func TestSplice(t *testing.T) {
	old := rowOf(t, 1, 1, epoch, nil)
	for name, c := range map[string]struct {
		raw []byte
		max int // bytes of a message
	}{
		"same row":      {old.Raw, 100},
		"next sequence": {rowOf(t, 1, 2, epoch.Add(2*time.Second), nil).Raw, 110},
		"other load":    {rowOf(t, 1, 2, epoch.Add(2*time.Second), func(o *record.RowOffer) { o.Cells[0].Replicas[0].CPU = 900 }).Raw, 120},
		"no cell":       {rowOf(t, 1, 2, epoch.Add(2*time.Second), func(o *record.RowOffer) { o.Cells = nil }).Raw, 130},
		"goodbye":       {rowOf(t, 1, 2, epoch.Add(2*time.Second), func(o *record.RowOffer) { o.TTL, o.Cells, o.Member = 0, nil, nil }).Raw, 130},
	} {
		s := splice(old.Raw, c.raw)
		got, err := s.apply(old.Raw)
		s.Node = make([]byte, tagSize)
		if n := len(encoded(t, message{Splices: []spliceNews{s}})); err != nil || !bytes.Equal(got, c.raw) || n > c.max || n > s.size() {
			t.Errorf("%s: %v, %d bytes, want up to %d and %d", name, err, n, c.max, s.size())
		}
	}
	for _, s := range [][]patch{{{Copy: 60000}}, {{Drop: 60000}}, {{Copy: 60000, Drop: 60000}}, {{Put: make([]byte, record.MaxRowSize)}},
		{{Copy: 200}, {Copy: 200, Put: make([]byte, 1000)}, {Put: make([]byte, 1000)}}} {
		if raw, err := (spliceNews{Sig: old.Raw[:identity.SignatureSize], Patches: s}).apply(old.Raw); err == nil {
			t.Errorf("%+v made a row of %d bytes", s, len(raw))
		}
	}
}

// The bytes of a message are the protocol: this file may only grow.
func TestVectors(t *testing.T) {
	var b strings.Builder
	all := messages(t)
	for _, name := range []string{"empty", "row", "splice", "hello", "ask", "nothing", "nodes"} {
		b.WriteString(name + " " + hex.EncodeToString(encoded(t, all[name])) + "\n")
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

func FuzzReadMessage(f *testing.F) {
	for _, m := range messages(f) {
		f.Add(encoded(f, m))
	}
	old := rowOf(f, 1, 1, epoch, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readMessage(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, s := range m.Splices {
			if raw, err := s.apply(old.Raw); err == nil && len(raw) > record.MaxRowSize {
				t.Errorf("a row of %d bytes", len(raw))
			}
		}
		var c bytes.Buffer
		if _, err := writeMessage(&c, m); err != nil {
			return // deterministic encoding may be longer than what came
		}
		if again, err := readMessage(&c); err != nil || !reflect.DeepEqual(m, again) {
			t.Errorf("%+v came back as %+v, %v", m, again, err)
		}
	})
}

func FuzzSplice(f *testing.F) {
	f.Add([]byte("abcdef"), []byte("abxdef"))
	f.Add([]byte("aaaa"), []byte("aa"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		sig := make([]byte, identity.SignatureSize)
		old, raw := append(bytes.Clone(sig), a...), append(bytes.Clone(sig), b...)
		if len(old) > record.MaxRowSize || len(raw) > record.MaxRowSize {
			return
		}
		s := splice(old, raw)
		if got, err := s.apply(old); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%x came back as %x, %v", raw, got, err)
		}
	})
}
