package capsid

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/membrane"
	"golang.org/x/sys/unix"
)

// TestAttackKeeper has a program send its keeper every signal that might end
// it. Where it may, it ends with the keeper; in a sandbox it goes on and ends
// by itself, with exit status 3.
func TestAttackKeeper(t *testing.T) {
	c := newCapsid(t)
	out := newLog()
	p := start(t, c, Spec{Path: hostilePath(t), Args: []string{"kill-keeper"}, Log: out, Isolation: None})
	if err := p.Wait(); err == nil || !strings.Contains(err.Error(), "its keeper was killed") {
		t.Errorf("without guards: %v %s", err, out)
	}
	if !hasSandbox(t) {
		return
	}
	out = newLog()
	p = start(t, c, Spec{Path: hostilePath(t), Args: []string{"kill-keeper"}, Log: out})
	if err := p.Wait(); err == nil || err.Error() != "exit status 3" {
		t.Errorf("%v %s", err, out)
	}
}

// TestTerminate asks programs to end that do, and one that does not.
func TestTerminate(t *testing.T) {
	each(t, func(t *testing.T, iso Isolation, _ bool) {
		c := newCapsid(t)
		p := start(t, c, Spec{Args: []string{"silent"}, Isolation: iso})
		if err := p.Terminate(); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err == nil || err.Error() != "signal: terminated" { // by default: it is not process 1
			t.Errorf("%v", err)
		}
		if err := p.Terminate(); err != nil {
			t.Errorf("after the end: %v", err)
		}
		out := newLog()
		p = start(t, c, Spec{Path: hostilePath(t), Args: []string{"ignore-terminate"}, Log: out, Isolation: iso})
		out.await(t, "ignoring")
		if err := p.Terminate(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- p.Wait() }()
		select {
		case err := <-ended:
			t.Fatalf("it did not ignore it: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err == nil || err.Error() != "signal: killed" {
			t.Error(err)
		}
	})
}

// TestReasons looks at what Wait says of programs that outgrew their limits.
func TestReasons(t *testing.T) {
	c := newCapsid(t)
	if c.Probe().Rung != RungRlimits {
		p := start(t, c, Spec{Path: hostilePath(t), Args: []string{"memory", "200"}, Limits: Limits{Memory: 32 << 20}})
		if err := p.Wait(); err == nil || err.Error() != "signal: killed: it used more than its 32 MiB of memory" {
			t.Error(err)
		}
	}
	dir, err := os.MkdirTemp("", "capsid")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	out := newLog()
	at := dir
	if hasSandbox(t) {
		at = dataFolder
	}
	s := Spec{Path: hostilePath(t), Args: []string{"disk-linger", "8", at}, Log: out, Data: dir, Limits: Limits{Data: 4 << 20, Scratch: 64 << 20}}
	p := start(t, c, s)
	if err := p.Wait(); err == nil || err.Error() != "signal: killed: it filled /cell/data beyond 4 MiB" {
		t.Errorf("%v, %s", err, out)
	}
	if st, err := os.Stat(filepath.Join(dir, "bomb")); err != nil || st.Size() != 8<<20 {
		t.Errorf("what was written is not in the folder: %v", err)
	}
	_ = os.Remove(filepath.Join(dir, "bomb"))
	s.Args[1], s.Limits.Data = "2", 16<<20
	out = newLog()
	s.Log = out
	p = start(t, c, s)
	out.await(t, "poured")
	time.Sleep(dataInterval + 100*time.Millisecond) // it was looked at
	select {
	case <-p.(*proc).done:
		t.Errorf("ended within its limit: %v", p.Wait())
	default:
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	_ = p.Wait()
}

// TestAttackLink has real programs abuse descriptor 3. First each does so to a
// bare socket, where what it sends arrives; then to a node's port.
func TestAttackLink(t *testing.T) {
	for _, tt := range []struct {
		name    string
		arrives func(n, rights int) bool // at a bare socket
		stays   bool                     // the port has no reason to end
	}{
		{"link-flood", func(n, _ int) bool { return n > 1000 }, false},
		{"link-length", func(n, _ int) bool { return n == 7 }, true},
		{"link-descriptors", func(_, rights int) bool { return rights == 3 }, false},
		{"link-flags", nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.arrives != nil {
				n, rights := receive(t, tt.name)
				if !tt.arrives(n, rights) {
					t.Errorf("at a bare socket: %d bytes, %d descriptors", n, rights)
				}
			}
			c := newCapsid(t)
			c.Probe() // a clone that fails costs two descriptors in Go 1.26
			before := openFiles(t)
			out := newLog()
			p := start(t, c, Spec{Path: hostilePath(t), Args: []string{tt.name}, Log: out})
			port := membrane.NewPort(p.Link(), membrane.PortConfig{})
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := Ready(ctx, p, port); !errors.Is(err, ErrNotReady) {
				t.Errorf("ready: %v", err)
			}
			select {
			case <-port.Done():
			case <-time.After(5 * time.Second):
				if !tt.stays {
					t.Error("the port goes on")
				}
			case <-ctx.Done():
				if !tt.stays {
					<-port.Done()
				}
			}
			if err := p.Kill(); err != nil {
				t.Error(err)
			}
			_ = p.Wait()
			port.Close()
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if after := openFiles(t); after > before {
				t.Errorf("%d descriptors before, %d after", before, after)
			}
		})
	}
}

// receive is what an attack sends to a socket that nobody guards.
func receive(t *testing.T, name string) (bytes, rights int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	far := os.NewFile(uintptr(pair[1]), "far")
	cmd := exec.Command(hostilePath(t), name)
	cmd.ExtraFiles = []*os.File{far}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	far.Close()
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	b, oob := make([]byte, 1<<16), make([]byte, 256)
	for {
		n, m, _, _, err := unix.Recvmsg(pair[0], b, oob, unix.MSG_CMSG_CLOEXEC)
		if err != nil || n == 0 {
			return bytes, rights
		}
		bytes += n
		messages, _ := unix.ParseSocketControlMessage(oob[:m])
		for _, m := range messages {
			fds, _ := unix.ParseUnixRights(&m)
			rights += len(fds)
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
