package capsid

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func TestExit(t *testing.T) {
	each(t, func(t *testing.T, iso Isolation, _ bool) {
		c := newCapsid(t)
		for args, want := range map[string]string{
			"exit 0": "<nil>",
			"exit 3": "exit status 3",
		} {
			p := start(t, c, Spec{Args: strings.Fields(args), Isolation: iso})
			for range 2 { // as often as one likes
				if got := fmt.Sprint(p.Wait()); got != want {
					t.Errorf("%s: %s, want %s", args, got, want)
				}
			}
			if err := p.Kill(); err != nil {
				t.Errorf("kill after the end: %v", err)
			}
		}
		p := start(t, c, Spec{Args: []string{"silent"}, Isolation: iso})
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Errorf("after Kill: %v", err)
		}
		if es, _ := os.ReadDir(c.dir); len(es) != 0 {
			t.Errorf("%d records left", len(es))
		}
	})
}

func TestStartErrors(t *testing.T) {
	sandbox := hasSandbox(t)
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c := newCapsid(t)
	for _, tt := range []struct {
		name, path string
		iso        Isolation
		only       bool // in a sandbox
		want       string
	}{
		{name: "relative", path: "victim", want: "not an absolute path"},
		{name: "missing", path: filepath.Join(dir, "missing"), want: "there is no such file"},
		{name: "folder", path: dir, want: "it is a folder"},
		{name: "mode", path: write("mode", "", 0o644), want: "not executable (mode 0644)"},
		{name: "garbage", path: write("garbage", "\x7fELF garbage", 0o755), want: "it is not a program for linux/"},
		{name: "garbage kept", path: write("garbage", "\x7fELF garbage", 0o755), iso: None, want: "it is not a program for linux/"},
		{name: "script", path: write("script", "#!/bin/sh\n", 0o755), only: true, want: "it is a script, and there is no interpreter"},
		{name: "script kept", path: write("script2", "#!/missing/sh\n", 0o755), iso: None, want: "interpreter or loader that it names is not on this machine"},
		{name: "dynamic", path: "/bin/true", only: true, want: "dynamically linked, and there are no libraries in the sandbox (build it with CGO_ENABLED=0)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.only && !sandbox {
				t.Skip("there is no sandbox here")
			}
			p, err := c.Start(t.Context(), Spec{Path: tt.path, Isolation: tt.iso})
			if err == nil {
				_ = p.Kill()
				p.Link().Close()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.path) {
				t.Errorf("%v, want %s: … %s", err, tt.path, tt.want)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Start(ctx, Spec{Path: victimPath(t), Args: []string{"silent"}}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		c := New(Config{})
		c.Close()
		if _, err := c.Start(t.Context(), Spec{Path: victimPath(t)}); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		c.Close()
	})
}

// TestPrivateFolder starts a program from where only the node's user may look,
// as a build cache is; in the sandbox of root's node it is somebody else who runs it.
func TestPrivateFolder(t *testing.T) {
	b, err := os.ReadFile(victimPath(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "private")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "victim")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := start(t, newCapsid(t), Spec{Path: path}).Wait(); err != nil {
		t.Error(err)
	}
}

func TestManyAtOnce(t *testing.T) {
	c := newCapsid(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			p, err := c.Start(t.Context(), Spec{Path: victimPath(t), Args: []string{"exit", strconv.Itoa(i)}})
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Link().Close()
			if err := p.Wait(); (err == nil) != (i == 0) {
				t.Error(i, err)
			}
		})
	}
	wg.Wait()
}

func BenchmarkStart(b *testing.B) {
	path, err := victim()
	if err != nil {
		b.Fatal(err)
	}
	c := New(Config{StateDir: b.TempDir()})
	defer c.Close()
	for _, iso := range []Isolation{Auto, None} {
		b.Run(map[Isolation]string{Auto: "auto", None: "none"}[iso], func(b *testing.B) {
			for b.Loop() {
				p, err := c.Start(b.Context(), Spec{Path: path, Isolation: iso})
				if err != nil {
					b.Fatal(err)
				}
				_ = p.Wait()
				p.Link().Close()
			}
		})
	}
}
