package ribosome

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cell.network/cell/internal/identity"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// goCache is the compiled standard library of whoever runs the tests; with
// caches of their own, tests would compile it anew each time.
var goCache = sync.OnceValue(func() string {
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(out))
})

// newRibosome has a cache of its own but for the standard library.
func newRibosome(t *testing.T) *Ribosome {
	t.Helper()
	t.Setenv("GOPROXY", "off")
	r, err := New(Config{Cache: t.TempDir(), SDK: sdk(t)})
	if err != nil {
		t.Fatal(err)
	}
	r.goCache = goCache()
	return r
}

// newSource is a fresh cell.
func newSource(t *testing.T, r *Ribosome, name string) Source {
	t.Helper()
	s := Source{Dir: filepath.Join(t.TempDir(), name), Name: identity.Name(name)}
	if err := r.New(s.Dir, s.Name); err != nil {
		t.Fatal(err)
	}
	return s
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// countGo puts a go command before the real one that counts builds.
func countGo(t *testing.T, r *Ribosome) func() int {
	t.Helper()
	real, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	script := fmt.Sprintf("#!/bin/sh\necho \"$1\" >> %s\nexec %s \"$@\"\n", log, real)
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	r.goNames = []string{filepath.Join(dir, "go")}
	return func() int {
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(b, []byte("build\n"))
	}
}
