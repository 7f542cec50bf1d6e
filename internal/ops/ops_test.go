package ops

import (
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write testdata anew")

var messages = []Message{
	Ready{Version: "v0.1.0", Methods: []string{"hello", "bye"}},
	Serve{},
	Connect{Seq: 7, Target: "ledger@alice"},
	Connected{Seq: 7, Code: 5, Message: "no replica of ledger", Hint: "start one"},
	Ping{Seq: 1},
	Pong{Seq: 1, Stats: Stats{Served: 10, Serving: 2, Connections: 3, Shed: 4, P99: 1500}},
	Drain{Milliseconds: 10_000},
	Stop{},
}

// TestVectors keeps the wire format: what is in testdata must be written and read for ever.
func TestVectors(t *testing.T) {
	const path = "testdata/messages.txt"
	var got strings.Builder
	for _, m := range messages {
		b, err := Encode(m)
		if err != nil {
			t.Fatalf("%T: %v", m, err)
		}
		back, err := Parse(b)
		if err != nil || !reflect.DeepEqual(back, m) {
			t.Errorf("%+v came back as %+v, %v", m, back, err)
		}
		fmt.Fprintf(&got, "%s %x\n", reflect.TypeOf(m).Name(), b)
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

// TestStatsOfEarlyReplica reads the three elements that the first replicas send.
func TestStatsOfEarlyReplica(t *testing.T) {
	want := Pong{Seq: 1, Stats: Stats{Served: 10, Serving: 2, Connections: 3}}
	if m, err := Parse(early); err != nil || !reflect.DeepEqual(m, want) {
		t.Errorf("%+v, %v; want %+v", m, err, want)
	}
}

var early = []byte{0x83, 1, 6, 0x82, 1, 0x83, 10, 2, 3}

func TestParseRefuses(t *testing.T) {
	raw := func(s string) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	long := func(v any) []byte { b, _ := encoding.Marshal(v); return b }
	for _, c := range []struct {
		name string
		in   []byte
		want error
	}{
		{"nothing", nil, ErrMalformed},
		{"garbage", []byte("GET / HTTP/1.1\r\n\r\n"), ErrMalformed},
		{"no array", raw("a0"), ErrMalformed},
		{"two elements", raw("82 01 08"), ErrMalformed},
		{"bytes after the end", append(must(t, Stop{}), 0), ErrMalformed},
		{"cut short", must(t, Connect{Seq: 1, Target: "x"})[:6], ErrMalformed},
		{"indefinite length", raw("9f 01 08 80 ff"), ErrMalformed},
		{"another version", raw("83 02 08 80"), ErrVersion},
		{"another kind", raw("83 01 18 63 80"), ErrUnknown},
		{"a field too many", raw("83 01 08 81 00"), ErrMalformed},
		{"a field too few", raw("83 01 05 80"), ErrMalformed},
		{"text for a number", raw("83 01 05 81 61 78"), ErrMalformed},
		{"not UTF-8", raw("83 01 03 82 01 61 ff"), ErrMalformed},
		{"empty target", raw("83 01 03 82 01 60"), ErrMalformed},
		{"long target", long([]any{1, 3, []any{1, strings.Repeat("x", MaxTarget+1)}}), ErrMalformed},
		{"long method", long([]any{1, 1, []any{"v1", []string{strings.Repeat("x", 64)}}}), ErrMalformed},
		{"many methods", long([]any{1, 1, []any{"v1", strings.Split(strings.Repeat("x,", 300), ",")}}), ErrMalformed},
		{"a method without name", long([]any{1, 1, []any{"v1", []string{""}}}), ErrMalformed},
		{"long version", long([]any{1, 1, []any{strings.Repeat("x", 65), []string{}}}), ErrMalformed},
		{"long hint", long([]any{1, 4, []any{1, 5, "", strings.Repeat("x", maxHint+1)}}), ErrMalformed},
		{"long message", long([]any{1, 4, []any{1, 5, strings.Repeat("x", maxText+1), ""}}), ErrMalformed},
		{"stats of nothing", raw("83 01 06 82 01 80"), ErrMalformed},
		{"stats of two", raw("83 01 06 82 01 82 0a 02"), ErrMalformed},
		{"stats of four", raw("83 01 06 82 01 84 0a 02 03 04"), ErrMalformed},
		{"stats of six", raw("83 01 06 82 01 86 0a 02 03 04 05 06"), ErrMalformed},
		{"early stats with a text", raw("83 01 06 82 01 83 0a 02 61 78"), ErrMalformed},
		{"early stats below zero", raw("83 01 06 82 01 83 0a 02 20"), ErrMalformed},
		{"stats that are none", raw("83 01 06 82 01 00"), ErrMalformed},
		{"p99 of more than 32 bits", long([]any{1, 6, []any{1, []uint64{1, 2, 3, 4, 1 << 32}}}), ErrMalformed},
		{"too long", long([]any{1, 3, []any{1, strings.Repeat("x", MaxMessage)}}), ErrMalformed},
	} {
		if m, err := Parse(c.in); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.name, m, err, c.want)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, m := range []Message{
		Connect{Target: strings.Repeat("x", MaxTarget+1)},
		Connect{},
		Ready{Methods: make([]string, MaxMethods+1)},
		Pong{Stats: Stats{P99: 1 << 32}},
	} {
		if b, err := Encode(m); !errors.Is(err, ErrMalformed) {
			t.Errorf("%T: %d bytes, %v", m, len(b), err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, m := range messages {
		b, err := Encode(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(early)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			if m != nil {
				t.Fatalf("%v with an error: %v", m, err)
			}
			return
		}
		again, err := Encode(m)
		if err != nil {
			t.Fatalf("%+v was read but cannot be written: %v", m, err)
		}
		back, err := Parse(again)
		if err != nil || !reflect.DeepEqual(back, m) {
			t.Fatalf("%+v came back as %+v, %v", m, back, err)
		}
		longest := len(b)
		if p, ok := m.(Pong); ok && p.Stats.Shed == 0 && p.Stats.P99 == 0 {
			longest += 2 // it may have come in the form of an early replica
		}
		if len(again) > longest {
			t.Fatalf("the shortest form has %d bytes, %d came", len(again), len(b))
		}
	})
}

func must(t *testing.T, m Message) []byte {
	t.Helper()
	b, err := Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
