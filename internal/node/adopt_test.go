package node

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/mesh"
	"cell.network/cell/internal/mycelium"
	"cell.network/cell/internal/record"
)

// newMachine is a node on this machine that knows others, and has an author's keys
// if they are given.
func newMachine(t *testing.T, keys *KeyRing, knows ...*Node) *Node {
	t.Helper()
	own := KeyRing{Node: identity.NewPrivate()}
	if keys != nil {
		own.Author, own.Colony = keys.Author, keys.Colony
	}
	var entries []string
	for _, o := range knows {
		entries = append(entries, o.listen()...)
	}
	return runMachine(t, own, Config{}, entries...)
}

// runMachine runs a node with these keys on its disk; c may hold what it is made
// of beside its ports.
func runMachine(t *testing.T, own KeyRing, c Config, bootstrap ...string) *Node {
	t.Helper()
	c.Key, c.Author, c.Home, c.Version = own.Node, own.author(), tempHome(t), "test"
	for role, key := range own.roles() {
		if key.IsZero() {
			continue
		}
		if err := key.Save(c.Home.Key(role)); err != nil {
			t.Fatal(err)
		}
	}
	c.Settings = DefaultSettings()
	c.Settings.Network, c.Settings.Mode, c.Settings.Bootstrap = "lab", ModeServer, bootstrap
	c.Settings.Listen = []string{"/ip4/127.0.0.1/udp/0/quic-v1"}
	_, err := IssueOwn(c.Home, c.Settings.Network, own, time.Now())
	if err == nil {
		c.Certs, err = LoadCerts(c.Home, c.Settings.Network, time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return n
}

func (r KeyRing) author() identity.Key {
	if r.Author.IsZero() {
		return identity.Key{}
	}
	return r.Author.Public()
}

// seeding waits until the DHT knows that a node seeds a cell.
func seeding(t *testing.T, n *Node, cell identity.Cell) {
	t.Helper()
	n.mu.Lock()
	l := n.seeds[cell]
	n.mu.Unlock()
	if l == nil {
		t.Fatal("nothing is seeded")
	}
	for end := time.After(20 * time.Second); ; {
		updated := l.Updated()
		if l.State().Phase == mesh.Held {
			return
		}
		select {
		case <-updated:
		case <-end:
			t.Fatalf("the seed is not known: %+v", l.State())
		}
	}
}

// eventsOf are the texts of what a node has journalled of some kind.
func eventsOf(t *testing.T, n *Node, kind journal.Kind) []string {
	t.Helper()
	var all []string
	for e, err := range journal.Read(filepath.Join(n.cfg.Home.State, "journal")) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == kind {
			all = append(all, e.Text)
		}
	}
	return all
}

func gitIn(t *testing.T, dir string, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return string(bytes.TrimSpace(out))
}

// newSource is a repository with the source of a cell.
func newSource(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("there is no git here to publish with")
	}
	dir := t.TempDir()
	gitIn(t, dir, "", "init", "-q", "-b", "trunk", "--template=")
	commitSource(t, dir, "0.1.0", "first")
	return dir
}

func commitSource(t *testing.T, dir, version, text string) {
	t.Helper()
	for name, text := range map[string]string{
		ManifestFile: "[cell]\nname = \"greeter\"\nversion = \"" + version + "\"\nserve = [\"*\"]\n", "text": text,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	gitIn(t, dir, "", "add", "-A")
	gitIn(t, dir, "", "commit", "-q", "-m", text)
}

func cloneOf(t *testing.T, dir string, args ...string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "clone")
	gitIn(t, dir, "", append(append([]string{"clone", "-q"}, args...), "file://"+dir, to)...)
	return to
}

