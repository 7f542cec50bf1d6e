package mycelium

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/network"
)

// from is a publication that asks seeds first.
func from(version string, seeds ...Seed) Publication {
	p := publication(version)
	p.Seeds = func(context.Context) []Seed { return seeds }
	return p
}

// secondMachine is a copy of an author's repository without its tags, and an
// empty store.
func secondMachine(t *testing.T, work string) (string, *Store) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(work)); err != nil {
		t.Fatal(err)
	}
	for _, seq := range []string{"1", "2", "3"} {
		gitIn(t, dir, nil, "update-ref", "-d", "refs/tags/cell/greeter/"+seq)
	}
	return dir, newNode(t, Config{Git: "git"})
}

// An author who publishes from a second machine goes on where the first is.
func TestPublishFromSecondMachine(t *testing.T) {
	work, author := newWork(t), newNode(t, Config{Git: "git"})
	publish(t, author, work, "1.0.0")
	commit(t, work, "more")
	p := publication("1.1.0")
	p.MinSeq = 2
	second, err := author.Publish(t.Context(), work, p)
	if err != nil {
		t.Fatal(err)
	}
	stale := newNode(t, Config{})
	dir, other := secondMachine(t, work)
	write(t, dir+"/go.mod", "module other\n")
	commit(t, dir, "other")
	seeds := []Seed{seedOf(stale.conf.Host), seedOf(author.conf.Host)}

	if _, err := other.Publish(t.Context(), dir, from("1.0.0", seeds...)); !errors.Is(err, ErrVersion) {
		t.Errorf("a version that the first machine has used: %v, want %v", err, ErrVersion)
	}
	if tags := gitIn(t, dir, nil, "tag"); tags != "" {
		t.Errorf("it signed %s", tags)
	}
	third, err := other.Publish(t.Context(), dir, from("1.2.0", seeds...))
	if err != nil || third.Spore.Seq != 3 || third.Spore.Prev != second.Spore.Hash() || third.Spore.MinSeq != 2 {
		t.Fatalf("published %+v, %v", third.Spore, err)
	}
	// Whoever has the first machine's release takes the second's.
	if r, err := author.Fetch(t.Context(), greeter, "", []Seed{seedOf(other.conf.Host)}, nil, nil); err != nil || r.Spore.Hash() != third.Spore.Hash() {
		t.Errorf("fetched by the first: %+v, %v", r.Spore, err)
	}
	fourth, err := author.Publish(t.Context(), work, from("1.1.0", seedOf(other.conf.Host)))
	if err != nil || fourth.Spore.Seq != 4 || fourth.Spore.Prev != third.Spore.Hash() {
		t.Errorf("published by the first: %+v, %v", fourth.Spore, err)
	}
}

// Two histories that exist already are told, proven, and not made longer.
func TestPublishOverFork(t *testing.T) {
	work, author := newWork(t), newNode(t, Config{Git: "git"})
	dir, other := secondMachine(t, work)
	publish(t, author, work, "1.0.0")
	publish(t, other, dir, "1.0.1") // while the first machine could not be asked
	seed := seedOf(author.conf.Host)
	if _, err := other.Publish(t.Context(), dir, from("1.0.2", seed)); !errors.Is(err, ErrFork) {
		t.Errorf("the same number: %v, want %v", err, ErrFork)
	}
	if f, err := other.Fork(greeter); err != nil || f == nil {
		t.Errorf("no proof has been kept: %v", err)
	}
	publish(t, author, work, "1.0.0")
	if _, err := other.Publish(t.Context(), dir, from("1.0.2", seed)); !errors.Is(err, ErrFork) {
		t.Errorf("a number that follows another: %v, want %v", err, ErrFork)
	}
	if tags := gitIn(t, dir, nil, "tag"); tags != "cell/greeter/1" {
		t.Errorf("it signed %s", tags)
	}
	// A tag that was pulled counts as much as a seed.
	gitIn(t, dir, nil, "fetch", "-q", work, "refs/tags/cell/greeter/2:refs/tags/cell/greeter/2")
	if _, err := other.Publish(t.Context(), dir, publication("1.0.2")); !errors.Is(err, ErrFork) {
		t.Errorf("a tag of the other history: %v, want %v", err, ErrFork)
	}
}

// A number stays taken when its release has expired, and when its files are gone.
func TestPublishAfterExpiry(t *testing.T) {
	work, author := newWork(t), newNode(t, Config{Git: "git"})
	e, id := small()
	old := signed(t, id, smallFiles(), func(p *record.Spore) {
		p.Seq, p.Issued, p.Expires = 7, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})
	f := fetch{store: author, cell: greeter, report: func(Step) {}}
	if _, err := f.copy(t.Context(), Release{Spore: old}, "test", func(dir string) error {
		return receive(bytes.NewReader(e.pack()), old, author.conf.Limits, dir)
	}); err != nil {
		t.Fatal(err)
	}
	dir, other := secondMachine(t, work)
	seed := seedOf(author.conf.Host)
	if _, err := other.Fetch(t.Context(), greeter, "", []Seed{seed}, nil, nil); !errors.Is(err, ErrNone) {
		t.Errorf("fetched what has expired: %v", err)
	}
	if _, err := other.Publish(t.Context(), dir, from("1.0.0", seed)); !errors.Is(err, ErrVersion) {
		t.Errorf("its version: %v", err)
	}
	if r, _ := author.find(greeter, "", nil); author.discard(r) != nil {
		t.Fatal("discard")
	}
	if r, err := other.Publish(t.Context(), dir, from("2.0.0", seed)); err != nil || r.Spore.Seq != 8 || r.Spore.Prev != old.Hash() {
		t.Errorf("published %+v, %v", r.Spore, err)
	}
}

// Seeds that are gone, silent, shy or have nothing hold nobody up, and what the
// author did not sign has no say.
func TestPublishAsksInVain(t *testing.T) {
	work, s := newWork(t), newNode(t, Config{Git: "git"})
	s.pace.grace = 300 * time.Millisecond
	gone, silent, empty, liar := newHost(t), newHost(t), newNode(t, Config{}), newHost(t)
	seeds := []Seed{seedOf(gone), seedOf(silent), seedOf(empty.conf.Host), seedOf(liar)}
	_ = gone.Close()
	quiet := make(chan struct{})
	t.Cleanup(func() { close(quiet) })
	silent.SetStreamHandler(s.protocol(), func(n network.Stream) { <-quiet; _ = n.Reset() })
	_, id := small()
	theirs := signed(t, id, smallFiles(), func(p *record.Spore) { p.Cell.Author, p.Seq = mallet.Public(), 9 })
	liar.SetStreamHandler(s.protocol(), func(n network.Stream) {
		_ = writeMessage(n, answer{Spore: theirs.Raw})
		_ = n.Close()
	})
	start := time.Now()
	r, err := s.Publish(t.Context(), work, from("1.0.0", seeds...))
	if err != nil || r.Spore.Seq != 1 || time.Since(start) > 2*askWait {
		t.Errorf("published %d after %v, %v", r.Spore.Seq, time.Since(start), err)
	}

	// Who gives up has signed nothing.
	ctx, cancel := context.WithCancel(t.Context())
	p := from("1.1.0")
	p.Seeds = func(context.Context) []Seed { cancel(); return seeds }
	if _, err := s.Publish(ctx, work, p); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if tags := gitIn(t, work, nil, "tag"); tags != "cell/greeter/1" {
		t.Errorf("it signed %s", tags)
	}
}
