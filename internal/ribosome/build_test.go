package ribosome

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

// run starts a built program by hand and returns what it prints.
func run(t *testing.T, path string) string {
	t.Helper()
	out, _ := exec.Command(path).CombinedOutput() // the SDK ends programs that are started by hand with status 2
	return string(out)
}

// TestOffline is the promise to a newcomer: no network, nothing cached, and a
// new cell builds and runs.
func TestOffline(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the standard library")
	}
	t.Setenv("GOPROXY", "off")
	t.Setenv("GOFLAGS", "-tags=wrong -mod=vendor") // neither may this
	t.Setenv("GOMODCACHE", t.TempDir())
	t.Setenv("GOCACHE", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	r, err := New(Config{Cache: t.TempDir(), SDK: sdk(t)})
	if err != nil {
		t.Fatal(err)
	}
	s := newSource(t, r, "greeter")
	var progress bytes.Buffer
	a, err := r.Build(t.Context(), s, &progress)
	if err != nil {
		t.Fatal(err)
	}
	if a.Cached || a.Toolchain != runtime.Version() || len(a.Key) != 64 || a.Took <= 0 {
		t.Errorf("%+v", a)
	}
	if out := run(t, a.Path); !strings.Contains(out, "cell") {
		t.Errorf("it says %q", out)
	}
	if !strings.Contains(progress.String(), "takes longer") {
		t.Errorf("progress: %s", &progress)
	}
	again, err := r.Build(t.Context(), s, nil)
	if err != nil || !again.Cached || again.Path != a.Path || again.Key != a.Key {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestKey(t *testing.T) {
	r := newRibosome(t)
	s := newSource(t, r, "greeter")
	key := func() string {
		t.Helper()
		j, err := r.prepare(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		return j.key
	}
	was := key()
	seen := map[string]string{was: "at first"}
	unseen := func(what string) {
		t.Helper()
		k := key()
		if before, ok := seen[k]; ok {
			t.Errorf("%s: the key is that of: %s", what, before)
		}
		seen[k] = what
	}
	write(t, filepath.Join(s.Dir, "extra.txt"), "1")
	unseen("a new file")
	write(t, filepath.Join(s.Dir, "extra.txt"), "2")
	unseen("other content")
	if err := os.Rename(filepath.Join(s.Dir, "extra.txt"), filepath.Join(s.Dir, "more.txt")); err != nil {
		t.Fatal(err)
	}
	unseen("another name")
	if err := os.Chmod(filepath.Join(s.Dir, "more.txt"), 0o755); err != nil {
		t.Fatal(err)
	}
	unseen("executable")
	if err := os.Remove(filepath.Join(s.Dir, "more.txt")); err != nil {
		t.Fatal(err)
	}
	if key() != was {
		t.Error("the old content has a new key")
	}
	write(t, filepath.Join(s.Dir, ".git", "index"), "x")
	if err := os.Symlink("/nowhere", filepath.Join(s.Dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(s.Dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if key() != was {
		t.Error("git's folder, a link to nowhere or a pipe changes the key")
	}
	outside := t.TempDir()
	write(t, filepath.Join(outside, "go.mod"), "module example.com/other\n")
	f, err := os.OpenFile(filepath.Join(s.Dir, "go.mod"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, "\nreplace example.com/other => %s\n", outside)
	f.Close()
	unseen("a module replaced by a folder")
	write(t, filepath.Join(outside, "other.go"), "package other\n")
	unseen("a change in that folder")
	moved := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Rename(s.Dir, moved); err != nil {
		t.Fatal(err)
	}
	s.Dir = moved
	if _, ok := seen[key()]; !ok {
		t.Error("the place of the source changes the key")
	}
}

func TestSameSourceSameProgram(t *testing.T) {
	r := newRibosome(t)
	a, err := r.Build(t.Context(), newSource(t, r, "greeter"), nil)
	if err != nil {
		t.Fatal(err)
	}
	other := newRibosome(t)
	b, err := other.Build(t.Context(), newSource(t, other, "greeter"), nil)
	if err != nil {
		t.Fatal(err)
	}
	one, err1 := os.ReadFile(a.Path)
	two, err2 := os.ReadFile(b.Path)
	if err1 != nil || err2 != nil || !bytes.Equal(one, two) || a.Key != b.Key {
		t.Errorf("two programs of one source: %v, %v, %s, %s", err1, err2, a.Key, b.Key)
	}
}

func TestConcurrentBuildsShareOne(t *testing.T) {
	r := newRibosome(t)
	builds := countGo(t, r)
	s := newSource(t, r, "greeter")
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if a, err := r.Build(t.Context(), s, io.Discard); err != nil {
				t.Error(err)
			} else if _, err := os.Stat(a.Path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := builds(); n != 1 {
		t.Errorf("%d builds", n)
	}
}

func TestCancel(t *testing.T) {
	r := newRibosome(t)
	s := newSource(t, r, "greeter")
	dir := t.TempDir()
	script := "#!/bin/sh\n[ $1 = env ] && exec go \"$@\"\nwhile sleep 0.05; do echo go: downloading eternity; done & wait\n" // again and again, for whoever joins late
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	r.goNames = []string{filepath.Join(dir, "go")}
	first, cancelFirst := context.WithCancel(t.Context())
	second, cancelSecond := context.WithCancel(t.Context())
	errs := make(chan error, 2)
	build := func(ctx context.Context, cancel func()) { // cancel is called when the build is under way
		_, err := r.Build(ctx, s, writerFunc(func(b []byte) {
			if bytes.Contains(b, []byte("eternity")) {
				cancel()
			}
		}))
		errs <- err
	}
	go build(second, func() {})
	go build(first, cancelFirst)
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	select {
	case err := <-errs:
		t.Fatalf("the other caller was cancelled too: %v", err)
	default:
	}
	cancelSecond()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left, _ := os.ReadDir(r.tmpDir()); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }

func TestErrors(t *testing.T) {
	r := newRibosome(t)
	hello := func(t *testing.T, s Source, change func(string) string) {
		t.Helper()
		file := filepath.Join(s.Dir, "cmd", string(s.Name), "main.go")
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		write(t, file, change(string(b)))
	}
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, s *Source)
		is    error
		text  string
		hint  string
	}{
		{"compile error", func(t *testing.T, s *Source) {
			hello(t, *s, func(b string) string { return strings.Replace(b, `"hello "`, "42", 1) })
		}, ErrCompile, "# cell.local/greeter/cmd/greeter\ncmd/greeter/main.go:16:", ""},
		{"syntax error", func(t *testing.T, s *Source) { hello(t, *s, func(b string) string { return b + "}" }) },
			ErrCompile, "main.go:18:1: syntax error: non-declaration statement outside function body", ""},
		{"no module", func(t *testing.T, s *Source) { os.Remove(filepath.Join(s.Dir, "go.mod")) },
			ErrNoModule, "there is no go.mod in " + "", "make a cell with: cell new greeter"},
		{"broken module", func(t *testing.T, s *Source) { write(t, filepath.Join(s.Dir, "go.mod"), "modul x\n") },
			nil, "go.mod:1: ", ""},
		{"endless go.mod", func(t *testing.T, s *Source) {
			file := filepath.Join(s.Dir, "go.mod")
			if err := errors.Join(os.Remove(file), os.Symlink("/dev/zero", file)); err != nil {
				t.Fatal(err)
			}
		}, nil, "go.mod is not a regular file", ""},
		{"huge go.mod", func(t *testing.T, s *Source) {
			if err := os.Truncate(filepath.Join(s.Dir, "go.mod"), maxGoMod+1); err != nil {
				t.Fatal(err)
			}
		}, nil, "go.mod has 1048577 bytes, 1048576 are allowed", ""},
		{"no program", func(t *testing.T, s *Source) { os.RemoveAll(filepath.Join(s.Dir, "cmd")) },
			ErrNoProgram, "nor its folder cmd/greeter holds package main", "put package main into"},
		{"no folder", func(t *testing.T, s *Source) { s.Dir += "x" }, fs.ErrNotExist, "no such file", ""},
		{"missing module", func(t *testing.T, s *Source) {
			hello(t, *s, func(b string) string { return strings.Replace(b, `import (`, "import (\n_ \"example.com/x\"", 1) })
		}, ErrCompile, "cannot find module providing package example.com/x", "go mod tidy"},
		{"missing sum", func(t *testing.T, s *Source) { os.Remove(filepath.Join(s.Dir, "go.sum")) },
			ErrCompile, "missing go.sum entry", "go mod tidy"},
		{"newer Go", func(t *testing.T, s *Source) {
			file := filepath.Join(s.Dir, "go.mod")
			b, _ := os.ReadFile(file)
			write(t, file, strings.Replace(string(b), "\ngo 1.", "\ngo 9.", 1))
		}, ErrCompile, "requires go >= 9.", "asks for a newer Go than the go1."},
		{"another SDK", func(t *testing.T, s *Source) {
			for _, f := range []string{"go.mod", "go.sum"} {
				b, _ := os.ReadFile(filepath.Join(s.Dir, f))
				write(t, filepath.Join(s.Dir, f), strings.ReplaceAll(string(b), r.SDKVersion(), "v0.1.0-sdk.h000000000000"))
			}
		}, ErrSDK, "go.mod asks for cell.network/cell v0.1.0-sdk.h000000000000, this node brings " + r.SDKVersion(), "to move to it: cd "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSource(t, r, "greeter")
			tt.spoil(t, &s)
			_, err := r.Build(t.Context(), s, nil)
			var e *Error
			if !errors.As(err, &e) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Fatalf("%T: %v", err, err)
			}
			if !strings.Contains(e.Error(), tt.text) || !strings.HasPrefix(e.Error(), "build greeter: ") {
				t.Errorf("%v", e)
			}
			if !strings.Contains(e.Hint, tt.hint) || (tt.hint == "") != (e.Hint == "") {
				t.Errorf("hint: %s", e.Hint)
			}
		})
	}
	t.Run("no toolchain", func(t *testing.T) {
		r := newRibosome(t)
		s := newSource(t, r, "greeter")
		r.goNames = []string{filepath.Join(t.TempDir(), "go")}
		_, err := r.Build(t.Context(), s, nil)
		if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, ErrNoToolchain) || !strings.Contains(e.Hint, "https://go.dev/dl") {
			t.Errorf("%v", err)
		}
	})
	t.Run("broken toolchain", func(t *testing.T) {
		r := newRibosome(t)
		s := newSource(t, r, "greeter")
		r.goNames = []string{"/bin/false"}
		if _, err := r.Build(t.Context(), s, nil); !errors.Is(err, ErrNoToolchain) {
			t.Errorf("%v", err)
		}
	})
}

// TestForeignSDK asks for a version of the SDK that only the outside has, with
// the sums that fit it: nobody but the node may give the SDK.
func TestForeignSDK(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	evil := copyFS(t, sdk(t))
	evil["evil.go"] = &fstest.MapFile{Data: []byte("package cell\n")}
	outside, err := New(Config{Cache: t.TempDir(), SDK: evil})
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(mod, own string) string{
		"required": func(mod, _ string) string { return mod },
		"required, another version replaced": func(mod, _ string) string {
			return mod + "\nreplace " + sdkPath + " v0.0.1 => ./nowhere\n"
		},
		"in the place of this node's": func(mod, own string) string {
			return strings.Replace(mod, sdkPath+" "+outside.SDKVersion(), sdkPath+" "+own, 1) + "\nreplace " + sdkPath + " " + own + " => " + sdkPath + " " + outside.SDKVersion() + "\n"
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRibosome(t)
			r.proxy = outside.proxyURL()
			s := newSource(t, outside, "greeter")
			file := filepath.Join(s.Dir, "go.mod")
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			write(t, file, spoil(string(b), r.SDKVersion()))
			_, err = r.Build(t.Context(), s, nil)
			e, ok := errors.AsType[*Error](err)
			if !ok || !errors.Is(err, ErrSDK) || !strings.Contains(e.Hint, r.SDKVersion()) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestMoveToThisSDK follows the hint that a cell with another SDK gives.
func TestMoveToThisSDK(t *testing.T) {
	r := newRibosome(t)
	s := newSource(t, r, "greeter")
	for _, f := range []string{"go.mod", "go.sum"} {
		b, _ := os.ReadFile(filepath.Join(s.Dir, f))
		write(t, filepath.Join(s.Dir, f), strings.ReplaceAll(string(b), r.SDKVersion(), "v0.1.0-sdk.h000000000000"))
	}
	_, err := r.Build(t.Context(), s, nil)
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatal(err)
	}
	_, command, _ := strings.Cut(e.Hint, "to move to it: ")
	cmd := exec.Command("sh", "-c", command)
	cmd.Env = append(os.Environ(), "GOMODCACHE="+r.modCache, "GOFLAGS=-modcacherw")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	if _, err := r.Build(t.Context(), s, nil); err != nil {
		t.Error(err)
	}
}

func TestSourceChangesDuringBuild(t *testing.T) {
	r := newRibosome(t)
	s := newSource(t, r, "greeter")
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\n[ $1 = build ] && echo x >> %s/notes\nexec go \"$@\"\n", s.Dir)
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	r.goNames = []string{filepath.Join(dir, "go")}
	if _, err := r.Build(t.Context(), s, nil); !errors.Is(err, errChanged) {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(s.Dir, "notes")); err != nil || len(b) != 2*maxChanges {
		t.Errorf("%q, %v", b, err)
	}
	if left, _ := os.ReadDir(r.binDir()); len(left) != 0 {
		t.Errorf("installed: %v", left)
	}
}

func TestTornCache(t *testing.T) {
	r := newRibosome(t)
	builds := countGo(t, r)
	s := newSource(t, r, "greeter")
	a, err := r.Build(t.Context(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(a.Path)
	for i, tear := range []func() error{
		func() error { return os.Truncate(a.Path, 1000) },
		func() error { return os.WriteFile(a.Path, []byte("something else"), 0o755) },
		func() error { return os.Remove(a.Path) },
		func() error { return os.Remove(filepath.Join(dir, manifestFile)) },
		func() error { return os.Truncate(filepath.Join(dir, manifestFile), 10) },
	} {
		if err := tear(); err != nil {
			t.Fatal(err)
		}
		b, err := r.Build(t.Context(), s, nil)
		if err != nil || b.Cached {
			t.Errorf("%d: %+v, %v", i, b, err)
		}
		if n := builds(); n != i+2 {
			t.Errorf("%d: %d builds", i, n)
		}
		if c, err := r.Build(t.Context(), s, nil); err != nil || !c.Cached {
			t.Errorf("%d: not mended: %v", i, err)
		}
	}
}

// TestKilledInstall kills a process again and again while it installs.
func TestKilledInstall(t *testing.T) {
	if cache := os.Getenv("RIBOSOME_TEST_INSTALL"); cache != "" {
		r := &Ribosome{cache: cache}
		for {
			j := job{source: Source{Name: "x"}, key: "key"}
			tmp, err := os.MkdirTemp(r.tmpDir(), "build-")
			if err == nil {
				err = os.WriteFile(filepath.Join(tmp, "x"), bytes.Repeat([]byte("x"), 1<<20), 0o600)
			}
			if err == nil {
				_ = os.RemoveAll(filepath.Join(r.binDir(), j.key))
				_, err = r.install(j, tmp, 0)
			}
			if err != nil {
				panic(err)
			}
		}
	}
	r := newRibosome(t)
	seen := 0
	for i := range 15 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledInstall$")
		cmd.Env = append(os.Environ(), "RIBOSOME_TEST_INSTALL="+r.cache)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for late := time.Now().Add(5 * time.Second); time.Now().Before(late); time.Sleep(time.Millisecond) {
			if _, err := os.Stat(filepath.Join(r.binDir(), "key")); err == nil {
				break // it is at work
			}
		}
		time.Sleep(time.Duration(i) * time.Millisecond) // any moment will do
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		a, ok := r.find(job{source: Source{Name: "x"}, key: "key"})
		if !ok {
			continue
		}
		seen++
		if b, err := os.ReadFile(a.Path); err != nil || len(b) != 1<<20 {
			t.Fatalf("a torn program of %d bytes, %v", len(b), err)
		}
	}
	if seen == 0 {
		t.Error("it never installed anything")
	}
}

func TestRemoveTornAndPrune(t *testing.T) {
	r := newRibosome(t)
	old := time.Now().Add(-2 * keepFor)
	age := func(dir string, n int, old time.Time) {
		for i := range n {
			p := filepath.Join(dir, fmt.Sprintf("%d-%d", old.Unix(), i))
			write(t, filepath.Join(p, "x"), "x")
			if err := os.Chtimes(p, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	age(r.tmpDir(), 2, old)
	age(r.tmpDir(), 1, time.Now())
	r.removeTorn()
	if n := len(byAge(r.tmpDir())); n != 0 {
		t.Errorf("%d left of killed builds", n)
	}
	age(r.binDir(), maxKept, old)
	age(r.binDir(), 10, time.Now())
	r.prune()
	if n := len(byAge(r.binDir())); n != maxKept {
		t.Errorf("%d kept, want %d", n, maxKept)
	}
}

func TestOutput(t *testing.T) {
	var progress bytes.Buffer
	o := &output{progress: &progress}
	for _, s := range []string{"go: down", "loading x v1\n# pkg\nx.go:1:", "2: no\n\nlast"} {
		_, _ = io.WriteString(o, s)
	}
	o.end()
	if progress.String() != "downloading x v1\n" || o.String() != "# pkg\nx.go:1:2: no\nlast\n" {
		t.Errorf("%q, %q", progress.String(), o)
	}
	for range 100 {
		_, _ = o.Write(bytes.Repeat([]byte("x"), 10_000))
		_, _ = o.Write([]byte("\n"))
	}
	if s := o.String(); len(s) > 2*maxOutput || !strings.HasSuffix(s, "… and more\n") {
		t.Error(len(s))
	}
}
