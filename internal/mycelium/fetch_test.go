package mycelium

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// newHost opens a host on this machine.
func newHost(t testing.TB) *host.Host {
	t.Helper()
	h, err := host.New(host.Config{Key: identity.NewPrivate(), Network: lab, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func seedOf(h *host.Host) Seed {
	s := Seed{Node: h.Key()}
	for _, a := range h.Addrs() {
		s.Addrs = append(s.Addrs, a.Bytes())
	}
	return s
}

// newNode is a store with a host, without git.
func newNode(t testing.TB, c Config) *Store {
	t.Helper()
	c.Host = newHost(t)
	if c.Git == "" {
		c.Git = "no-such-git"
	}
	s := newStore(t, c)
	s.pace = pace{grace: 3 * time.Second, stall: time.Second, floor: 64 << 10}
	s.Serve()
	return s
}

// log collects steps as text.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) step(s Step) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf("%s %d %v", s.Kind, s.Spore.Seq, s.Err))
}

func TestFetch(t *testing.T) {
	work, author := newWork(t), newNode(t, Config{Git: "git"})
	grant, err := record.SignGrant(alice, lab.ID(), "greeter", []record.Subject{{Kind: record.SubjectAny}}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	p := publication("1.0.0")
	p.Grants = [][]byte{grant.Raw}
	first, err := author.Publish(t.Context(), work, p)
	if err != nil {
		t.Fatal(err)
	}

	// One that fetched it without git hands it on when the author is gone.
	second, third := newNode(t, Config{}), newNode(t, Config{})
	var l log
	got, err := second.Fetch(t.Context(), greeter, "", []Seed{seedOf(author.conf.Host)}, nil, l.step)
	if err != nil {
		t.Fatal(err)
	}
	if got.Spore.Hash() != first.Spore.Hash() || got.Source != "seed "+author.conf.Host.Key().String() || len(got.Grants) != 1 || got.Bytes != first.Bytes {
		t.Errorf("fetched %+v", got)
	}
	if want := "[found 1 <nil> copy 1 <nil> install 1 <nil>]"; fmt.Sprint(l.lines) != want {
		t.Errorf("steps %v, want %s", l.lines, want)
	}
	sameTree(t, got.Dir, work)
	_ = author.Close()
	if _, err := second.Fetch(t.Context(), greeter, "", []Seed{seedOf(author.conf.Host)}, nil, nil); err != nil {
		t.Error("with the author gone, what is installed:", err)
	}
	_ = author.conf.Host.Close()
	got, err = third.Fetch(t.Context(), greeter, "1.0.0", []Seed{seedOf(author.conf.Host), seedOf(second.conf.Host)}, nil, nil)
	if err != nil || got.Source != "seed "+second.conf.Host.Key().String() {
		t.Fatalf("from whoever fetched it: %+v, %v", got, err)
	}
	sameTree(t, got.Dir, work)
	if len(got.Grants) != 1 {
		t.Error("the grant got lost on the way")
	}
	if got, err = third.Fetch(t.Context(), greeter, "1.0.0", nil, nil, nil); err != nil || got.Source != "cache" {
		t.Errorf("from the cache: %+v, %v", got, err)
	}
	gitIn(t, third.repoDir(greeter), nil, "fsck", "--strict", "--full")

	// Nobody, or nobody who has it.
	var fe *FetchError
	if _, err := third.Fetch(t.Context(), greeter, "9.9", []Seed{seedOf(second.conf.Host)}, nil, nil); !errors.As(err, &fe) || len(fe.Attempts) != 1 || !errors.Is(err, ErrNone) {
		t.Errorf("a version that is not there: %v", err)
	}
	if _, err := third.Fetch(t.Context(), identity.Cell{Author: alice.Public(), Name: "other"}, "", nil, nil, nil); !errors.Is(err, ErrNone) {
		t.Errorf("from nobody: %v", err)
	}
}

// Of several seeds the one with the newest release counts, however slow.
func TestFetchTakesNewest(t *testing.T) {
	work := newWork(t)
	stale, fresh, finder := newNode(t, Config{Git: "git"}), newNode(t, Config{Git: "git"}), newNode(t, Config{})
	publish(t, stale, work, "1.0.0")
	seeds := []Seed{seedOf(stale.conf.Host), seedOf(fresh.conf.Host)}
	if _, err := fresh.Fetch(t.Context(), greeter, "", seeds, nil, nil); err != nil {
		t.Fatal(err)
	}
	commit(t, work, "more")
	want := publish(t, fresh, work, "1.1.0")
	got, err := finder.Fetch(t.Context(), greeter, "", seeds, nil, nil)
	if err != nil || got.Spore.Hash() != want.Spore.Hash() {
		t.Fatalf("fetched %d, %v", got.Spore.Seq, err)
	}
	// What is older than what has been seen does not come back by itself …
	var l log
	if got, err = finder.Fetch(t.Context(), greeter, "", seeds[:1], nil, l.step); err != nil || got.Spore.Seq != 2 || got.Source != "cache" {
		t.Errorf("from a stale seed: %+v, %v", got, err)
	}
	if len(l.lines) != 1 {
		t.Errorf("steps %v", l.lines)
	}
	_, _ = os.RemoveAll(got.Dir), os.Remove(finder.packFile(got.Spore))
	if _, err := finder.Open(greeter, ""); !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
	if _, err = finder.Fetch(t.Context(), greeter, "", seeds[:1], nil, nil); !errors.Is(err, record.ErrOrder) {
		t.Errorf("rolled back: %v", err)
	}
	// … only by its name …
	if got, err = finder.Fetch(t.Context(), greeter, "1.0.0", seeds[:1], nil, nil); err != nil || got.Spore.Seq != 1 {
		t.Errorf("by name: %+v, %v", got, err)
	}
	if h, _ := finder.Head(greeter); h.Seq != 2 {
		t.Errorf("the head fell to %d", h.Seq)
	}
	if got, err = finder.Fetch(t.Context(), greeter, "", seeds, nil, nil); err != nil || got.Spore.Seq != 2 {
		t.Errorf("fetched again: %+v, %v", got, err)
	}
	// … until its author withdraws it.
	commit(t, work, "safe")
	p := publication("1.2.0")
	p.MinSeq = 3
	if _, err := fresh.Publish(t.Context(), work, p); err != nil {
		t.Fatal(err)
	}
	if _, err := finder.Fetch(t.Context(), greeter, "", seeds, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := finder.Fetch(t.Context(), greeter, "1.0.0", seeds, nil, nil); !errors.Is(err, record.ErrOrder) {
		t.Errorf("a withdrawn release: %v", err)
	}
	// Who comes new does not get it either, from those who know.
	if _, err := newNode(t, Config{}).Fetch(t.Context(), greeter, "1.0.0", seeds[1:], nil, nil); !errors.Is(err, ErrNone) {
		t.Errorf("a withdrawn release, for a newcomer: %v", err)
	}
}

func TestConcurrentFetchesShare(t *testing.T) {
	const callers = 9
	var asked atomic.Int32
	work, finder := newWork(t), newNode(t, Config{})
	author := newNode(t, Config{Git: "git", Offer: func(identity.Cell) bool { asked.Add(1); return true }})
	publish(t, author, work, "1.0.0")
	gate := make(chan struct{})
	finder.step = func(p string) {
		if p == "verified" {
			<-gate
		}
	}
	var all sync.WaitGroup
	impatient, cancel := context.WithCancel(t.Context())
	for i := range callers {
		all.Go(func() {
			ctx := t.Context()
			if i == 0 {
				ctx = impatient
			}
			var l log
			_, err := finder.Fetch(ctx, greeter, "", []Seed{seedOf(author.conf.Host)}, nil, l.step)
			if (i == 0) != errors.Is(err, context.Canceled) || i != 0 && err != nil {
				t.Errorf("caller %d: %v", i, err)
			}
		})
	}
	waiting := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			finder.fetches.mu.Lock()
			fl, got := finder.fetches.all[greeter.String()+":"], 0
			if fl != nil {
				got = fl.callers
			}
			finder.fetches.mu.Unlock()
			if got == n {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d callers wait, want %d", got, n)
			}
		}
	}
	waiting(callers)
	cancel() // one leaves, the others stay
	waiting(callers - 1)
	close(gate)
	all.Wait()
	if n := asked.Load(); n != 2 {
		t.Errorf("the seed was asked %d times, want once for the record and once for the pack", n)
	}
}

func TestUploadLimits(t *testing.T) {
	work, finder := newWork(t), newNode(t, Config{})
	author := newNode(t, Config{Git: "git", MaxUploads: 1, MaxPeerUploads: 1})
	r := publish(t, author, work, "1.0.0")
	if !author.uploads.begin("somebody", 1, 1) {
		t.Fatal("no room from the start")
	}
	if _, err := finder.Fetch(t.Context(), greeter, "", []Seed{seedOf(author.conf.Host)}, nil, nil); !errors.Is(err, ErrBusy) {
		t.Errorf("from a busy seed: %v", err)
	}
	author.uploads.end("somebody")
	if _, err := finder.Fetch(t.Context(), greeter, "", []Seed{seedOf(author.conf.Host)}, nil, nil); err != nil {
		t.Error(err)
	}
	// A peer that asks for a pack and takes none of it loses its place.
	author.pace = pace{grace: time.Second, stall: 200 * time.Millisecond, floor: 1 << 20}
	big := newWork(t)
	write(t, filepath.Join(big, "huge"), noise(4<<20))
	commit(t, big, "huge")
	r = publish(t, author, big, "2.0.0")
	hash := r.Spore.Hash()
	stream, a, err := finder.ask(t.Context(), seedOf(author.conf.Host), request{Op: opPack, Author: greeter.Author[:], Name: "greeter", Hash: hash[:]})
	if err != nil || a.Size != uint64(r.Bytes) {
		t.Fatalf("%+v, %v", a, err)
	}
	defer stream.Reset()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		author.uploads.mu.Lock()
		n := author.uploads.total
		author.uploads.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the place is still taken")
		}
	}
}

// noise is text that does not get smaller.
func noise(n int) string {
	b := make([]byte, n)
	x := uint64(1)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return string(b)
}

func TestOffer(t *testing.T) {
	work, finder := newWork(t), newNode(t, Config{})
	shy := newNode(t, Config{Git: "git", Offer: func(identity.Cell) bool { return false }})
	publish(t, shy, work, "1.0.0")
	if _, err := finder.Fetch(t.Context(), greeter, "", []Seed{seedOf(shy.conf.Host)}, nil, nil); !errors.Is(err, ErrNone) {
		t.Errorf("what is not offered: %v", err)
	}
}
