package cell

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSourceIsWhole compares Source with what the package is built of.
func TestSourceIsWhole(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,IgnoredGoFiles", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"LICENSE", "go.mod"}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var p struct {
			ImportPath, Dir         string
			GoFiles, IgnoredGoFiles []string
		}
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(p.ImportPath, "cell.network/cell") {
			continue
		}
		for _, name := range append(p.GoFiles, p.IgnoredGoFiles...) {
			path, err := filepath.Rel(root, filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(name, "_test.go") {
				want = append(want, filepath.ToSlash(path))
			}
		}
	}
	var got []string
	err = fs.WalkDir(Source, ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			got = append(got, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("Source holds\n%s\nthe package is made of\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestCellsDoNotCarrySource builds two programs, of which one mentions Source.
func TestCellsDoNotCarrySource(t *testing.T) {
	license, err := os.ReadFile("LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	sizes := map[string]int{}
	for name, extra := range map[string]string{"without": "", "with": "println(cell.Source.ReadDir(`.`))"} {
		main := filepath.Join(dir, name+".go")
		text := "package main\nimport cell \"cell.network/cell\"\nfunc main() {" + extra + "\ncell.Main() }\n"
		if err := os.WriteFile(main, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		binary := filepath.Join(dir, name)
		if out, err := exec.Command("go", "build", "-trimpath", "-o", binary, main).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		b, err := os.ReadFile(binary)
		if err != nil {
			t.Fatal(err)
		}
		sizes[name] = len(b)
		if carries := bytes.Contains(b, license); carries != (extra != "") {
			t.Errorf("a program %s Source: carries it = %v", name, carries)
		}
	}
	if sizes["without"] > 8<<20 {
		t.Errorf("the smallest cell has %d bytes", sizes["without"])
	}
}
