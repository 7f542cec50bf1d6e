package kad

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	ma "github.com/multiformats/go-multiaddr"
)

var update = flag.Bool("update", false, "rewrite the vectors in testdata; commit them only if the wire format was meant to change")

func bytes32(first byte) []byte { return append([]byte{first}, make([]byte, 31)...) }

func nodeKey(i int) []byte { k := testKey(i).Public(); return k[:] }

func addr(s string) []byte { return ma.StringCast(s).Bytes() }

var messages = map[string]any{
	"request-near":  request{Op: opNear, Key: bytes32(1)},
	"request-get":   request{Op: opGet, Key: bytes32(2)},
	"request-put":   request{Op: opPut, Key: bytes32(3), Lease: []byte("record"), Places: 5},
	"request-watch": request{Op: opWatch, Key: bytes32(4)},
	"answer-empty":  answer{},
	"answer-full": answer{Leases: [][]byte{[]byte("a"), []byte("b")},
		Closer: []node{{Key: nodeKey(1), Addrs: [][]byte{addr("/ip4/1.2.3.4/udp/9/quic-v1")}}}},
	"answer-refused": answer{Code: codeRefused, Reason: "order"},
	"answer-busy":    answer{Code: codeBusy},
}

func TestVectors(t *testing.T) {
	for name, m := range messages {
		t.Run(name, func(t *testing.T) {
			var buf bytes.Buffer
			if err := writeMessage(&buf, m); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".hex")
			if *update {
				if err := os.WriteFile(path, []byte(hex.EncodeToString(buf.Bytes())+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(buf.Bytes()); got != strings.TrimSpace(string(want)) {
				t.Fatalf("encoded as\n%s, want\n%s", got, want)
			}
			var back any
			if _, ok := m.(request); ok {
				b, e := readMessage(&buf, MaxRequest)
				if e != nil {
					t.Fatal(e)
				}
				back, err = parseRequest(b)
			} else {
				b, e := readMessage(&buf, MaxAnswer)
				if e != nil {
					t.Fatal(e)
				}
				back, err = parseAnswer(b)
			}
			if err != nil || !reflect.DeepEqual(back, m) {
				t.Errorf("back as %+v, %v", back, err)
			}
		})
	}
}

func TestLargestAnswerFits(t *testing.T) {
	var a answer
	for range MaxLeases {
		a.Leases = append(a.Leases, make([]byte, record.MaxLeaseSize))
	}
	for range MaxCloser {
		n := node{Key: nodeKey(1)}
		for range MaxCloserAddrs {
			n.Addrs = append(n.Addrs, make([]byte, record.MaxAddrSize))
		}
		a.Closer = append(a.Closer, n)
	}
	var buf bytes.Buffer
	if err := writeMessage(&buf, a); err != nil {
		t.Fatal(err)
	}
	b, err := readMessage(&buf, MaxAnswer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseAnswer(b); err != nil {
		t.Error(err)
	}
	if n := len(mustEncode(request{Op: opPut, Key: bytes32(1), Lease: make([]byte, record.MaxLeaseSize)})); n > MaxRequest {
		t.Errorf("the largest request has %d bytes, %d are allowed", n, MaxRequest)
	}
}

func mustEncode(m any) []byte {
	b, err := encoding.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func TestMalformedMessages(t *testing.T) {
	for name, r := range map[string]any{
		"no op":            request{Key: bytes32(1)},
		"unknown op":       request{Op: 9, Key: bytes32(1)},
		"no key":           request{Op: opGet},
		"put without":      request{Op: opPut, Key: bytes32(1)},
		"get with a lease": request{Op: opGet, Key: bytes32(1), Lease: []byte("x")},
		"fourth place":     request{Op: opGet, Key: bytes32(1), Places: 8},
		"long lease":       request{Op: opPut, Key: bytes32(1), Lease: make([]byte, record.MaxLeaseSize+1)},
		"short key":        map[int]any{1: 1, 2: []byte("short")},
		"an array":         []int{1, 2},
	} {
		if r, err := parseRequest(mustEncode(r)); !errors.Is(err, errWire) {
			t.Errorf("request, %s: %+v, %v", name, r, err)
		}
	}
	many := make([][]byte, MaxLeases+1)
	for name, a := range map[string]any{
		"many leases":    answer{Leases: many},
		"long lease":     answer{Leases: [][]byte{make([]byte, record.MaxLeaseSize+1)}},
		"many peers":     answer{Closer: slices.Repeat([]node{{Key: nodeKey(1)}}, MaxCloser+1)},
		"short key":      answer{Closer: []node{{Key: []byte("short")}}},
		"many addresses": answer{Closer: []node{{Key: nodeKey(1), Addrs: make([][]byte, MaxCloserAddrs+1)}}},
		"unknown code":   answer{Code: 3},
		"long reason":    answer{Reason: strings.Repeat("x", maxReason+1)},
		"text":           "hello",
	} {
		if a, err := parseAnswer(mustEncode(a)); !errors.Is(err, errWire) {
			t.Errorf("answer, %s: %+v, %v", name, a, err)
		}
	}
	if r, err := parseRequest(mustEncode(map[int]any{1: 2, 2: make([]byte, 32), 77: "from the future"})); err != nil || r.Op != opGet {
		t.Errorf("an unknown key is not skipped: %+v, %v", r, err)
	}
}

func TestReadMessageLimits(t *testing.T) {
	if _, err := readMessage(strings.NewReader("\xff\xff\xff\xff"), MaxAnswer); !errors.Is(err, errWire) {
		t.Errorf("4 GiB announced: %v", err)
	}
	if _, err := readMessage(strings.NewReader("\x00\x00\x00\x05abc"), MaxAnswer); !errors.Is(err, io.EOF) {
		t.Errorf("half a message: %v", err)
	}
	n := testing.AllocsPerRun(10, func() {
		_, _ = readMessage(strings.NewReader("\x00\x02\xff\xff"), MaxAnswer)
	})
	if n > 20 {
		t.Errorf("%v allocations for a message that was only announced", n)
	}
}

func TestAddressesOfStrangersAreFiltered(t *testing.T) {
	a := answer{Closer: []node{
		{Key: nodeKey(1), Addrs: [][]byte{addr("/ip4/10.0.0.1/udp/9/quic-v1"), addr("/ip4/1.2.3.4/udp/9/quic-v1")}},
		{Key: nodeKey(2), Addrs: [][]byte{addr("/ip4/127.0.0.1/udp/9/quic-v1")}},
		{Key: nodeKey(3), Addrs: [][]byte{[]byte("garbage"), nil}},
		{Key: make([]byte, 32), Addrs: [][]byte{addr("/ip4/1.2.3.4/udp/9/quic-v1")}},
	}}
	got := a.peers(identity.Public)
	if len(got) != 1 || got[0].ID != testPeer(1) || len(got[0].Addrs) != 1 {
		t.Errorf("on the public network: %v", got)
	}
	if got := a.peers("test"); len(got) != 2 {
		t.Errorf("on a private network: %v", got)
	}
}

func FuzzRequest(f *testing.F) {
	for _, m := range messages {
		f.Add(mustEncode(m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseRequest(b); err == nil {
			if again, err := parseRequest(mustEncode(r)); err != nil || !reflect.DeepEqual(again, r) {
				t.Errorf("%+v became %+v, %v", r, again, err)
			}
		}
	})
}

func FuzzAnswer(f *testing.F) {
	for _, m := range messages {
		f.Add(mustEncode(m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := parseAnswer(b); err == nil {
			a.peers(identity.Public)
			if _, err := parseAnswer(mustEncode(a)); err != nil {
				t.Errorf("%+v: %v", a, err)
			}
		}
	})
}
