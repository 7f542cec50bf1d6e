package ribosome

import (
	"archive/zip"
	"bytes"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
	"golang.org/x/mod/sumdb/dirhash"
	modzip "golang.org/x/mod/zip"
)

// sdkPath is the module that cells import.
const sdkPath = "cell.network/cell"

// closure holds the modules that the SDK imports, as a Go module proxy serves
// them: <escaped path>/@v/<version>.{info,mod,zip}.
//
//go:embed modules
var closure embed.FS

// mod is one module of one version, ready to be served.
type mod struct {
	path, version   string
	info, file, zip []byte // file is go.mod
	sum, fileSum    string // as in go.sum, of zip and file
}

// moduleSet is what the node brings along: all that a new cell needs.
type moduleSet struct {
	sdk       mod
	goVersion string // of the SDK's go.mod
	needs     []mod  // what the SDK imports, by path
}

func newModuleSet(sdk fs.FS, version string) (moduleSet, error) {
	var s moduleSet
	var err error
	if s.sdk, err = packSDK(sdk, version); err != nil {
		return s, fmt.Errorf("pack the SDK: %w", err)
	}
	f, err := modfile.ParseLax("go.mod", s.sdk.file, nil)
	if err != nil || f.Go == nil {
		return s, fmt.Errorf("pack the SDK: go.mod without a go version: %w", err)
	}
	s.goVersion = f.Go.Version
	if s.needs, err = readClosure(closure); err != nil {
		return s, fmt.Errorf("read embedded modules: %w", err)
	}
	return s, nil
}

// packSDK makes a module of the SDK's sources. The version ends in a digest of
// them; the letter before it keeps twelve digits from being read as a number.
func packSDK(sdk fs.FS, version string) (mod, error) {
	files, err := sourceFiles(sdk)
	if err != nil {
		return mod{}, err
	}
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.Path()
	}
	sum, err := dirhash.Hash1(names, func(name string) (io.ReadCloser, error) { return sdk.Open(name) })
	if err != nil {
		return mod{}, err
	}
	digest, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(sum, "h1:"))
	if err != nil {
		return mod{}, err
	}
	version = semver.Canonical(version)
	if version == "" {
		version = "v0.1.0"
	}
	version = strings.TrimSuffix(version, semver.Prerelease(version)) + "-sdk.h" + hex.EncodeToString(digest)[:12]

	m := mod{path: sdkPath, version: version, info: fmt.Appendf(nil, "{\"Version\":%q}\n", version)}
	if m.file, err = fs.ReadFile(sdk, "go.mod"); err != nil {
		return mod{}, err
	}
	var b bytes.Buffer
	if err := modzip.Create(&b, module.Version{Path: m.path, Version: m.version}, files); err != nil {
		return mod{}, err
	}
	m.zip = b.Bytes()
	return m, m.addSums()
}

// sourceFile is a file of the SDK as the zip of a module wants it.
type sourceFile struct {
	fsys fs.FS
	name string
}

func (f sourceFile) Path() string                 { return f.name }
func (f sourceFile) Lstat() (fs.FileInfo, error)  { return fs.Stat(f.fsys, f.name) }
func (f sourceFile) Open() (io.ReadCloser, error) { return f.fsys.Open(f.name) }

// sourceFiles lists what belongs into the SDK's module: no tests, which would
// give a new version to an SDK that did not change.
func sourceFiles(sdk fs.FS) (files []modzip.File, err error) {
	if sdk == nil {
		return nil, fs.ErrInvalid
	}
	err = fs.WalkDir(sdk, ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && e.Name() == "testdata":
			return fs.SkipDir
		case !e.IsDir() && !strings.HasSuffix(name, "_test.go"):
			files = append(files, sourceFile{sdk, name})
		}
		return nil
	})
	return files, err
}

// readClosure reads modules laid out as in a module proxy.
func readClosure(fsys fs.FS) (mods []mod, err error) {
	err = fs.WalkDir(fsys, "modules", func(name string, e fs.DirEntry, err error) error {
		if err != nil || path.Ext(name) != ".zip" {
			return err
		}
		base := strings.TrimSuffix(name, ".zip")
		escaped, version, _ := strings.Cut(strings.TrimPrefix(base, "modules/"), "/@v/")
		m := mod{version: version}
		if m.path, err = module.UnescapePath(escaped); err != nil {
			return err
		}
		for ext, to := range map[string]*[]byte{".info": &m.info, ".mod": &m.file, ".zip": &m.zip} {
			if *to, err = fs.ReadFile(fsys, base+ext); err != nil {
				return err
			}
		}
		if err := m.addSums(); err != nil {
			return err
		}
		mods = append(mods, m)
		return nil
	})
	return mods, err
}

// addSums computes what go.sum holds of m.
func (m *mod) addSums() error {
	z, err := zip.NewReader(bytes.NewReader(m.zip), int64(len(m.zip)))
	if err != nil {
		return err
	}
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
	}
	if m.sum, err = dirhash.Hash1(names, func(name string) (io.ReadCloser, error) { return z.Open(name) }); err != nil {
		return err
	}
	m.fileSum, err = dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(m.file)), nil
	})
	return err
}

// write lays the modules out as a proxy in dir. Versions of the SDK that an
// earlier node left there stay: the cells that pin them build on.
func (s moduleSet) write(dir string) error {
	for _, m := range append([]mod{s.sdk}, s.needs...) {
		escaped, err := module.EscapePath(m.path)
		if err != nil {
			return err
		}
		at := filepath.Join(dir, filepath.FromSlash(escaped), "@v")
		if err := os.MkdirAll(at, 0o700); err != nil {
			return err
		}
		for ext, b := range map[string][]byte{".info": m.info, ".mod": m.file, ".zip": m.zip} {
			if err := replaceFile(filepath.Join(at, m.version+ext), b); err != nil {
				return err
			}
		}
		versions, err := filepath.Glob(filepath.Join(at, "*.zip"))
		if err != nil {
			return err
		}
		for i, v := range versions {
			versions[i] = strings.TrimSuffix(filepath.Base(v), ".zip") + "\n"
		}
		if err := replaceFile(filepath.Join(at, "list"), []byte(strings.Join(versions, ""))); err != nil {
			return err
		}
	}
	return nil
}

// replaceFile writes a file as a whole or not at all.
func replaceFile(name string, b []byte) error {
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, b) {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	return err
}

// goMod is the go.mod of a new cell.
func (s moduleSet) goMod(path string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "module %s\n\ngo %s\n\nrequire %s %s\n\nrequire (\n", path, s.goVersion, s.sdk.path, s.sdk.version)
	for _, m := range s.needs {
		fmt.Fprintf(&b, "\t%s %s // indirect\n", m.path, m.version)
	}
	b.WriteString(")\n")
	return []byte(b.String())
}

// goSum is the go.sum of a new cell.
func (s moduleSet) goSum() []byte {
	var lines []string
	for _, m := range append([]mod{s.sdk}, s.needs...) {
		lines = append(lines, fmt.Sprintf("%s %s %s\n", m.path, m.version, m.sum), fmt.Sprintf("%s %s/go.mod %s\n", m.path, m.version, m.fileSum))
	}
	slices.Sort(lines)
	return []byte(strings.Join(lines, ""))
}
