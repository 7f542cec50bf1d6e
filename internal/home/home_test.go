package home

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func env(m map[string]string) func(string) string { return func(k string) string { return m[k] } }

func TestLocate(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		want Home
	}{
		"cell home wins": {map[string]string{"CELL_HOME": "/c", "HOME": "/h", "XDG_STATE_HOME": "/s"}, Home{"/c/config", "/c/state", "/c/cache", "/c/run"}},
		"xdg":            {map[string]string{"HOME": "/h", "XDG_CONFIG_HOME": "/a", "XDG_STATE_HOME": "/b", "XDG_CACHE_HOME": "/c", "XDG_RUNTIME_DIR": "/d"}, Home{"/a/cell", "/b/cell", "/c/cell", "/d/cell"}},
		"defaults":       {map[string]string{"HOME": "/h"}, Home{"/h/.config/cell", "/h/.local/state/cell", "/h/.cache/cell", "/h/.local/state/cell/run"}},
		"relative xdg":   {map[string]string{"HOME": "/h", "XDG_CONFIG_HOME": "a"}, Home{"/h/.config/cell", "/h/.local/state/cell", "/h/.cache/cell", "/h/.local/state/cell/run"}},
	} {
		if got, err := Locate(env(c.env)); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
	if _, err := Locate(env(nil)); err == nil {
		t.Error("located a home from nothing")
	}
}

func TestMakeClosesFolders(t *testing.T) {
	h, err := At(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(h.Runtime, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(h.Runtime, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := h.Make(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{h.Config, h.State, h.Cache, h.Runtime} {
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v; want 0700", dir, st, err)
		}
	}
}

// TestForeignFolders takes folders that another user has put in place, as he can
// under /tmp.
func TestForeignFolders(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make folders of another user")
	}
	const other = 12345
	for name, spoil := range map[string]func(h Home) error{
		"root of the home": func(h Home) error { return os.Chown(filepath.Dir(h.Config), other, other) },
		"config":           func(h Home) error { return os.Chown(h.Config, other, other) },
		"state":            func(h Home) error { return os.Chown(h.State, other, other) },
		"cache":            func(h Home) error { return os.Chown(h.Cache, other, other) },
		"runtime":          func(h Home) error { return os.Chown(h.Runtime, other, other) },
		"open to all":      func(h Home) error { return os.Chmod(filepath.Dir(h.Config), 0o777) },
		"a link to another's": func(h Home) error {
			theirs := filepath.Join(filepath.Dir(h.Config), "theirs")
			return errors.Join(os.Mkdir(theirs, 0o777), os.Chown(theirs, other, other), os.Remove(h.Cache), os.Symlink(theirs, h.Cache))
		},
	} {
		h, err := At(filepath.Join(t.TempDir(), "x"))
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Make(); err != nil {
			t.Fatal(err)
		}
		if err := spoil(h); err != nil {
			t.Fatal(err)
		}
		if err := h.Make(); !errors.Is(err, ErrOwner) || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckRuntime(t *testing.T) {
	h, err := At(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.CheckRuntime(); err != nil {
		t.Errorf("nothing there: %v", err)
	}
	if err := h.Make(); err != nil {
		t.Fatal(err)
	}
	if err := h.CheckRuntime(); err != nil {
		t.Errorf("our own: %v", err)
	}
	if err := checkOwner("/proc/1"); os.Geteuid() != 0 && !errors.Is(err, ErrOwner) {
		t.Errorf("root's: %v", err)
	}
}

func TestCheckSocket(t *testing.T) {
	short, _ := At("/c")
	long, _ := At("/" + strings.Repeat("x", MaxSocketPath))
	if err := short.CheckSocket(); err != nil {
		t.Error(err)
	}
	if err := long.CheckSocket(); err == nil || !strings.Contains(err.Error(), "CELL_HOME") {
		t.Errorf("long path: %v, want advice", err)
	}
}
