package frame

import (
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write testdata anew")

// headers name a header each; testdata/headers.txt has their bytes.
var headers = []struct {
	name string
	h    header
}{
	{"request", header{length: 20, kind: kindRequest, codec: CBOR, meta: 13, call: 1, remaining: 2_000_000}},
	{"request-without-deadline", header{length: 13, kind: kindRequest, codec: JSON, meta: 13, call: 1<<63 + 7}},
	{"response", header{length: 7, kind: kindResponse, codec: CBOR, call: 1}},
	{"error", header{length: 30, kind: kindResponse, meta: 9, call: 1, code: NoReplica}},
	{"cancel", header{kind: kindCancel, call: 1}},
	{"largest", header{length: MaxMeta + MaxBody, kind: kindRequest, meta: MaxMeta, call: 9}},
	{"leave", header{kind: kindLeave}},
	{"later-kind", header{length: 5, kind: 200, call: 9}},
}

// TestHeaderVectors keeps the wire format: what is in testdata must be written and read for ever.
func TestHeaderVectors(t *testing.T) {
	const path = "testdata/headers.txt"
	var got strings.Builder
	for _, c := range headers {
		b := c.h.append(nil)
		if back, err := parseHeader(b); err != nil || back != c.h || len(b) != HeaderSize {
			t.Errorf("%s: %+v, %v; want %+v", c.name, back, err, c.h)
		}
		fmt.Fprintf(&got, "%s %x\n", c.name, b)
	}
	if *rewrite {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the wire format changed:\n%swant\n%s", got.String(), want)
	}
}

func TestParseHeaderRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		h    header
	}{
		{"kind 0", header{call: 1}},
		{"long meta", header{kind: kindRequest, length: 600, meta: MaxMeta + 1}},
		{"meta longer than the frame", header{kind: kindRequest, length: 4, meta: 5}},
		{"long body", header{kind: kindRequest, length: MaxBody + 1}},
		{"4 GiB", header{kind: kindResponse, length: 1<<32 - 1}},
		{"4 GiB of a later kind", header{kind: 99, length: 1<<32 - 1, meta: 1}},
		{"cancel with a body", header{kind: kindCancel, length: 1}},
		{"long message", header{kind: kindResponse, code: Failed, length: MaxMessage + 1}},
	} {
		if h, err := parseHeader(c.h.append(nil)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", c.name, h, err)
		}
	}
}

func FuzzParseHeader(f *testing.F) {
	for _, c := range headers {
		f.Add(c.h.append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeaderSize {
			return
		}
		h, err := parseHeader(b)
		if err != nil {
			return
		}
		if h.body() < 0 || h.body() > MaxBody || int(h.meta) > MaxMeta {
			t.Fatalf("%+v has a body of %d bytes", h, h.body())
		}
		copy(b[28:], "\x00\x00\x00\x00") // reserved
		if again := h.append(nil); hex.EncodeToString(again) != hex.EncodeToString(b[:HeaderSize]) {
			t.Fatalf("%x was read, %x is written", b[:HeaderSize], again)
		}
	})
}
