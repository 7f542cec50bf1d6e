package mycelium

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cell.network/cell/internal/record"
)

// newMirror is a bare repository that an author pushed to.
func newMirror(t testing.TB, work string) (dir, url string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "mirror.git")
	gitIn(t, work, nil, "init", "-q", "--bare", dir)
	push(t, work, dir)
	return dir, "file://" + dir
}

func push(t testing.TB, work, mirror string) {
	t.Helper()
	gitIn(t, work, nil, "push", "-q", mirror, "HEAD:refs/heads/main", "refs/tags/*:refs/tags/*")
}

var fileMirror = GitMirror{Schemes: []string{"file"}}

func TestMirror(t *testing.T) {
	work, author := newWork(t), newStore(t, Config{})
	publish(t, author, work, "1.0.0")
	commit(t, work, "unreleased")
	commit(t, work, "second")
	want := publish(t, author, work, "2.0.0")
	mirror, url := newMirror(t, work)

	s := newStore(t, Config{Mirror: fileMirror})
	got, err := s.Fetch(t.Context(), greeter, "", nil, []string{"file:///nowhere", url}, nil)
	if err != nil || got.Spore.Hash() != want.Spore.Hash() || got.Source != url {
		t.Fatalf("%+v, %v", got, err)
	}
	sameTree(t, got.Dir, work)
	gitIn(t, s.repoDir(greeter), nil, "fsck", "--strict", "--full")
	if got, err = s.Fetch(t.Context(), greeter, "1.0.0", nil, []string{url}, nil); err != nil || got.Spore.Seq != 1 {
		t.Errorf("by name: %v", err)
	}
	if got, err = s.Fetch(t.Context(), greeter, "", nil, []string{url}, nil); err != nil || got.Source != "cache" {
		t.Errorf("nothing new: %+v, %v", got, err)
	}

	// A mirror that has fallen behind, or lies, is not believed.
	try := func(name string, want error, change func()) {
		t.Helper()
		change()
		fresh := newStore(t, Config{Mirror: fileMirror})
		if _, err := fresh.Fetch(t.Context(), greeter, "", nil, []string{url}, nil); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		fresh.empty(t)
	}
	tag := func(ref, text string) {
		id := gitIn(t, mirror, []byte(text), "hash-object", "-t", "tag", "-w", "--stdin")
		gitIn(t, mirror, nil, "update-ref", ref, id)
	}
	gitIn(t, mirror, nil, "update-ref", "-d", "refs/tags/cell/greeter/1")
	try("a tag renamed", record.ErrMalformed, func() {
		gitIn(t, mirror, nil, "update-ref", "refs/tags/cell/greeter/9", "refs/tags/cell/greeter/2")
		gitIn(t, mirror, nil, "update-ref", "-d", "refs/tags/cell/greeter/2")
	})
	try("a forged tag", record.ErrSignature, func() {
		tag("refs/tags/cell/greeter/9", strings.NewReplacer("greeter/2\n", "greeter/9\n", "seq 2\n", "seq 9\n").Replace(string(want.Spore.Raw)))
	})
	try("no tag object", record.ErrMalformed, func() { gitIn(t, mirror, nil, "update-ref", "refs/tags/cell/greeter/9", "refs/heads/main") })
	try("another commit", ErrContent, func() {
		p := want.Spore
		p.Seq, p.Tree[0] = 9, p.Tree[0]^1
		p, err := record.SignSpore(alice, p)
		if err != nil {
			t.Fatal(err)
		}
		tag("refs/tags/cell/greeter/9", string(p.Raw))
	})
	try("nothing", ErrNone, func() { gitIn(t, mirror, nil, "update-ref", "-d", "refs/tags/cell/greeter/9") })
}

