package ribosome

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"cell.network/cell/internal/identity"
)

// TestExample holds examples/greeter to be what New writes, but for the path
// under which it is imported. Write it anew with: go test -run TestExample -update
func TestExample(t *testing.T) {
	const dir = "../../examples/greeter"
	files, err := render(newCell{Name: "greeter", Package: "greeter", Module: sdkPath + "/examples/greeter"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		file := filepath.Join(dir, name)
		if *update {
			write(t, file, string(want))
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v; it reads\n%s\nNew writes\n%s", file, err, got, want)
		}
	}
	err = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if _, ok := files[filepath.ToSlash(rel)]; !ok {
			t.Errorf("%s is nothing that New writes", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

var update = flag.Bool("update", false, "write examples/greeter")

func TestNewWritesNothingOverAnything(t *testing.T) {
	r := newRibosome(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "mine.txt"), "mine")
	if err := r.New(dir, "greeter"); !errors.Is(err, ErrNotEmpty) {
		t.Error(err)
	}
	if es, _ := os.ReadDir(dir); len(es) != 1 {
		t.Errorf("it wrote all the same: %v", es)
	}
	if err := r.New(filepath.Join(dir, "mine.txt"), "greeter"); err == nil {
		t.Error("made a cell in a file")
	}
	if err := r.New(t.TempDir(), "Bad_Name"); !errors.Is(err, identity.ErrName) {
		t.Error(err)
	}
	if err := r.New(t.TempDir(), "greeter"); err != nil { // empty, but there
		t.Error(err)
	}
}

// TestNewNames makes cells whose names are awkward in Go.
func TestNewNames(t *testing.T) {
	r := newRibosome(t)
	for _, name := range []string{"my-cell", "vendor", "testdata"} { // awkward for go build
		if _, err := r.Build(t.Context(), newSource(t, r, name), nil); err != nil {
			t.Error(err)
		}
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "go.mod"), string(r.modules.goMod("cell.local/all")))
	write(t, filepath.Join(dir, "go.sum"), string(r.modules.goSum()))
	for name, want := range map[string]string{ // awkward for the compiler
		"9lives": "cell9lives", "a-b-c": "abc", "go": "gocell", "main": "maincell", "init": "initcell",
		"context": "contextcell", "error": "errorcell", "hello": "hellocell", "in": "incell", "time": "time",
	} {
		c := newCell{Name: identity.Name(name), Package: packageName(identity.Name(name)), Module: "cell.local/all/" + name}
		if c.Package != want {
			t.Errorf("package of %s: %s, want %s", name, c.Package, want)
		}
		files, err := render(c)
		if err != nil {
			t.Error(err)
		}
		for file, b := range files {
			write(t, filepath.Join(dir, name, file), string(b))
		}
	}
	tool, err := r.findToolchain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cmd := r.command(t.Context(), tool, "vet", "./...")
	cmd.Dir, cmd.Env = dir, r.environment(tool)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
