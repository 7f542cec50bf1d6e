package ribosome

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
	modzip "golang.org/x/mod/zip"
)

// TestClosure holds the embedded modules to those that go.mod and go.sum name.
func TestClosure(t *testing.T) {
	b, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	f, err := modfile.Parse("go.mod", b, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	for _, r := range f.Require {
		want[r.Mod.Path] = r.Mod.Version
	}
	sums, err := os.ReadFile("../../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	mods, err := readClosure(closure)
	if err != nil || len(mods) == 0 {
		t.Fatal(len(mods), err)
	}
	for _, m := range mods {
		if m.version != want[m.path] {
			t.Errorf("%s %s is embedded, go.mod has %s", m.path, m.version, want[m.path])
		}
		for _, line := range []string{
			m.path + " " + m.version + " " + m.sum + "\n",
			m.path + " " + m.version + "/go.mod " + m.fileSum + "\n",
		} {
			if !strings.Contains(string(sums), line) {
				t.Errorf("go.sum does not have %s", line)
			}
		}
		zip := filepath.Join(t.TempDir(), "m.zip")
		write(t, zip, string(m.zip))
		if _, err := modzip.CheckZip(module.Version{Path: m.path, Version: m.version}, zip); err != nil {
			t.Error(err)
		}
	}
}

func TestSDKModule(t *testing.T) {
	files := sdk(t)
	m, err := packSDK(files, "")
	if err != nil {
		t.Fatal(err)
	}
	zip := filepath.Join(t.TempDir(), "sdk.zip")
	write(t, zip, string(m.zip))
	checked, err := modzip.CheckZip(module.Version{Path: m.path, Version: m.version}, zip)
	if err != nil || checked.Err() != nil {
		t.Fatal(err, checked.Err())
	}
	prefix := m.path + "@" + m.version + "/"
	for _, name := range []string{"go.mod", "LICENSE"} {
		if !slices.Contains(checked.Valid, prefix+name) {
			t.Errorf("no %s in the module", name)
		}
	}
	for _, name := range checked.Valid {
		if strings.HasSuffix(name, "_test.go") || strings.Contains(name, "/testdata/") {
			t.Errorf("%s does not belong into the module", name)
		}
	}
	if !regexp.MustCompile(`^v0\.1\.0-sdk\.h[0-9a-f]{12}$`).MatchString(m.version) || semver.Canonical(m.version) != m.version {
		t.Error(m.version)
	}
	for version, want := range map[string]string{"v1.2.3": "v1.2.3-sdk.", "v1.2.3-rc.1+x": "v1.2.3-sdk.", "(devel)": "v0.1.0-sdk."} {
		if m, err := packSDK(files, version); err != nil || !strings.HasPrefix(m.version, want) {
			t.Errorf("%s: %s, %v", version, m.version, err)
		}
	}
	more := copyFS(t, files)
	more["more_test.go"] = &fstest.MapFile{Data: []byte("package cell_test\n")}
	if n, err := packSDK(more, ""); err != nil || n.version != m.version {
		t.Errorf("a test changes the version to %s, %v", n.version, err)
	}
	more["more.go"] = &fstest.MapFile{Data: []byte("package cell\n")}
	if n, err := packSDK(more, ""); err != nil || n.version == m.version {
		t.Errorf("another content has the same version, %v", err)
	}
	if _, err := New(Config{Cache: t.TempDir(), SDK: fstest.MapFS{}}); err == nil {
		t.Error("an empty SDK is good enough")
	}
	if _, err := New(Config{Cache: t.TempDir()}); err == nil {
		t.Error("no SDK is good enough")
	}
	if _, err := New(Config{SDK: files}); err == nil {
		t.Error("no cache is good enough")
	}
}

func copyFS(t *testing.T, from fs.FS) fstest.MapFS {
	t.Helper()
	to := make(fstest.MapFS)
	err := fs.WalkDir(from, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := fs.ReadFile(from, name)
		to[name] = &fstest.MapFile{Data: b}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// TestOlderSDKStays builds a cell of an earlier node in the same cache.
func TestOlderSDKStays(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	cache := t.TempDir()
	old := copyFS(t, sdk(t))
	old["old.go"] = &fstest.MapFile{Data: []byte("package cell\n")}
	before, err := New(Config{Cache: cache, SDK: old})
	if err != nil {
		t.Fatal(err)
	}
	s := newSource(t, before, "greeter")
	now, err := New(Config{Cache: cache, SDK: sdk(t)})
	if err != nil {
		t.Fatal(err)
	}
	now.goCache = goCache()
	if now.SDKVersion() == before.SDKVersion() {
		t.Fatal("one version for two SDKs")
	}
	if _, err := now.Build(t.Context(), s, nil); err != nil {
		t.Error(err)
	}
}
