package mycelium

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/record"
)

func contextAfter(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

var wireRequests = []request{
	{Op: opRecord, Author: greeter.Author[:], Name: "greeter"},
	{Op: opRecord, Author: greeter.Author[:], Name: "greeter", Version: "1.4.0"},
	{Op: opPack, Author: greeter.Author[:], Name: "greeter", Hash: bytes.Repeat([]byte{7}, 32)},
	{Op: opHead, Author: greeter.Author[:], Name: "greeter", Version: "1.4.0"},
}

var wireAnswers = []answer{{}, {Code: codeBusy}, {Spore: []byte("object"), Grants: [][]byte{{1}, {2}}}, {Size: 1 << 40}}

func TestWire(t *testing.T) {
	var vectors strings.Builder
	encode := func(name string, m any) []byte {
		var b bytes.Buffer
		if err := writeMessage(&b, m); err != nil {
			t.Fatal(err)
		}
		vectors.WriteString(name + " " + hex.EncodeToString(b.Bytes()) + "\n")
		body, err := readMessage(&b, MaxAnswer)
		if err != nil || b.Len() != 0 {
			t.Fatalf("%v, %d bytes left", err, b.Len())
		}
		return body
	}
	for _, want := range wireRequests {
		if got, err := parseRequest(encode("request", want)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("came back as %+v, %v", got, err)
		}
	}
	for _, want := range wireAnswers {
		if got, err := parseAnswer(encode("answer", want)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("came back as %+v, %v", got, err)
		}
	}
	if *update {
		if err := os.WriteFile("testdata/wire.txt", []byte(vectors.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/wire.txt")
	if err != nil || vectors.String() != string(want) {
		t.Errorf("messages no longer encode as in testdata/wire.txt (%v)", err)
	}
}

func TestWireRefuses(t *testing.T) {
	for name, r := range map[string]request{
		"no op": {Author: greeter.Author[:], Name: "greeter"}, "unknown op": {Op: 9, Author: greeter.Author[:], Name: "greeter"},
		"short author": {Op: opRecord, Author: greeter.Author[:31], Name: "greeter"}, "no name": {Op: opRecord, Author: greeter.Author[:]},
		"path as name": {Op: opRecord, Author: greeter.Author[:], Name: "../../etc"}, "pack of what": {Op: opPack, Author: greeter.Author[:], Name: "greeter"},
		"short hash": {Op: opRecord, Author: greeter.Author[:], Name: "greeter", Hash: []byte{1}},
	} {
		b, _ := encoding.Marshal(r)
		if _, err := parseRequest(b); !errors.Is(err, errWire) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, a := range map[string]answer{
		"unknown code": {Code: 9}, "long record": {Spore: make([]byte, record.MaxSpore+1)}, "five grants": {Grants: make([][]byte, MaxGrants+1)},
	} {
		b, _ := encoding.Marshal(a)
		if _, err := parseAnswer(b); !errors.Is(err, errWire) {
			t.Errorf("%s: %v", name, err)
		}
	}
	full := answer{Spore: make([]byte, record.MaxSpore), Size: 1 << 62}
	for range MaxGrants {
		full.Grants = append(full.Grants, make([]byte, record.MaxSize))
	}
	if b, _ := encoding.Marshal(full); len(b) > MaxAnswer {
		t.Errorf("a full answer has %d bytes", len(b))
	}
}

func FuzzWire(f *testing.F) {
	for _, r := range wireRequests {
		b, _ := encoding.Marshal(r)
		f.Add(b)
	}
	for _, a := range wireAnswers {
		b, _ := encoding.Marshal(a)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseRequest(b); err == nil {
			r.cell() // must not panic
		}
		_, _ = parseAnswer(b)
		var p parcel
		if decoding.Unmarshal(b, &p) == nil {
			_, _ = p.open(lab.ID(), time.Now())
		}
	})
}
