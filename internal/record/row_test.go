package record

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
)

func replica(id uint64) RowReplica {
	return RowReplica{ID: id, Generation: id, State: ReplicaLive, Offered: 123_456, Inflight: 7_500, P99: 12_000, CPU: 612, Memory: 48}
}

func rowOffer(t testing.TB) RowOffer {
	_, m := certs(t)
	return RowOffer{
		Capacity: Capacity{CPU: 8000, CPUFree: 6500, Memory: 16384, MemoryFree: 9000, Room: 6},
		Cells: []RowCell{
			{Cell: hello, Code: true, Epoch: 1, Seq: 3, Replicas: []RowReplica{replica(1), replica(2)},
				Population: population(t, author, nil).Raw},
			{Cell: identity.Cell{Author: author.Public(), Name: "ledger"}, Code: true, Epoch: 1, Seq: 1, Waiting: 2},
		},
		Member: m.Raw, Order: Order{1_700_000_000_000, 7}, Issued: epoch, TTL: 10 * time.Second,
	}
}

func row(t testing.TB, change func(*RowOffer)) Row {
	t.Helper()
	o := rowOffer(t)
	if change != nil {
		change(&o)
	}
	r, err := SignRow(node, net0, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRowRoundTrip(t *testing.T) {
	want := rowOffer(t)
	got, err := OpenRow(bytes.Clone(row(t, nil).Raw), net0, epoch.Add(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if got.Node() != node.Public() || got.Order != want.Order || got.TTL != want.TTL || got.Goodbye() ||
		got.Capacity != want.Capacity || got.Member == nil || got.Member.Signer != colony.Public() {
		t.Errorf("came back as %+v", got)
	}
	want.Cells[1].Replicas = got.Cells[1].Replicas // nil or empty
	if !reflect.DeepEqual(got.Cells, want.Cells) {
		t.Errorf("cells came back as %+v, want %+v", got.Cells, want.Cells)
	}
	bye := row(t, func(o *RowOffer) { o.TTL, o.Cells = 0, nil })
	if _, err := OpenRow(bye.Raw, net0, epoch.Add(MaxRowTTL+MaxSkew)); err != nil || !bye.Goodbye() {
		t.Errorf("a goodbye: %v", err)
	}
}

func TestRowSizes(t *testing.T) {
	size := func(cells, replicas int) int {
		o := rowOffer(t)
		o.Cells = nil
		for i := range cells {
			c := RowCell{Cell: identity.Cell{Author: author.Public(), Name: identity.Name(fmt.Sprintf("service-%d", i))}, Code: true, Epoch: 1, Seq: 1}
			for j := range replicas {
				c.Replicas = append(c.Replicas, replica(uint64(100*i+j)))
			}
			o.Cells = append(o.Cells, c)
		}
		r, err := SignRow(node, net0, o)
		if err != nil {
			t.Fatalf("%d cells of %d replicas: %v", cells, replicas, err)
		}
		return len(r.Raw)
	}
	if n := size(4, 14); n > MaxRowSize {
		t.Errorf("56 replicas of 4 cells take %d bytes", n)
	}
	if n := size(2, 8); n > MaxLeaseSize {
		t.Errorf("8 replicas of 2 cells take %d bytes, too many for a packet", n)
	}
	t.Logf("bytes: no cell %d, 1 cell 1 replica %d, 2 cells 4 replicas each %d, 2 of 8 %d, 4 of 14 %d", size(0, 0), size(1, 1), size(2, 4), size(2, 8), size(4, 14))
}

// What others must know, replicas and callers, is never left out in silence.
func TestSignRowShedsIdleCells(t *testing.T) {
	o := rowOffer(t)
	for i := range 2 * MaxRowCells {
		o.Cells = append(o.Cells, RowCell{Cell: identity.Cell{Author: author.Public(), Name: identity.Name(fmt.Sprintf("idle-%d", i))}, Code: true})
	}
	r, err := SignRow(node, net0, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Cells) < 10 || len(r.Cells) > MaxRowCells || r.Cells[0].Cell != hello || r.Cells[1].Waiting != 2 || r.Cells[2].Cell.Name != "idle-0" {
		t.Errorf("kept %d cells: %+v", len(r.Cells), r.Cells)
	}
	for i := range o.Cells {
		o.Cells[i].Replicas = []RowReplica{replica(1)}
	}
	if _, err := SignRow(node, net0, o); !errors.Is(err, ErrSize) {
		t.Errorf("%d cells with replicas: %v, want ErrSize", len(o.Cells), err)
	}
}

// A stopped cell is idle, and others must hear of it all the same.
func TestSignRowShedsPopulationsLast(t *testing.T) {
	full := bytes.Repeat([]byte{7}, MaxPopulationSize)
	o := rowOffer(t)
	o.Cells = []RowCell{{Cell: identity.Cell{Author: author.Public(), Name: "stopped"}, Population: full}}
	for i := range 2 * MaxRowCells {
		o.Cells = append(o.Cells, RowCell{Cell: identity.Cell{Author: author.Public(), Name: identity.Name(fmt.Sprintf("idle-%d", i))}, Code: true})
	}
	o.Cells = append(o.Cells, RowCell{Cell: hello, Replicas: []RowReplica{replica(1)}, Population: full},
		RowCell{Cell: identity.Cell{Author: author.Public(), Name: "last"}, Population: full})
	r, err := SignRow(node, net0, o)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.Cells); n < 4 || r.Cells[0].Cell.Name != "stopped" || r.Cells[n-2].Cell != hello || r.Cells[n-1].Cell.Name != "last" ||
		len(r.Cells[0].Population) == 0 || len(r.Cells[n-2].Population) == 0 || len(r.Cells[n-1].Population) == 0 {
		t.Errorf("kept %d cells: %+v", n, r.Cells)
	}

	o.Cells = nil
	for i := range 8 {
		o.Cells = append(o.Cells, RowCell{Cell: identity.Cell{Author: author.Public(), Name: identity.Name(fmt.Sprintf("busy-%d", i))},
			Replicas: []RowReplica{replica(1)}, Population: full})
	}
	if r, err = SignRow(node, net0, o); err != nil {
		t.Fatal(err)
	}
	if len(r.Cells) != 8 || len(r.Cells[0].Population) == 0 || len(r.Cells[7].Population) != 0 || len(r.Cells[7].Replicas) != 1 {
		t.Errorf("kept %+v", r.Cells)
	}
	if len(o.Cells[7].Population) == 0 {
		t.Error("the offer of the caller has changed")
	}
}

func TestOpenRowRefuses(t *testing.T) {
	good := row(t, nil)
	_, m := certs(t)
	foreign, _ := SignMember(colony, net0, mallet.Public(), epoch, year)
	old, _ := SignMember(colony, net0, node.Public(), epoch.Add(-year), time.Hour)
	otherNet, _ := SignMember(colony, identity.Network("else").ID(), node.Public(), epoch, year)
	sign := func(ttl time.Duration, change func(*rowPayload)) []byte {
		p := rowPayload{Cells: []rowCellPayload{{Author: author.Public(), Name: "greeter", Replicas: []RowReplica{replica(1)}}}, Member: m.Raw}
		change(&p)
		raw, err := Sign(node, Header{Domain: DomainRow, Network: net0, Issued: epoch, TTL: ttl}, p)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	payload := func(change func(*rowPayload)) []byte { return sign(MinRowTTL, change) }
	if _, err := OpenRow(payload(func(*rowPayload) {}), net0, epoch); err != nil {
		t.Fatalf("the row that the cases change: %v", err)
	}
	flip := bytes.Clone(good.Raw)
	flip[len(flip)-10] ^= 1 // within the membership
	for name, c := range map[string]struct {
		raw  []byte
		at   time.Time
		want error
	}{
		"empty":                  {nil, epoch, ErrMalformed},
		"cut":                    {good.Raw[:len(good.Raw)-1], epoch, ErrMalformed},
		"trailing byte":          {append(bytes.Clone(good.Raw), 0), epoch, ErrMalformed},
		"too long":               {make([]byte, MaxRowSize+1), epoch, ErrSize},
		"flipped":                {flip, epoch, ErrSignature},
		"lease as row":           {lease(t, nil).Raw, epoch, ErrDomain},
		"from the future":        {good.Raw, epoch.Add(-MaxSkew - time.Second), ErrClock},
		"replayed":               {good.Raw, epoch.Add(10*time.Second + MaxSkew + time.Second), ErrStale},
		"ttl too short":          {sign(time.Second, func(*rowPayload) {}), epoch, ErrMalformed},
		"ttl too long":           {sign(time.Hour, func(*rowPayload) {}), epoch, ErrMalformed},
		"cell twice":             {payload(func(p *rowPayload) { p.Cells = append(p.Cells, p.Cells[0]) }), epoch, ErrMalformed},
		"33 cells":               {payload(func(p *rowPayload) { p.Cells = make([]rowCellPayload, 33) }), epoch, ErrMalformed},
		"bad name":               {payload(func(p *rowPayload) { p.Cells[0].Name = "A B" }), epoch, ErrMalformed},
		"no author":              {payload(func(p *rowPayload) { p.Cells[0].Author = identity.Key{} }), epoch, ErrMalformed},
		"population too long":    {payload(func(p *rowPayload) { p.Cells[0].Population = make([]byte, MaxPopulationSize+1) }), epoch, ErrMalformed},
		"replica twice":          {payload(func(p *rowPayload) { p.Cells[0].Replicas = []RowReplica{replica(1), replica(1)} }), epoch, ErrMalformed},
		"no state":               {payload(func(p *rowPayload) { p.Cells[0].Replicas[0].State = 0 }), epoch, ErrMalformed},
		"unknown state":          {payload(func(p *rowPayload) { p.Cells[0].Replicas[0].State = 6 }), epoch, ErrMalformed},
		"someone else's member":  {payload(func(p *rowPayload) { p.Member = foreign.Raw }), epoch, ErrGrant},
		"expired membership":     {payload(func(p *rowPayload) { p.Member = old.Raw }), epoch, ErrGrant},
		"membership of a domain": {payload(func(p *rowPayload) { p.Member = otherNet.Raw }), epoch, ErrGrant},
		"junk as membership":     {payload(func(p *rowPayload) { p.Member = []byte("junk") }), epoch, ErrGrant},
	} {
		if _, err := OpenRow(c.raw, net0, c.at); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := OpenRow(good.Raw, identity.Network("else").ID(), epoch); !errors.Is(err, ErrNetwork) {
		t.Errorf("other network: %v", err)
	}
}

func TestRowCounts(t *testing.T) {
	byColony, _ := certs(t)
	member, stranger := row(t, nil), row(t, func(o *RowOffer) { o.Member = nil })
	grant := func(name identity.Name, s Subject, ttl time.Duration) Grant {
		g, err := SignGrant(author, net0, name, []Subject{s}, epoch, ttl)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	toNode := grant("greeter", Subject{Kind: SubjectNode, Key: node.Public()}, year)
	other := identity.Cell{Author: mallet.Public(), Name: "greeter"}
	late, _ := SignMember(colony, net0, node.Public(), epoch, time.Minute)
	for name, c := range map[string]struct {
		row   Row
		cell  identity.Cell
		grant Grant
		at    time.Time
		want  bool
	}{
		"machine of the colony":       {member, hello, byColony, epoch, true},
		"no membership":               {stranger, hello, byColony, epoch, false},
		"granted by name":             {stranger, hello, toNode, epoch, true},
		"open to all":                 {stranger, hello, grant("", Subject{Kind: SubjectAny}, year), epoch, true},
		"another cell":                {stranger, identity.Cell{Author: author.Public(), Name: "ledger"}, toNode, epoch, false},
		"another author's":            {member, other, byColony, epoch, false},
		"another node":                {stranger, hello, grant("", Subject{Kind: SubjectNode, Key: mallet.Public()}, year), epoch, false},
		"the grant has run out":       {stranger, hello, grant("", Subject{Kind: SubjectAny}, time.Hour), epoch.Add(2 * time.Hour), false},
		"the membership has run out":  {row(t, func(o *RowOffer) { o.Member = late.Raw }), hello, byColony, epoch.Add(time.Hour), false},
		"the membership has not":      {row(t, func(o *RowOffer) { o.Member = late.Raw }), hello, byColony, epoch, true},
		"no grant":                    {member, hello, Grant{}, epoch, false},
		"a grant of another network,": {func() Row { r := member; r.Network = identity.Network("else").ID(); return r }(), hello, byColony, epoch, false},
	} {
		if got := c.row.Counts(c.cell, c.grant, c.at); got != c.want {
			t.Errorf("%s: counts %v, want %v", name, got, c.want)
		}
	}
}

// The bytes of a row are the protocol: this file may only grow.
func TestRowVectors(t *testing.T) {
	var b strings.Builder
	for _, v := range []struct {
		name string
		raw  []byte
	}{
		{"row", row(t, nil).Raw},
		{"goodbye", row(t, func(o *RowOffer) { o.TTL, o.Cells, o.Order.Sequence = 0, nil, 8 }).Raw},
		{"stranger", row(t, func(o *RowOffer) { o.Member, o.Cells = nil, nil }).Raw},
	} {
		b.WriteString(v.name + " " + hex.EncodeToString(v.raw) + "\n")
	}
	if *update {
		if err := os.WriteFile("testdata/row.txt", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/row.txt")
	if err != nil || b.String() != string(want) {
		t.Errorf("rows no longer encode as in testdata/row.txt (%v)", err)
	}
}

func FuzzOpenRow(f *testing.F) {
	f.Add(row(f, nil).Raw)
	f.Add(row(f, func(o *RowOffer) { o.TTL, o.Cells = 0, nil }).Raw)
	f.Add(lease(f, nil).Raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := OpenRow(raw, net0, epoch)
		if err == nil && (r.Signer.IsZero() || len(r.Cells) > MaxRowCells || r.Member != nil && r.Member.Node != r.Signer) {
			t.Errorf("accepted a row outside of its rules: %+v", r)
		}
		if err != nil && Reason(err) == "other" {
			t.Errorf("untyped error: %v", err)
		}
	})
}

// Signatures keep the fuzzer of whole rows away from the payload.
func FuzzRowPayload(f *testing.F) {
	for _, cells := range [][]rowCellPayload{nil, {{Author: author.Public(), Name: "greeter", Replicas: []RowReplica{replica(1)}, Population: population(f, author, nil).Raw}}} {
		b, err := encoding.Marshal(rowPayload{Cells: cells})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p rowPayload
		if decoding.Unmarshal(b, &p) != nil {
			return
		}
		cells, err := openRowCells(p.Cells)
		if err == nil && len(cells) != len(p.Cells) || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%d cells of %d, %v", len(cells), len(p.Cells), err)
		}
	})
}

func BenchmarkOpenRow(b *testing.B) {
	raw := row(b, nil).Raw
	b.ReportAllocs()
	for b.Loop() {
		if _, err := OpenRow(raw, net0, epoch); err != nil {
			b.Fatal(err)
		}
	}
}