// Whoever runs a checkout of a release seeds it; others get it from there.
func TestAdopt(t *testing.T) {
	keys := ring(7)
	cell := identity.Cell{Author: keys.author(), Name: "greeter"}
	work := newSource(t)
	author := newMachine(t, &keys)
	if _, err := author.Publish(t.Context(), work, ""); err != nil {
		t.Fatal(err)
	}
	dir := cloneOf(t, work)

	n := newMachine(t, nil)
	grant, err := record.SignGrant(keys.Author, n.net.ID(), "greeter", []record.Subject{{Kind: record.SubjectAny}}, time.Now(), time.Hour)
	if err == nil {
		err = n.keepGrants(grant)
	}
	if err != nil {
		t.Fatal(err)
	}
	far := newMachine(t, nil, n)
	n.adopt(t.Context(), cell, dir)
	seeding(t, n, cell)
	for _, kind := range []journal.Kind{journal.Verify, journal.Seed} {
		if got := eventsOf(t, n, kind); len(got) != 1 {
			t.Errorf("%s: %q", kind, got)
		}
	}
	rel, err := far.fetch(t.Context(), cell, "", nil, func(Progress) {})
	if err != nil || rel.Spore.Seq != 1 || rel.Source != "seed "+n.Key().String() {
		t.Fatalf("fetched %+v, %v", rel, err)
	}
	if len(rel.Grants) != 1 || !bytes.Equal(rel.Grants[0].Raw, grant.Raw) {
		t.Errorf("the grant did not come along: %+v", rel.Grants)
	}

	// Again it is no news, and what the author has has it already.
	n.adopt(t.Context(), cell, dir)
	author.adopt(t.Context(), cell, work)
	if a, b := eventsOf(t, n, journal.Seed), eventsOf(t, author, journal.Seed); len(a) != 1 || len(b) != 1 {
		t.Errorf("seeded again: %q, %q", a, b)
	}
}

// A working directory is never seeded, and a release that is not good neither.
func TestAdoptNothing(t *testing.T) {
	keys := ring(7)
	cell := identity.Cell{Author: keys.author(), Name: "greeter"}
	work, author := newSource(t), newMachine(t, &keys)
	if _, err := author.Publish(t.Context(), work, ""); err != nil {
		t.Fatal(err)
	}
	n := newMachine(t, nil)
	for name, change := range map[string]func(dir string) error{
		"dirty":          func(d string) error { return os.WriteFile(d+"/text", []byte("changed"), 0o644) },
		"untracked file": func(d string) error { return os.WriteFile(d+"/new", nil, 0o644) },
		"other commit":   func(d string) error { commitSource(t, d, "0.1.0", "second"); return nil },
		"no repository":  func(d string) error { return os.RemoveAll(d + "/.git") },
	} {
		dir := cloneOf(t, work)
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		n.adopt(t.Context(), cell, dir)
		if len(n.seeds) != 0 || len(n.store.Releases()) != 0 || len(eventsOf(t, n, journal.Refuse)) != 0 {
			t.Fatalf("%s: seeds %v, refusals %q", name, n.seeds, eventsOf(t, n, journal.Refuse))
		}
	}
	dir := cloneOf(t, work)
	forged := strings.NewReplacer("greeter/1\n", "greeter/9\n", "seq 1\n", "seq 9\n").Replace(gitIn(t, dir, "", "cat-file", "tag", "cell/greeter/1") + "\n")
	gitIn(t, dir, "", "update-ref", "refs/tags/cell/greeter/9", gitIn(t, dir, forged, "hash-object", "-t", "tag", "-w", "--stdin"))
	gitIn(t, dir, "", "tag", "-d", "cell/greeter/1")
	n.adopt(t.Context(), cell, dir)
	if got := eventsOf(t, n, journal.Refuse); len(n.seeds) != 0 || len(got) != 1 || !strings.Contains(got[0], record.ErrSignature.Error()) {
		t.Errorf("forged: seeds %v, refusals %q", n.seeds, got)
	}
}

// An author's second machine, whose repository and store know nothing of the
// first, goes on where that is.
func TestPublishFromSecondMachine(t *testing.T) {
	keys := ring(7)
	cell := identity.Cell{Author: keys.author(), Name: "greeter"}
	work := newSource(t)
	first := newMachine(t, &keys)
	second := newMachine(t, &keys, first)
	if _, err := first.Publish(t.Context(), work, ""); err != nil {
		t.Fatal(err)
	}
	seeding(t, first, cell)
	dir := cloneOf(t, work, "--no-tags")
	commitSource(t, dir, "0.1.0", "other")
	if _, err := second.Publish(t.Context(), dir, ""); err == nil || !strings.Contains(err.Error(), mycelium.ErrVersion.Error()) {
		t.Errorf("the version of the first machine: %v", err)
	}
	commitSource(t, dir, "0.2.0", "other")
	got, err := second.Publish(t.Context(), dir, "")
	if err != nil || got.Seq != 2 {
		t.Fatalf("published %+v, %v", got, err)
	}
	a, _ := first.store.Head(cell)
	if b, _ := second.store.Head(cell); b.Prev != a.Hash() {
		t.Error("the second release does not follow the first")
	}
}
