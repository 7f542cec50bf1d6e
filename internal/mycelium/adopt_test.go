package mycelium

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// shipped is the release that is checked out in the template of that name.
var shipped struct {
	once  sync.Once
	spore record.Spore
}

// released is a checkout of a release, and its record.
func released(t *testing.T) (work string, p record.Spore) {
	t.Helper()
	needGit(t)
	shipped.once.Do(func() {
		dir := newWork(t)
		shipped.spore = publish(t, newStore(t, Config{}), dir, "1.0.0").Spore
		if err := os.CopyFS(filepath.Join(template.dir, "shipped"), os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
	})
	return copyWork(t, "shipped"), shipped.spore
}

// untouched fails where a store that never had a release holds anything.
func (s *Store) untouched(t *testing.T) {
	t.Helper()
	if len(s.Releases()) != 0 {
		t.Error("a release has been installed")
	}
	if _, ok := s.Head(greeter); ok {
		t.Error("the head rose")
	}
	for _, dir := range []string{"tmp", "trees"} {
		if left, err := os.ReadDir(filepath.Join(s.conf.Dir, dir)); err != nil || len(left) != 0 {
			t.Errorf("%d are left in %s, %v", len(left), dir, err)
		}
	}
}

// Whoever checks out a release from anywhere can hand it on.
func TestAdopt(t *testing.T) {
	work, want := released(t)
	grant := openGrant(t, time.Now())
	foreign, err := record.SignGrant(mallet, lab.ID(), "", []record.Subject{{Kind: record.SubjectAny}}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	s := newNode(t, Config{Git: "git"})
	got, err := s.Adopt(t.Context(), work, greeter, [][]byte{grant.Raw, foreign.Raw})
	if err != nil || got.Spore.Hash() != want.Hash() || got.Source != "folder" || got.Bytes == 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if len(got.Grants) != 1 || got.Grants[0].Signer != greeter.Author {
		t.Errorf("grants %+v", got.Grants)
	}
	sameTree(t, got.Dir, work)
	gitIn(t, s.repoDir(greeter), nil, "fsck", "--strict", "--full")

	finder := newNode(t, Config{})
	if r, err := finder.Fetch(t.Context(), greeter, "", []Seed{seedOf(s.conf.Host)}, nil, nil); err != nil || r.Spore.Hash() != want.Hash() || len(r.Grants) != 1 {
		t.Fatalf("fetched from it: %+v, %v", r, err)
	}

	// Again: nothing is written.
	s.step = func(at string) { t.Error("installed again:", at) }
	if got, err = s.Adopt(t.Context(), work, greeter, nil); err != nil || got.Source != "cache" || len(got.Grants) != 1 {
		t.Errorf("again: %+v, %v", got, err)
	}
	s.step = func(string) {}

	// The files that are handed out to be built are whole, whoever has been at them.
	if err := os.RemoveAll(got.Dir + "/go.mod"); err != nil {
		t.Fatal(err)
	}
	if got, err = s.Adopt(t.Context(), work, greeter, nil); err != nil {
		t.Error(err)
	}
	sameTree(t, got.Dir, work)

	// What git is told to ignore, and what it would call unchanged, stays where it is.
	write(t, work+"/.git/info/exclude", "*.log\n")
	write(t, work+"/secret.log", "x")
	if err := os.Chtimes(work+"/go.mod", time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	fresh := newStore(t, Config{})
	if got, err = fresh.Adopt(t.Context(), work, greeter, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(got.Dir + "/secret.log"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an ignored file has been adopted: %v", err)
	}

	// The release after it, and never again the one before.
	next := publish(t, newStore(t, Config{}), work, "1.0.0") // the same commit for longer
	if got, err = s.Adopt(t.Context(), work, greeter, nil); err != nil || got.Spore.Hash() != next.Spore.Hash() {
		t.Errorf("renewed: %+v, %v", got.Spore, err)
	}
	commit(t, work, "second")
	third := publish(t, newStore(t, Config{}), work, "1.1.0")
	if got, err = s.Adopt(t.Context(), work, greeter, nil); err != nil || got.Spore.Hash() != third.Spore.Hash() {
		t.Errorf("the next: %+v, %v", got.Spore, err)
	}
	gitIn(t, work, nil, "checkout", "-q", "HEAD~")
	if _, err = s.Adopt(t.Context(), work, greeter, nil); !errors.Is(err, record.ErrOrder) || errors.Is(err, ErrNotRelease) {
		t.Errorf("an older one: %v, want %v", err, record.ErrOrder)
	}
	if h, _ := s.Head(greeter); h.Seq != 3 {
		t.Errorf("the head fell to %d", h.Seq)
	}
}

// A working directory is no release as soon as it differs from one in anything.
func TestAdoptNotRelease(t *testing.T) {
	s := newStore(t, Config{})
	try := func(name string, want error, change func(dir string) string) {
		t.Helper()
		work, _ := released(t)
		if _, err := s.Adopt(t.Context(), change(work), greeter, nil); !errors.Is(err, want) || !errors.Is(err, ErrNotRelease) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		s.untouched(t)
	}
	in := func(f func(dir string)) func(string) string {
		return func(dir string) string { f(dir); return dir }
	}
	try("changed file", ErrDirty, in(func(d string) { write(t, d+"/go.mod", "module greetes\n") }))
	try("changed file, in secret", ErrDirty, in(func(d string) {
		gitIn(t, d, nil, "update-index", "--assume-unchanged", "go.mod")
		write(t, d+"/go.mod", "module greetes\n")
	}))
	try("changed mode", ErrDirty, in(func(d string) {
		gitIn(t, d, nil, "config", "core.fileMode", "false")
		if err := os.Chmod(d+"/go.mod", 0o755); err != nil {
			t.Fatal(err)
		}
	}))
	try("link instead of a file", ErrDirty, in(func(d string) {
		if err := errors.Join(os.Rename(d+"/go.mod", d+"/.git/x"), os.Symlink(".git/x", d+"/go.mod")); err != nil {
			t.Fatal(err)
		}
	}))
	try("other link", ErrDirty, in(func(d string) {
		if err := errors.Join(os.Remove(d+"/also-c"), os.Symlink("d", d+"/also-c")); err != nil {
			t.Fatal(err)
		}
	}))
	try("missing file", ErrDirty, in(func(d string) {
		if err := os.Remove(d + "/go.mod"); err != nil {
			t.Fatal(err)
		}
	}))
	try("untracked file", ErrDirty, in(func(d string) { write(t, d+"/a/new.go", "package a") }))
	try("untracked repository", ErrDirty, in(func(d string) {
		gitIn(t, d, nil, "init", "-q", "sub")
		write(t, d+"/sub/x", "x")
	}))
	try("staged file", ErrDirty, in(func(d string) { write(t, d+"/new", "x"); gitIn(t, d, nil, "add", "new") }))
	try("staged removal", ErrDirty, in(func(d string) { gitIn(t, d, nil, "rm", "-q", "--cached", "go.mod") }))
	try("line ends", ErrDirty, in(func(d string) {
		write(t, d+"/a/b/c.txt", "c\r\n")
	}))
	try("other commit", ErrNotRelease, in(func(d string) { commit(t, d, "later") }))
	try("no tag", ErrNotRelease, in(func(d string) { gitIn(t, d, nil, "tag", "-d", "cell/greeter/1") }))
	try("another cell's tag", ErrNotRelease, in(func(d string) {
		gitIn(t, d, nil, "update-ref", "refs/tags/cell/other/1", "refs/tags/cell/greeter/1")
		gitIn(t, d, nil, "tag", "-d", "cell/greeter/1")
	}))
	try("a folder below", ErrNoRepository, func(d string) string { return d + "/a" })
	try("no repository", ErrNoRepository, func(d string) string {
		if err := os.RemoveAll(d + "/.git"); err != nil {
			t.Fatal(err)
		}
		return d
	})
	try("no commit", ErrNoRepository, func(string) string {
		dir := t.TempDir()
		gitIn(t, dir, nil, "init", "-q")
		return dir
	})
	try("a damaged repository", ErrNoRepository, in(func(d string) { write(t, d+"/.git/HEAD", "what is this\n") }))
	try("no folder", ErrNoRepository, func(d string) string { return d + "/none" })

	work, _ := released(t)
	write(t, work+"/go.mod", "changed")
	var d *Dirty
	if _, err := s.Adopt(t.Context(), work, greeter, nil); !errors.As(err, &d) || !slices.Equal(d.Files, []string{`"go.mod"`}) {
		t.Errorf("dirty files: %v", err)
	}
	work, _ = released(t)
	bob := identity.Cell{Author: mallet.Public(), Name: "greeter"}
	if _, err := s.Adopt(t.Context(), work, bob, nil); !errors.Is(err, ErrNotRelease) || !errors.Is(err, record.ErrCell) {
		t.Errorf("of another author, whose repository it was: %v", err)
	}
	noGit := newStore(t, Config{Git: "no-such-git"})
	if _, err := noGit.Adopt(t.Context(), work, greeter, nil); !errors.Is(err, ErrNoGit) || !errors.Is(err, ErrNotRelease) {
		t.Errorf("without git: %v", err)
	}
}

// What says that it is a release and is none is not believed, and told apart
// from a folder that says no such thing.
func TestAdoptRefuses(t *testing.T) {
	s := newStore(t, Config{Limits: Limits{Files: 100}})
	try := func(name string, want error, change func(dir string, r record.Spore)) {
		t.Helper()
		work, p := released(t)
		change(work, p)
		if _, err := s.Adopt(t.Context(), work, greeter, nil); !errors.Is(err, want) || errors.Is(err, ErrNotRelease) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		s.untouched(t)
	}
	retag := func(dir, ref, text string) {
		gitIn(t, dir, nil, "tag", "-d", "cell/greeter/1")
		gitIn(t, dir, nil, "update-ref", ref, gitIn(t, dir, []byte(text), "hash-object", "-t", "tag", "-w", "--stdin"))
	}
	resign := func(dir string, p record.Spore, change func(*record.Spore)) {
		change(&p)
		p, err := record.SignSpore(alice, p)
		if err != nil {
			t.Fatal(err)
		}
		retag(dir, p.Ref(), string(p.Raw))
	}
	try("forged tag", record.ErrSignature, func(d string, p record.Spore) {
		retag(d, "refs/tags/cell/greeter/9", strings.NewReplacer("greeter/1\n", "greeter/9\n", "seq 1\n", "seq 9\n").Replace(string(p.Raw)))
	})
	try("renamed tag", record.ErrMalformed, func(d string, p record.Spore) { retag(d, "refs/tags/cell/greeter/9", string(p.Raw)) })
	try("plain tag", record.ErrMalformed, func(d string, _ record.Spore) {
		gitIn(t, d, nil, "tag", "-d", "cell/greeter/1")
		gitIn(t, d, nil, "tag", "cell/greeter/1")
	})
	try("expired", record.ErrStale, func(d string, p record.Spore) {
		resign(d, p, func(p *record.Spore) {
			p.Issued, p.Expires = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute*30)
		})
	})
	try("other content", ErrContent, func(d string, p record.Spore) {
		resign(d, p, func(p *record.Spore) { p.Tree[0] ^= 1 })
	})
	try("too many files", ErrTooBig, func(d string, p record.Spore) {
		resign(d, p, func(p *record.Spore) { p.Files = 101 })
	})

	// A second history is one wherever it is met, and the proof is kept.
	work, p := released(t)
	if _, err := s.Adopt(t.Context(), work, greeter, nil); err != nil {
		t.Fatal(err)
	}
	resign(work, p, func(p *record.Spore) { p.Version = "1.0.1" })
	if _, err := s.Adopt(t.Context(), work, greeter, nil); !errors.Is(err, ErrFork) {
		t.Errorf("two histories: %v", err)
	}
	if f, err := s.Fork(greeter); err != nil || f == nil {
		t.Errorf("no proof has been kept: %v", err)
	}
}

// A repository that has git run a program, if it can, runs none.
func TestAdoptHostile(t *testing.T) {
	work, _ := released(t)
	mark := filepath.Join(t.TempDir(), "mark")
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\ntouch "+mark+"\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "core.fsmonitor", "diff.external", "diff.evil.textconv", "diff.evil.command",
		"core.pager", "core.editor", "core.sshCommand", "credential.helper", "remote.origin.uploadpack", "gpg.program", "core.alternateRefsCommand",
	} {
		gitIn(t, work, nil, "config", key, program)
	}
	write(t, work+"/.git/info/attributes", "* filter=evil diff=evil\n")
	for _, hook := range []string{"post-index-change", "fsmonitor-watchman", "reference-transaction", "post-checkout"} {
		if err := os.MkdirAll(work+"/.git/hooks", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(program, work+"/.git/hooks/"+hook); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(work+"/go.mod", time.Now(), time.Now().Add(time.Hour)); err != nil { // git would look at it again
		t.Fatal(err)
	}
	if _, err := newStore(t, Config{}).Adopt(t.Context(), work, greeter, nil); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(mark); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("git ran a program of the repository")
	}

	// A blob that is missing is not fetched from where the repository says.
	gitIn(t, work, nil, "config", "remote.origin.url", work)
	gitIn(t, work, nil, "config", "remote.origin.promisor", "true")
	gitIn(t, work, nil, "config", "core.repositoryformatversion", "1")
	gitIn(t, work, nil, "config", "extensions.partialClone", "origin")
	gitIn(t, work, nil, "config", "protocol.file.allow", "always")
	blob := gitIn(t, work, nil, "rev-parse", "HEAD:go.mod")
	if err := os.Remove(filepath.Join(work, ".git", "objects", blob[:2], blob[2:])); err != nil {
		t.Fatal(err)
	}
	if _, err := newStore(t, Config{}).Adopt(t.Context(), work, greeter, nil); !errors.Is(err, ErrContent) {
		t.Errorf("a missing blob: %v", err)
	}
	if _, err := os.Stat(mark); !errors.Is(err, fs.ErrNotExist) {
		t.Error("git ran a program of the repository for a missing blob")
	}
}

func openGrant(t testing.TB, issued time.Time) record.Grant {
	t.Helper()
	g, err := record.SignGrant(alice, lab.ID(), "greeter", []record.Subject{{Kind: record.SubjectAny}}, issued, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// Grants are no part of a folder: they come with the next seed that has them.
func TestRegrant(t *testing.T) {
	work, author := newWork(t), newNode(t, Config{Git: "git"})
	p := publication("1.0.0")
	older, newer := openGrant(t, time.Now().Add(-time.Minute)), openGrant(t, time.Now())
	p.Grants = [][]byte{newer.Raw}
	if _, err := author.Publish(t.Context(), work, p); err != nil {
		t.Fatal(err)
	}
	s := newNode(t, Config{Git: "git"})
	if r, err := s.Adopt(t.Context(), work, greeter, nil); err != nil || len(r.Grants) != 0 {
		t.Fatalf("adopted %+v, %v", r, err)
	}
	r, err := s.Fetch(t.Context(), greeter, "", []Seed{seedOf(author.conf.Host)}, nil, nil)
	if err != nil || r.Source != "cache" || len(r.Grants) != 1 {
		t.Fatalf("fetched %+v, %v", r, err)
	}
	if r, err = s.Adopt(t.Context(), work, greeter, [][]byte{older.Raw}); err != nil || len(r.Grants) != 1 || r.Grants[0].Order != newer.Order {
		t.Errorf("an older grant: %+v, %v", r.Grants, err)
	}
	again, err := newStore(t, Config{Dir: s.conf.Dir}).Open(greeter, "")
	if err != nil || fmt.Sprintf("%x", again.Grants) != fmt.Sprintf("%x", r.Grants) {
		t.Errorf("in a new life: %+v, %v", again.Grants, err)
	}
}
