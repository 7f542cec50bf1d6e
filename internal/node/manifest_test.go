package node

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
)

func mustKey(t *testing.T, text string) identity.Key {
	t.Helper()
	k, err := identity.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const someKey = "z6MkottEVKzUri8LKvY68rG2qAwfuUfsKCkgbDqq3zmFNAjM"

func TestManifestDefaults(t *testing.T) {
	got, err := ParseManifest("Cell.toml", []byte("[cell]\nname = \"greeter\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := Manifest{
		Cell:    CellSection{Name: "greeter", Version: "0.0.0", Serve: []Server{{Colony: true}}},
		Run:     RunSection{Drain: 10 * time.Second},
		Scaling: ScalingSection{MinReplicas: 1, MaxReplicas: 8, CPUTarget: 60, ScaleUpThreshold: 80, ScaleDownThreshold: 30, InflightTarget: 16},
		Needs:   map[identity.Name]identity.Ref{},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestManifestFull(t *testing.T) {
	text, err := os.ReadFile("testdata/manifest/full.toml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ManifestFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := LoadManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := Manifest{
		Cell: CellSection{Name: "greeter", Version: "0.1.0", Mirrors: []string{"https://github.com/alice/greeter"},
			Serve: []Server{{Colony: true}, {Key: mustKey(t, someKey)}, {Any: true}}},
		Build:   BuildSection{Cmd: []string{"make", "bin"}, Out: "bin/greeter"},
		Run:     RunSection{Cmd: []string{"python3", "app.py"}, Health: "/healthz", Drain: 20 * time.Second},
		Scaling: ScalingSection{MinReplicas: 2, MaxReplicas: 9, CPUTarget: 50, ScaleUpThreshold: 70, ScaleDownThreshold: 20, InflightTarget: 4},
		Limits:  LimitsSection{CPU: 1.5, Memory: 256 << 20},
		Needs:   map[identity.Name]identity.Ref{"ledger": {Name: "ledger", Author: someKey, Version: "1.2.0"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestManifestMissing(t *testing.T) {
	if _, err := LoadManifest(t.TempDir()); !errors.Is(err, ErrNoManifest) {
		t.Errorf("got %v, want ErrNoManifest", err)
	}
}

// Every mistake is told with its line and with the text that is wrong.
func TestManifestRefused(t *testing.T) {
	const head = "[cell]\nname = \"greeter\"\n"
	for _, c := range []struct {
		text, want string
		line       int
		underlined string
	}{
		{"", "no name", 1, ""},
		{"[cell]\nversion = \"1\"\n", "no name", 1, "cell"},
		{"[cell]\nnmae = \"greeter\"\n", "unknown key cell.nmae", 2, "nmae"},
		{head + "[scalin]\nx = 1\n", "unknown key scalin", 3, "scalin"},
		{"[cell]\nname = \"Greeter\"\n", "character 1 is not one of", 2, `"Greeter"`},
		{"[cell]\nname = \"" + strings.Repeat("a", 64) + "\"\n", "64 characters", 2, `"` + strings.Repeat("a", 64) + `"`},
		{"[cell]\nname = greeter\n", "unexpected character", 2, "g"},
		{"[cell]\nname = 7.5\n", "bad name", 2, "name = 7.5"},
		{"[cell]\nname = \"a\"\nname = \"b\"\n", "already defined", 3, "name"},
		{"schema = 2\n" + head, "schema 2", 1, "2"},
		{head + "version = \"a b\"\n", "bad version", 3, `"a b"`},
		{head + "mirrors = [\"ftp://x\"]\n", "bad mirror", 3, `"ftp://x"`},
		{head + "serve = [\"colony\", \"all\"]\n", `bad entry "all"`, 3, `"all"`},
		{head + "[build]\ncmd = [\"make\"]\n", "cmd needs out", 4, "cmd"},
		{head + "[build]\nout = \"x\"\n", "out needs cmd", 4, `"x"`},
		{head + "[build]\ncmd = [\"make\"]\nout = \"../x\"\n", "leaves the cell's folder", 5, `"../x"`},
		{head + "[run]\nhealth = \"/x\"\n", "health needs cmd", 4, `"/x"`},
		{head + "[run]\ncmd = [\"a\"]\nhealth = \"x\"\n", "starts with /", 5, `"x"`},
		{head + "[run]\ndrain = \"soon\"\n", `bad duration "soon"`, 4, `"soon"`},
		{head + "[run]\ndrain = 10\n", `bad duration "10"`, 4, "drain = 10"},
		{head + "[scaling]\nmin_replicas = -1\n", "between 0 and", 4, "-1"},
		{head + "[scaling]\nmax_replicas = 0\n", "between 1 and", 4, "0"},
		{head + "[scaling]\nmin_replicas = 9\n", "above max_replicas 8", 4, "9"},
		{head + "[scaling]\ncpu_target = 101\n", "percentage", 4, "101"},
		{head + "[scaling]\ncpu_target = \"60\"\n", "type string does not belong", 4, ""},
		{head + "[scaling]\nscale_down_threshold = 80\n", "below scale_up_threshold", 4, "80"},
		{head + "[scaling]\ninflight_target = 0\n", "at least 1", 4, "0"},
		{head + "[limits]\ncpu = -1.0\n", "negative", 4, "-1.0"},
		{head + "[limits]\nmemory = \"256\"\n", `bad size "256"`, 4, `"256"`},
		{head + "[limits]\nmemory = \"99999999999GiB\"\n", "bad size", 4, `"99999999999GiB"`},
		{head + "[needs]\nLedger = \"ledger\"\n", `bad name "Ledger"`, 4, `"ledger"`},
		{head + "[needs]\nledger = \"Ledger\"\n", `bad name "Ledger"`, 4, `"Ledger"`},
	} {
		_, err := ParseManifest("Cell.toml", []byte(c.text))
		var file *FileError
		if !errors.As(err, &file) {
			t.Errorf("%q: got %v, want a *FileError", c.text, err)
			continue
		}
		if file.File != "Cell.toml" || file.Line != c.line || !strings.Contains(file.Message, c.want) {
			t.Errorf("%q: got %s:%d: %s\nwant line %d, %q", c.text, file.File, file.Line, file.Message, c.line, c.want)
		}
		if tildes := "| " + strings.Repeat(" ", file.Column-1) + strings.Repeat("~", len(c.underlined)); c.underlined != "" && !strings.Contains(file.Frame, tildes+" ") {
			t.Errorf("%q: %q is not underlined in\n%s", c.text, c.underlined, file.Frame)
		}
		if strings.Contains(err.Error(), "struct") {
			t.Errorf("%q: speaks of Go types: %v", c.text, err)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	full, err := os.ReadFile("testdata/manifest/full.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	f.Add([]byte("[cell]\nname = 7\n"))
	f.Add([]byte("[scaling]\r\ncpu_target = 1000\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseManifest("Cell.toml", text)
		var file *FileError
		if err != nil && !errors.As(err, &file) {
			t.Fatalf("got %v, want a *FileError", err)
		}
		if err == nil {
			if _, e := identity.ParseName(string(m.Cell.Name)); e != nil {
				t.Fatal(e)
			}
		}
	})
}

func TestManifestIsNoPipe(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, ManifestFile), 0o600); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := LoadManifest(dir)
		read <- err
	}()
	select {
	case err := <-read:
		if err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it waits for somebody to write")
	}
}
