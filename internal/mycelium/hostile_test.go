package mycelium

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/network"
)

// liar is a seed that answers as it likes.
func liar(t testing.TB, handle func(network.Stream, request)) Seed {
	t.Helper()
	h := newHost(t)
	h.SetStreamHandler((&Store{conf: Config{Network: lab}}).protocol(), func(s network.Stream) {
		b, err := readMessage(s, MaxRequest)
		if err != nil {
			_ = s.Reset()
			return
		}
		r, err := parseRequest(b)
		if err != nil {
			t.Errorf("a finder asks %x: %v", b, err)
		}
		handle(s, r)
	})
	return seedOf(h)
}

// telling answers with a record, and with a pack.
func telling(p record.Spore, pack []byte) func(network.Stream, request) {
	return func(s network.Stream, r request) {
		if r.Op == opRecord {
			_ = writeMessage(s, answer{Spore: p.Raw})
		} else {
			_ = writeMessage(s, answer{Size: uint64(len(pack))})
			_, _ = s.Write(pack)
		}
		_ = s.Close()
	}
}

func (s *Store) empty(t testing.TB) {
	t.Helper()
	for _, d := range []string{s.tmpDir(), filepath.Join(s.conf.Dir, "trees"), filepath.Join(s.conf.Dir, "cells")} {
		if left, _ := os.ReadDir(d); len(left) != 0 {
			t.Errorf("%d entries are left in %s", len(left), d)
		}
	}
}

