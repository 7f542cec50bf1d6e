package capsid

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBinds runs a program of the machine, which is loaded from its folders, in
// a sandbox that shows those, and lets it write where it may and may not.
func TestBinds(t *testing.T) {
	if !hasSandbox(t) {
		t.Skip("there is no sandbox here")
	}
	dir, err := os.MkdirTemp("", "capsid")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"", "in", "out", "data"} {
		_ = os.Mkdir(filepath.Join(dir, name), 0o777)
		if err := os.Chmod(filepath.Join(dir, name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "in", "text"), []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	binds := []Bind{{From: filepath.Join(dir, "in"), To: "/in"}, {From: filepath.Join(dir, "out"), To: "/work/out", Write: true}}
	for _, system := range systemFolders {
		if _, err := os.Stat(system); err == nil {
			binds = append(binds, Bind{From: system, To: system})
		}
	}
	script := `cat /in/text
echo made > /work/out/made
echo kept > /cell/data/kept
(echo evil > /in/evil) 2>/dev/null && echo wrote /in
(echo evil > /usr/evil) 2>/dev/null && echo wrote /usr
ls /etc 2>/dev/null
echo $0 $$`
	out := newLog()
	p := start(t, newCapsid(t), Spec{Path: "/bin/sh", Args: []string{"-c", script}, Env: []string{"PATH=/usr/bin:/bin"}, Log: out, Binds: binds, Data: filepath.Join(dir, "data")})
	if err := p.Wait(); err != nil {
		t.Fatal(err, out)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || lines[0] != "hello" || !strings.HasPrefix(lines[1], "/bin/sh ") {
		t.Errorf("%q", lines)
	}
	for _, name := range []string{"out/made", "data/kept"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []Bind{{From: "in", To: "/in"}, {From: dir, To: "/in/../x"}, {From: dir, To: "/"}, {From: filepath.Join(dir, "missing"), To: "/in"}} {
		if _, err := newCapsid(t).Start(t.Context(), Spec{Path: victimPath(t), Binds: []Bind{bad}}); err == nil {
			t.Errorf("%v: no error", bad)
		}
	}
}

// TestLoopback gives a program a network with nobody else in it.
func TestLoopback(t *testing.T) {
	if !hasSandbox(t) {
		t.Skip("there is no sandbox here")
	}
	s := newScene(t)
	c := newCapsid(t)
	out := newLog()
	p := start(t, c, Spec{Path: s.program, Args: []string{"listen-tcp"}, Log: out, Loopback: true})
	if err := p.Wait(); err != nil {
		t.Errorf("its own network: %v %s", err, out)
	}
	out = newLog()
	p = start(t, c, Spec{Path: s.program, Args: []string{"dial-tcp", s.tcp}, Log: out, Loopback: true})
	if err := p.Wait(); err == nil {
		t.Errorf("the machine's network: %s", out)
	}
}

// TestProbe looks for what Probe owes to its readers.
func TestProbe(t *testing.T) {
	s := newCapsid(t).Probe()
	if s.Rung == "" || len(s.Quotas) < 4 || (s.Sandbox != "" || s.Landlock == 0 || s.Rung != RungV2) && len(s.Missing) == 0 {
		t.Errorf("%+v", s)
	}
	for _, q := range s.Quotas {
		if q.Name == "" || q.Limit <= 0 || q.Each <= 0 {
			t.Errorf("%+v", q)
		}
	}
	t.Logf("%+v", s)
}
