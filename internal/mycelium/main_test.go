package mycelium

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		crashChild(dir)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if template.dir != "" {
			_ = os.RemoveAll(template.dir)
		}
		os.Exit(code)
	}))
}

const lab = identity.Network("lab")

var (
	alice   = identity.PrivateFromSeed([32]byte{1})
	mallet  = identity.PrivateFromSeed([32]byte{66})
	greeter = identity.Cell{Author: alice.Public(), Name: "greeter"}
)

// gitIn runs the system's git as an author would.
func gitIn(t testing.TB, dir string, stdin []byte, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(stdin)
	cmd.Env = append(os.Environ(), "HOME="+os.TempDir(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func needGit(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("there is no git here to publish with")
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sourceFiles is a small cell with all that may be in one.
var sourceFiles = map[string]string{
	"Cell.toml":            "[cell]\nname = \"greeter\"\n",
	"go.mod":               "module greeter\n",
	"cmd/greeter/main.go":  "package main\nfunc main() {}\n",
	"a/b/c.txt":            "c",
	"a/twice.txt":          "c",
	"empty":                "",
	".gitattributes":       "*.txt export-ignore eol=crlf ident filter=evil\n",
	"a.b/x":                "sorts between a and a/",
	"grüße.txt":            "letters",
	"docs/with space.txt":  "$Id$\n",
	"a/twice/deep/er.txt":  "one level\n",
	"b/twice/deep/er.txt":  "one level\n", // the same folder twice
	"big.bin":              strings.Repeat("0123456789abcdef", 4_000),
	"scripts/run me.sh":    "#!/bin/sh\n",
	"scripts/notascript.c": "#!/bin/sh\n", // content of a program, as a file
}

// template is work trees that are made once, and copied.
var template struct {
	once sync.Once
	dir  string // removed at the end
}

// newWork makes a work tree with one commit.
func newWork(t testing.TB) string {
	t.Helper()
	needGit(t)
	template.once.Do(func() {
		dir, err := os.MkdirTemp("", "mycelium-")
		if err != nil {
			t.Fatal(err)
		}
		template.dir = dir
		work := filepath.Join(dir, "work")
		if err := os.Mkdir(work, 0o755); err != nil {
			t.Fatal(err)
		}
		makeWork(t, work)
	})
	return copyWork(t, "work")
}

func copyWork(t testing.TB, name string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(template.dir, name))); err != nil {
		t.Fatal(err)
	}
	return dir
}

func makeWork(t testing.TB, dir string) {
	t.Helper()
	gitIn(t, dir, nil, "init", "-q", "-b", "trunk", "--template=")
	for name, text := range sourceFiles {
		write(t, filepath.Join(dir, filepath.FromSlash(name)), text)
	}
	if err := os.Rename(filepath.Join(dir, "a/twice"), filepath.Join(dir, "a/twice2")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "scripts/run me.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../b/c.txt", filepath.Join(dir, "a/b/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("c", filepath.Join(dir, "also-c")); err != nil { // content of a file, as a link
		t.Fatal(err)
	}
	commit(t, dir, "first")
}

func commit(t testing.TB, dir, message string) string {
	t.Helper()
	gitIn(t, dir, nil, "add", "-A")
	gitIn(t, dir, nil, "commit", "-q", "--allow-empty", "-m", message)
	return gitIn(t, dir, nil, "rev-parse", "HEAD")
}

func newStore(t testing.TB, c Config) *Store {
	t.Helper()
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	c.Network = lab
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func publication(version string) Publication {
	return Publication{Author: alice, Name: "greeter", Version: version, Serve: record.Serve{Open: true}}
}

func publish(t testing.TB, s *Store, dir, version string) Release {
	t.Helper()
	r, err := s.Publish(t.Context(), dir, publication(version))
	if err != nil {
		t.Fatal(err)
	}
	return r
}
