package mycelium

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// listing is every file under dir with its content, links and modes included.
func listing(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			if e != nil && e.Name() == ".git" {
				return fs.SkipDir
			}
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if e.Type() == fs.ModeSymlink {
			target, err := os.Readlink(p)
			all[rel] = "-> " + target
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(p)
		all[rel] = string(b)
		if st.Mode()&0o100 != 0 {
			all[rel] += " (program)"
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func sameTree(t testing.TB, got, want string) {
	t.Helper()
	g, w := listing(t, got), listing(t, want)
	for name := range w {
		if g[name] != w[name] {
			t.Errorf("%s: %.60q, want %.60q", name, g[name], w[name])
		}
	}
	for name := range g {
		if _, ok := w[name]; !ok {
			t.Errorf("%s should not be there", name)
		}
	}
}

func TestPublish(t *testing.T) {
	work, s := newWork(t), newStore(t, Config{})
	first := publish(t, s, work, "1.0.0")
	if first.Spore.Seq != 1 || first.Spore.Prev != [32]byte{} || first.Spore.Cell != greeter || first.Source != "author" || first.Bytes == 0 {
		t.Errorf("first release: %+v", first)
	}
	sameTree(t, first.Dir, work)

	write(t, filepath.Join(work, "new.txt"), "new")
	commit(t, work, "second")
	second := publish(t, s, work, "1.1.0")
	if second.Spore.Seq != 2 || second.Spore.Prev != first.Spore.Hash() || second.Spore.Tree == first.Spore.Tree {
		t.Errorf("second release: %+v", second)
	}
	sameTree(t, second.Dir, work)

	again := publish(t, s, work, "1.1.0") // holds for longer
	if again.Spore.Seq != 3 || again.Dir != second.Dir {
		t.Errorf("third release: %+v", again)
	}

	// A new life knows the same.
	other := newStore(t, Config{Dir: s.conf.Dir})
	for want, seq := range map[string]uint64{"": 3, "1.0.0": 1, "1.1.0": 3} {
		if r, err := other.Open(greeter, want); err != nil || r.Spore.Seq != seq || r.Source != "cache" || r.Bytes == 0 {
			t.Errorf("open %q: %+v, %v", want, r, err)
		}
	}
	if _, err := other.Open(greeter, "2.0.0"); !errors.Is(err, ErrNone) {
		t.Errorf("open what is not there: %v", err)
	}
	if all := other.Releases(); len(all) != 3 || all[0].Spore.Seq != 3 {
		t.Errorf("%d releases", len(all))
	}

	// An author who has lost the store goes on where his tags end.
	fresh := publish(t, newStore(t, Config{}), work, "1.1.1")
	if fresh.Spore.Seq != 4 || fresh.Spore.Prev != again.Spore.Hash() {
		t.Errorf("release from tags: %+v", fresh.Spore)
	}
}

// What the store keeps is a git repository like any other.
func TestGitReadsStore(t *testing.T) {
	work, s := newWork(t), newStore(t, Config{})
	publish(t, s, work, "1.0.0")
	write(t, filepath.Join(work, "new.txt"), "new")
	head := commit(t, work, "second")
	r := publish(t, s, work, "1.1.0")

	signers := filepath.Join(t.TempDir(), "signers")
	write(t, signers, record.AllowedSigners(greeter.Author)+"\n")
	for _, repo := range []string{work, s.repoDir(greeter)} {
		gitIn(t, repo, nil, "-c", "gpg.ssh.allowedSignersFile="+signers, "verify-tag", r.Spore.Ref())
		gitIn(t, repo, nil, "fsck", "--strict", "--full")
	}
	pack := s.packFile(r.Spore)
	gitIn(t, t.TempDir(), nil, "verify-pack", pack)
	index, err := os.ReadFile(strings.TrimSuffix(pack, ".pack") + ".idx")
	if err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(t.TempDir(), "made.idx")
	gitIn(t, work, nil, "index-pack", "--strict", "-o", made, pack)
	if want, err := os.ReadFile(made); err != nil || !slices.Equal(index, want) {
		t.Errorf("git makes another index (%v)", err)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	gitIn(t, t.TempDir(), nil, "clone", "-q", "file://"+s.repoDir(greeter), clone)
	if got := gitIn(t, clone, nil, "rev-parse", "HEAD"); got != head {
		t.Errorf("cloned %s, want %s", got, head)
	}
}

func TestPublishRefuses(t *testing.T) {
	s := newStore(t, Config{})
	try := func(name string, change func(dir string, p *Publication) string, want error) {
		t.Helper()
		dir, p := newWork(t), publication("1.0.0")
		if _, err := s.Publish(t.Context(), change(dir, &p), p); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	try("changed file", func(dir string, _ *Publication) string { write(t, dir+"/go.mod", "x"); return dir }, ErrDirty)
	try("new file", func(dir string, _ *Publication) string { write(t, dir+"/new", "x"); return dir }, ErrDirty)
	try("staged file", func(dir string, _ *Publication) string {
		write(t, dir+"/new", "x")
		gitIn(t, dir, nil, "add", "new")
		return dir
	}, ErrDirty)
	try("no repository", func(string, *Publication) string { return t.TempDir() }, ErrNoRepository)
	try("no folder", func(dir string, _ *Publication) string { return dir + "/none" }, ErrNoRepository)
	try("a folder below", func(dir string, _ *Publication) string { return dir + "/a" }, ErrNoRepository)
	try("no commit", func(string, *Publication) string {
		dir := t.TempDir()
		gitIn(t, dir, nil, "init", "-q")
		return dir
	}, ErrNoRepository)
	try("two cases of one name", func(dir string, _ *Publication) string {
		write(t, dir+"/A/x", "x")
		commit(t, dir, "x")
		return dir
	}, ErrTree)
	try("link that leads out", func(dir string, _ *Publication) string {
		_ = os.Symlink("../../etc/passwd", dir+"/a/out")
		commit(t, dir, "x")
		return dir
	}, ErrTree)
	try("bad version", func(dir string, p *Publication) string { p.Version = "a b"; return dir }, record.ErrMalformed)
	try("serves nobody", func(dir string, p *Publication) string { p.Serve.Open = false; return dir }, record.ErrMalformed)
	try("life too long", func(dir string, p *Publication) string { p.Life = 500 * 24 * time.Hour; return dir }, record.ErrMalformed)
	grant, err := record.SignGrant(mallet, lab.ID(), "", []record.Subject{{Kind: record.SubjectAny}}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	try("another's grant", func(dir string, p *Publication) string { p.Grants = [][]byte{grant.Raw}; return dir }, record.ErrGrant)

	work := newWork(t)
	write(t, work+"/go.mod", "changed")
	var d *Dirty
	if _, err := s.Publish(t.Context(), work, publication("1.0.0")); !errors.As(err, &d) || !slices.Equal(d.Files, []string{`"go.mod"`}) {
		t.Errorf("dirty files: %v", err)
	}
	if len(s.Releases()) != 0 || gitIn(t, work, nil, "tag") != "" {
		t.Error("a refused release left something behind")
	}
	if left, _ := os.ReadDir(s.tmpDir()); len(left) != 0 {
		t.Errorf("%d folders are left in quarantine", len(left))
	}

	commit(t, work, "x")
	publish(t, s, work, "1.0.0")
	write(t, work+"/go.mod", "changed again")
	commit(t, work, "x")
	if _, err := s.Publish(t.Context(), work, publication("1.0.0")); !errors.Is(err, ErrVersion) {
		t.Errorf("a version twice: %v", err)
	}
	noGit := newStore(t, Config{Git: "no-such-git"})
	if _, err := noGit.Publish(t.Context(), work, publication("2.0.0")); !errors.Is(err, ErrNoGit) {
		t.Errorf("without git: %v", err)
	}
	if _, err := s.Publish(t.Context(), work, Publication{Name: "greeter", Version: "1"}); err == nil {
		t.Error("published without a key")
	}
}

func TestPublishLimits(t *testing.T) {
	for name, l := range map[string]Limits{
		"files": {Files: 3}, "one file": {File: 1000}, "bytes": {Unpacked: 10_000}, "pack": {Packed: 500},
	} {
		if _, err := newStore(t, Config{Limits: l}).Publish(t.Context(), newWork(t), publication("1.0.0")); !errors.Is(err, ErrTooBig) {
			t.Errorf("%s: %v, want %v", name, err, ErrTooBig)
		}
	}
}

// Whoever changes files under the store is found out before they are used.
// While the pack is whole the files come back.
func TestOpenDamaged(t *testing.T) {
	work, s := newWork(t), newStore(t, Config{})
	seq := uint64(1)
	publish(t, s, work, "1.0.0")
	for name, damage := range map[string]func(dir string) error{
		"content": func(d string) error {
			_ = os.Remove(d + "/go.mod")
			return os.WriteFile(d+"/go.mod", []byte("x"), 0o644)
		},
		"mode":      func(d string) error { return os.Chmod(d+"/go.mod", 0o755) },
		"missing":   func(d string) error { return os.Remove(d + "/go.mod") },
		"added":     func(d string) error { return os.WriteFile(d+"/evil.go", nil, 0o644) },
		"retarget":  func(d string) error { _ = os.Remove(d + "/a/b/link"); return os.Symlink("/etc", d+"/a/b/link") },
		"no folder": os.RemoveAll,
	} {
		r, err := s.Open(greeter, "")
		if err != nil {
			t.Fatal("before:", err)
		}
		if err := damage(r.Dir); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Open(greeter, ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		sameTree(t, r.Dir, work)
		if err := damage(r.Dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(s.packFile(r.Spore), r.Bytes/2); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Open(greeter, ""); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, want %v", name, err, ErrDamaged)
		}
		if _, err := os.Stat(r.Dir); !errors.Is(err, fs.ErrNotExist) || len(s.Releases()) != 0 {
			t.Errorf("%s: the damaged files are still there", name)
		}
		if h, ok := s.Head(greeter); !ok || h.Seq != seq {
			t.Errorf("%s: forgot what has been seen", name)
		}
		if seq++; publish(t, s, work, "1.0.0").Spore.Seq != seq {
			t.Errorf("%s: the number %d was not used", name, seq)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]Config{
		"no folder": {Network: lab}, "no network": {Dir: t.TempDir()}, "limits": {Dir: t.TempDir(), Network: lab, Limits: Limits{Packed: 1 << 40}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// Files that are not records: a release is forgotten, a head is not.
	dir := t.TempDir()
	bad := filepath.Join(dir, "cells", identity.Key(alice.Public()).String(), "greeter", "releases", "0.1")
	write(t, bad, "what is this")
	newStore(t, Config{Dir: dir})
	if _, err := os.Stat(bad); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a damaged release is still there")
	}
	write(t, filepath.Join(filepath.Dir(filepath.Dir(bad)), "head"), "what is this")
	if _, err := New(Config{Dir: dir, Network: lab}); err == nil {
		t.Error("opened over a damaged head")
	}
}