// Each of these seeds alone gives nothing; with an honest one beside it a fetch
// works all the same.
func TestHostileSeeds(t *testing.T) {
	e, commit := small()
	pack := e.pack()
	good := signed(t, commit, smallFiles(), func(s *record.Spore) { s.Seq = 2 })
	honest := liar(t, telling(good, pack))
	if _, err := newNode(t, Config{}).Fetch(t.Context(), greeter, "", []Seed{honest}, nil, nil); err != nil {
		t.Fatal("the honest seed:", err)
	}
	higher := func(change func(*record.Spore)) record.Spore {
		return signed(t, commit, smallFiles(), func(s *record.Spore) {
			s.Seq, s.Prev = 5, good.Hash()
			if change != nil {
				change(s)
			}
		})
	}
	forged := good
	forged.Raw = bytes.Replace(bytes.Replace(good.Raw, []byte("greeter/2\n"), []byte("greeter/9\n"), 1), []byte("seq 2\n"), []byte("seq 9\n"), 1)
	answering := func(b string) func(network.Stream, request) {
		return func(s network.Stream, _ request) { _, _ = io.WriteString(s, b); _ = s.Close() }
	}
	// midway answers for the pack with so many of its bytes, and then.
	midway := func(n int, then func(network.Stream)) func(network.Stream, request) {
		p := higher(nil)
		return func(s network.Stream, r request) {
			if r.Op == opRecord {
				telling(p, nil)(s, r)
				return
			}
			_ = writeMessage(s, answer{Size: uint64(len(pack))})
			_, _ = s.Write(pack[:n])
			then(s)
		}
	}
	evilTree := &evil{}
	evilCommit := evilTree.commit(evilTree.tree(line(modeFile, ".git", evilTree.blob("x"))))
	silent := func(s network.Stream) { _, _ = io.Copy(io.Discard, s) }
	for name, c := range map[string]struct {
		handle func(network.Stream, request)
		want   error // nil: any
	}{
		"lies about the number": {telling(forged, pack), record.ErrSignature},
		"another author":        {telling(signed(t, commit, smallFiles(), func(s *record.Spore) { s.Cell.Author = mallet.Public() }), pack), record.ErrCell},
		"another cell":          {telling(signed(t, commit, smallFiles(), func(s *record.Spore) { s.Cell.Name = "other" }), pack), record.ErrCell},
		"expired":               {telling(higher(func(s *record.Spore) { s.Issued = s.Issued.Add(-2 * time.Hour); s.Expires = s.Issued.Add(time.Hour) }), pack), record.ErrStale},
		"from the future":       {telling(higher(func(s *record.Spore) { s.Issued = s.Issued.Add(time.Hour); s.Expires = s.Issued.Add(time.Hour) }), pack), record.ErrClock},
		"no record":             {telling(record.Spore{}, pack), record.ErrMalformed},
		"another tree":          {telling(higher(func(s *record.Spore) { s.Tree[3] ^= 1 }), pack), ErrContent},
		"too big":               {telling(higher(func(s *record.Spore) { s.Size = 1 << 50 }), pack), ErrTooBig},
		"evil tree":             {telling(higher(func(s *record.Spore) { s.Commit = evilCommit.String() }), evilTree.pack()), ErrTree},
		"another pack":          {telling(higher(nil), evilTree.pack()), ErrContent},
		"short pack":            {telling(higher(nil), pack[:len(pack)-30]), ErrContent},
		"garbage":               {answering("HTTP/1.1 400 Bad Request\r\n\r\n"), errWire},
		"4 GiB":                 {answering("\xff\xff\xff\xff"), errWire},
		"bad map":               {answering("\x00\x00\x00\x04\xa1\xa1\xa1\xa1"), errWire},
		"nothing":               {answering(""), nil},
		"half an answer":        {answering("\x00\x00\x00\x40\xa1"), nil},
		"hangs up":              {func(s network.Stream, _ request) { _ = s.Reset() }, nil},
		"says nothing":          {func(s network.Stream, _ request) { silent(s) }, os.ErrDeadlineExceeded},
		"hangs up midway":       {midway(60, func(s network.Stream) { _ = s.Reset() }), nil},
		"falls silent midway":   {midway(60, silent), os.ErrDeadlineExceeded},
		"drips": {midway(60, func(s network.Stream) {
			for _, b := range pack[60:] {
				if _, err := s.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(200 * time.Millisecond)
			}
		}), os.ErrDeadlineExceeded},
		"a pack of 4 GiB": {func(s network.Stream, r request) {
			if r.Op == opRecord {
				telling(higher(nil), nil)(s, r)
				return
			}
			_ = writeMessage(s, answer{Size: 4 << 30})
			_ = s.Close()
		}, ErrTooBig},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := liar(t, c.handle)
			finder := newNode(t, Config{})
			finder.pace = pace{grace: 2 * time.Second, stall: time.Second, floor: 64 << 10}
			start := time.Now()
			_, err := finder.Fetch(t.Context(), greeter, "", []Seed{bad}, nil, nil)
			var fe *FetchError
			if !errors.As(err, &fe) || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("alone: %v, want %v", err, c.want)
			}
			if took := time.Since(start); took > 8*time.Second {
				t.Errorf("alone it took %v", took)
			}
			finder.empty(t)
			r, err := finder.Fetch(t.Context(), greeter, "", []Seed{bad, honest}, nil, nil)
			if err != nil || r.Spore.Hash() != good.Hash() {
				t.Errorf("beside an honest seed: release %d, %v", r.Spore.Seq, err)
			}
		})
	}
}

