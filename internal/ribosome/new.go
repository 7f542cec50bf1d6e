package ribosome

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"go/format"
	"go/token"
	"go/types"
	"os"
	"path"
	"path/filepath"
	"slices"
	"text/template"

	"cell.network/cell/internal/identity"
)

// templates are the files of a new cell; examples/greeter is what they make.
//
//go:embed template
var templates embed.FS

// ErrNotEmpty says that a new cell would lie among other files.
var ErrNotEmpty = errors.New("the folder is not empty")

// newCell fills the templates.
type newCell struct {
	Name    identity.Name
	Package string // Name, as far as Go lets it be the name of a package
	Module  string // import path of Package
}

// New writes the source of a new cell into dir, which must be empty or not
// there; else it fails with [ErrNotEmpty]. The cell can be built as it is.
func (r *Ribosome) New(dir string, name identity.Name) error {
	if _, err := identity.ParseName(string(name)); err != nil {
		return fmt.Errorf("make cell: %w", err)
	}
	if entries, err := os.ReadDir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("make cell: %w", err)
	} else if len(entries) > 0 {
		return fmt.Errorf("make cell in %s: %w", dir, ErrNotEmpty)
	}
	module := "cell.local/" + string(name) // a path that no proxy answers to: who publishes the cell gives it his own
	files, err := render(newCell{Name: name, Package: packageName(name), Module: module})
	if err != nil {
		return fmt.Errorf("make cell: %w", err)
	}
	files["go.mod"] = r.modules.goMod(module)
	files["go.sum"] = r.modules.goSum()
	for file, b := range files {
		to := filepath.Join(dir, filepath.FromSlash(file))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return fmt.Errorf("make cell: %w", err)
		}
		if err := os.WriteFile(to, b, 0o644); err != nil {
			return fmt.Errorf("make cell: %w", err)
		}
	}
	return nil
}

// render makes all files but go.mod and go.sum, by path.
func render(c newCell) (map[string][]byte, error) {
	t, err := template.ParseFS(templates, "template/*")
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte)
	for file, from := range map[string]string{
		"Cell.toml":                          "Cell.toml",
		string(c.Name) + ".go":               "contract.go.tmpl",
		"cmd/" + string(c.Name) + "/main.go": "main.go.tmpl",
	} {
		var b bytes.Buffer
		if err := t.ExecuteTemplate(&b, from, c); err != nil {
			return nil, err
		}
		files[file] = b.Bytes()
		if path.Ext(file) == ".go" {
			if files[file], err = format.Source(b.Bytes()); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return files, nil
}

// taken are the names that Go does not allow for a package that is imported, or
// that main.go.tmpl uses for something else.
var taken = []string{"main", "init", "cell", "context", "hello", "in"}

// packageName makes a Go identifier of a cell's name that hides nothing which
// the templates use.
func packageName(n identity.Name) string {
	var b []byte
	for i := range len(n) {
		if n[i] != '-' {
			b = append(b, n[i])
		}
	}
	s := string(b)
	switch {
	case s[0] >= '0' && s[0] <= '9':
		return "cell" + s
	case token.IsKeyword(s), types.Universe.Lookup(s) != nil, slices.Contains(taken, s):
		return s + "cell"
	}
	return s
}