// Repositories that would do harm to who checks them out.
func TestHostileMirror(t *testing.T) {
	needGit(t)
	publishEvil := func(mirror string, build func(e *evil) objectID) {
		e := &evil{}
		id := e.commit(build(e))
		for _, o := range e.order {
			if got := gitIn(t, mirror, o.data, "hash-object", "--literally", "-t", o.kind.String(), "-w", "--stdin"); got != o.id.String() {
				t.Fatalf("git calls %s %s", o.id, got)
			}
		}
		p := signed(t, id, smallFiles(), nil)
		tag := gitIn(t, mirror, p.Raw, "hash-object", "-t", "tag", "-w", "--stdin")
		gitIn(t, mirror, nil, "update-ref", p.Ref(), tag)
	}
	for name, build := range map[string]func(e *evil) objectID{
		"git folder": func(e *evil) objectID { return e.tree(line(modeFile, ".git", e.blob("x"))) },
		"git folder in capitals": func(e *evil) objectID {
			return e.tree(line(modeDir, ".GIT", e.tree(line(modeProg, "hook", e.blob("#!/bin/sh\nexit 1\n")))))
		},
		"link that leads out": func(e *evil) objectID { return e.tree(line(modeLink, "out", e.blob("/etc/passwd"))) },
		"two cases": func(e *evil) objectID {
			return e.tree(line(modeLink, "A", e.blob(".")), line(modeFile, "a", e.blob("x")))
		},
		"up":        func(e *evil) objectID { return e.tree(line(modeDir, "..", e.tree(line(modeFile, "x", e.blob("x"))))) },
		"submodule": func(e *evil) objectID { return e.tree(line("160000", "sub", objectID{1})) },
		"blob bomb": func(e *evil) objectID { return e.tree(line(modeFile, "f", e.blob(strings.Repeat("\x00", 8<<20)))) },
	} {
		mirror := filepath.Join(t.TempDir(), "mirror.git")
		gitIn(t, t.TempDir(), nil, "init", "-q", "--bare", mirror)
		publishEvil(mirror, build)
		s := newStore(t, Config{Mirror: fileMirror, Limits: Limits{File: 1 << 20}})
		var fe *FetchError
		if _, err := s.Fetch(t.Context(), greeter, "", nil, []string{"file://" + mirror}, nil); !errors.As(err, &fe) {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Logf("%s: %v", name, fe.Attempts[0].Err)
		}
		s.empty(t)
	}
}

func TestMirrorRefusesURLs(t *testing.T) {
	s := newStore(t, Config{})
	for _, url := range []string{"", "/etc", "file:///etc", "ext::sh -c id", "ssh://-oProxyCommand=id/x", "git@example.com:x", "http://example.com", "--upload-pack=id", "https:/x", "fd::3"} {
		if _, err := s.Fetch(t.Context(), greeter, "", nil, []string{url}, nil); !errors.Is(err, ErrMirror) {
			t.Errorf("%q: %v", url, err)
		}
	}
	if _, err := newStore(t, Config{Git: "no-such-git"}).Fetch(t.Context(), greeter, "", nil, []string{"https://example.invalid/x"}, nil); !errors.Is(err, ErrNoGit) {
		t.Errorf("without git: %v", err)
	}
}

// A mirror that never answers is given up with the fetch, and no git stays.
func TestMirrorEnds(t *testing.T) {
	needGit(t)
	dir := t.TempDir()
	slow := filepath.Join(dir, "git")
	mark := filepath.Join(dir, "mark")
	if err := os.WriteFile(slow, []byte("#!/bin/sh\nsleep 600 &\necho $! > "+mark+"\nwait\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, Config{Mirror: GitMirror{Git: slow}})
	ctx, cancel := contextAfter(t, 500*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := s.Fetch(ctx, greeter, "", nil, []string{"https://example.invalid/x"}, nil)
	if err == nil || errors.Is(err, ErrNone) || time.Since(start) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	b, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal("git was never run:", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); !gone(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what git started still runs")
		}
	}
}

// gone reports whether a process has ended, be it that nobody has waited for it.
func gone(pid int) bool {
	if b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat")); err == nil && strings.Contains(string(b), ") Z ") {
		return true
	}
	return syscall.Kill(pid, 0) != nil
}