// An author who signs two releases with one number is found out.
func TestFork(t *testing.T) {
	e, commit := small()
	release := func(seq uint64, version string, prev [32]byte) record.Spore {
		return signed(t, commit, smallFiles(), func(s *record.Spore) { s.Seq, s.Version, s.Prev = seq, version, prev })
	}
	a, b := release(1, "1.0.0", [32]byte{}), release(1, "1.0.1", [32]byte{})
	seedA, seedB := liar(t, telling(a, e.pack())), liar(t, telling(b, e.pack()))
	var f *Fork
	victim := newNode(t, Config{})
	if f, err := victim.Fork(greeter); f != nil || err != nil {
		t.Errorf("before: %v, %v", f, err)
	}
	if _, err := victim.Fetch(t.Context(), greeter, "", []Seed{seedA, seedB}, nil, nil); !errors.As(err, &f) {
		t.Fatalf("from both: %v", err)
	}
	if kept, err := newStore(t, Config{Dir: victim.conf.Dir}).Fork(greeter); err != nil || kept == nil || kept.Error() != f.Error() {
		t.Errorf("in a later life: %v, %v", kept, err)
	}
	for _, p := range []record.Spore{f.A, f.B} { // the proof convinces anybody
		if q, err := record.ParseSpore(p.Raw); err != nil || q.Cell != greeter || q.Seq != 1 {
			t.Errorf("proof: %v", err)
		}
	}
	if f.A.Hash() == f.B.Hash() {
		t.Error("the proof proves nothing")
	}
	finder := newNode(t, Config{})
	if _, err := finder.Fetch(t.Context(), greeter, "", []Seed{seedA}, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := finder.Fetch(t.Context(), greeter, "", []Seed{seedB}, nil, nil); !errors.Is(err, ErrFork) {
		t.Errorf("the other one, later: %v", err)
	}
	grafted := liar(t, telling(release(2, "2.0.0", b.Hash()), e.pack()))
	if _, err := finder.Fetch(t.Context(), greeter, "", []Seed{grafted}, nil, nil); !errors.Is(err, ErrFork) {
		t.Errorf("what follows on the other one: %v", err)
	}
	if r, err := finder.Open(greeter, ""); err != nil || r.Spore.Hash() != a.Hash() {
		t.Errorf("what was installed: %v", err)
	}
	next := liar(t, telling(release(2, "2.0.0", a.Hash()), e.pack()))
	if r, err := finder.Fetch(t.Context(), greeter, "", []Seed{next}, nil, nil); err != nil || r.Spore.Seq != 2 {
		t.Errorf("what follows: %v", err)
	}
}

// Requests that are no requests end, and do no harm.
func TestHostileRequests(t *testing.T) {
	e, commit := small()
	server := newNode(t, Config{})
	if _, err := server.Fetch(t.Context(), greeter, "", []Seed{liar(t, telling(signed(t, commit, smallFiles(), nil), e.pack()))}, nil, nil); err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	if err := h.Dial(t.Context(), server.conf.Host.Key(), seedOf(server.conf.Host).Addrs); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]string{
		"garbage": "GET / HTTP/1.1\r\n\r\n", "4 GiB": "\xff\xff\xff\xff", "empty": "", "bad map": "\x00\x00\x00\x02\xa1\xa1",
		"another op": "\x00\x00\x00\x03\xa1\x01\x09", "half": "\x00\x00\x00\x40\xa1",
	} {
		s, err := h.Open(t.Context(), server.conf.Host.ID(), server.protocol())
		if err != nil {
			t.Fatal(err)
		}
		_ = s.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(s, b)
		_ = s.CloseWrite()
		if got, err := io.ReadAll(s); len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: answered %q, %v", name, got, err)
		}
		_ = s.Reset()
	}
	finder := newNode(t, Config{})
	if _, err := finder.Fetch(t.Context(), greeter, "", []Seed{seedOf(server.conf.Host)}, nil, nil); err != nil {
		t.Error("afterwards:", err)
	}
	stranger := identity.Cell{Author: mallet.Public(), Name: "greeter"}
	if _, err := finder.Fetch(t.Context(), stranger, "", []Seed{seedOf(server.conf.Host)}, nil, nil); !errors.Is(err, ErrNone) {
		t.Errorf("another author's cell: %v", err)
	}
}

func TestFetchEnds(t *testing.T) {
	finder := newNode(t, Config{})
	silent := liar(t, func(s network.Stream, _ request) { _, _ = io.Copy(io.Discard, s) })
	ctx, cancel := contextAfter(t, 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := finder.Fetch(ctx, greeter, "", []Seed{silent}, nil, nil); err == nil || strings.Contains(err.Error(), "no such") || time.Since(start) > 2*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	// Close ends what is being served.
	slow := newHost(t)
	s, err := slow.Open(t.Context(), finder.conf.Host.ID(), finder.protocol())
	if err == nil {
		_ = s.Reset()
	}
	if err := errors.Join(finder.Close(), finder.Close()); err != nil {
		t.Error(err)
	}
}
