package capsid

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSandbox(t *testing.T) {
	if !hasSandbox(t) {
		t.Skip("there is no sandbox here")
	}
	t.Setenv("SECRET", "of the node")
	out := newLog()
	p := start(t, newCapsid(t), Spec{Args: []string{"look", "around"}, Env: []string{"A=b"}, Log: out})
	if err := p.Wait(); err != nil {
		t.Fatal(err, out)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatal(err, out)
	}
	for what, want := range map[string]any{
		"processes":         2., // the one that tends it is process 1
		"args":              []any{"/cell/bin", "look", "around"},
		"env":               []any{"A=b"},
		"root":              []any{"cell", "dev", "proc", "tmp"},
		"dev":               []any{"fd", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"},
		"read /etc/passwd":  false,
		"write /x":          false,
		"write /tmp/x":      true,
		"reach the network": false, "mount": false, "make a user namespace": false,
		"write core_pattern": false, "write its own program": false,
		"make a child": true,
		"CapEff":       "0000000000000000", "CapBnd": "0000000000000000", "CapPrm": "0000000000000000", "CapInh": "0000000000000000",
		"NoNewPrivs": "1",
	} {
		if fmt.Sprint(got[what]) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", what, got[what], want)
		}
	}
	fds, _ := got["descriptors"].([]any)
	if len(fds) > 7 { // 0 1 2 3, epoll, eventfd, the folder
		t.Errorf("descriptors: %v", fds)
	}
	if !slices.Contains(p.Enforced(), "has no network") || len(p.NotEnforced()) == 0 {
		t.Error(p.Enforced(), p.NotEnforced())
	}
}

// TestSandboxInheritsNothing starts a program from a node that itself was
// started with a folder open, as shells and supervisors do.
func TestSandboxInheritsNothing(t *testing.T) {
	const inherited = 77
	folder, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	if err := unix.Dup3(int(folder.Fd()), inherited, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inherited)
	each(t, func(t *testing.T, iso Isolation, _ bool) {
		out := newLog()
		p := start(t, newCapsid(t), Spec{Args: []string{"descriptors"}, Log: out, Isolation: iso})
		if err := p.Wait(); err != nil {
			t.Fatal(err, out)
		}
		if got := strings.Fields(out.String()); len(got) == 0 || slices.Contains(got, fmt.Sprint(inherited)) {
			t.Errorf("descriptors: %v", got)
		}
	})
}

func TestSandboxHidesKeys(t *testing.T) {
	if !hasSandbox(t) {
		t.Skip("there is no sandbox here")
	}
	c := newCapsid(t)
	var err error
	c.thread.do(func() { // what a replica inherits is the session of this thread
		if _, err = unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err == nil {
			_, err = unix.AddKey("user", "capsid-test", []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING)
		}
	})
	if err != nil {
		t.Skip("no keys here:", err)
	}
	out := newLog()
	if err := start(t, c, Spec{Args: []string{"keys"}, Log: out}).Wait(); err != nil || out.String() != "key found: false\n" {
		t.Error(err, out)
	}
}

// TestSandboxProgramStays lets a program that belongs to the sandbox's user try
// to write over itself.
func TestSandboxProgramStays(t *testing.T) {
	if !hasSandbox(t) {
		t.Skip("there is no sandbox here")
	}
	before, err := os.ReadFile(victimPath(t))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "capsid") // unlike t.TempDir it can be opened to nobody
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "own")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(program, before, 0o755)); err != nil {
		t.Fatal(err)
	}
	out := newLog()
	if err := start(t, newCapsid(t), Spec{Path: program, Args: []string{"rewrite"}, Log: out}).Wait(); err != nil {
		t.Fatal(err, out)
	}
	if s := out.String(); !strings.HasPrefix(s, "write: open ") || !strings.Contains(s, "chmod: chmod ") {
		t.Error(s)
	}
	if after, err := os.ReadFile(program); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the program was changed: %v", err)
	}
	if st, err := os.Stat(program); err != nil || st.Mode() != 0o755 {
		t.Errorf("the program's mode was changed: %v, %v", st.Mode(), err)
	}
}

func TestKeeperSaysWhatItCannot(t *testing.T) {
	p := start(t, newCapsid(t), Spec{Args: []string{"exit", "0"}, Isolation: None})
	if all := strings.Join(p.NotEnforced(), "\n"); !strings.Contains(all, "every file") || !strings.Contains(all, "network") {
		t.Error(all)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}
