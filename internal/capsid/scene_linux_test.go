package capsid

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// scene is what the attacks are directed at: a machine with a secret, a
// neighbour and services, none of which a program was given.
type scene struct {
	secret, secretDir  string // a file that anybody may read, a folder that anybody may write
	tcp, udp, at, path string // services that answer
	neighbour          string // among the arguments of another replica
	highest            int    // number of a process
	program            string // a copy of the hostile program that belongs to who runs it
	scratch            string // a folder that the attacker may write to without the guards
}

// run has the hostile program try something and returns what it said, and how it ended.
func (s *scene) run(t *testing.T, c *Capsid, name, args string, l Limits, iso Isolation) string {
	t.Helper()
	tmp := s.scratch
	data := s.scratch
	if c.support.Sandbox == "" && iso == Auto {
		tmp, data = "/tmp", dataFolder
	}
	victim := filepath.Join(s.secretDir, "victim")
	if err := os.WriteFile(victim, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	args = strings.NewReplacer("{secret}", s.secret, "{dir}", s.secretDir, "{victim}", victim, "{tmp}", tmp, "{data}", data,
		"{tcp}", s.tcp, "{udp}", s.udp, "{abstract}", s.at, "{path}", s.path, "{neighbour}", fmt.Sprintf("%s %d", s.neighbour, s.highest)).Replace(args)
	out := newLog()
	p := start(t, c, Spec{Path: s.program, Args: append([]string{name}, strings.Fields(args)...), Log: out, Limits: l, Isolation: iso})
	ended := make(chan error, 1)
	go func() { ended <- p.Wait() }()
	var err error
	late := time.After(10 * time.Second)
	for over := false; !over; {
		select {
		case err = <-ended:
			over = true
		case <-out.more:
			if strings.Contains(out.String(), "parked") {
				_ = p.Kill()
			}
		case <-late:
			_ = p.Kill()
			err = <-ended
			t.Errorf("%s takes too long: %s", name, out)
			over = true
		}
	}
	_ = os.Remove(filepath.Join(s.secretDir, "evil"))
	_ = os.Remove(filepath.Join(s.secretDir, "evil.d"))
	s.restore(t)
	return fmt.Sprintf("%s(%v)", out, err)
}

// healthy fails the test where the node cannot start programs any more.
func (s *scene) healthy(t *testing.T, c *Capsid) {
	t.Helper()
	if err := start(t, c, Spec{Args: []string{"exit", "0"}}).Wait(); err != nil {
		t.Errorf("the node afterwards: %v", err)
	}
	if b, err := os.ReadFile(s.secret); err != nil || string(b) != "secret" {
		t.Errorf("the secret afterwards: %q, %v", b, err)
	}
}

// restore puts the program back that an attack wrote over.
func (s *scene) restore(t *testing.T) {
	b, err := os.ReadFile(hostilePath(t))
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(s.program); err == nil && st.Size() == int64(len(b)) && st.Mode().Perm() == 0o755 {
		head := make([]byte, 4)
		if f, err := os.Open(s.program); err == nil {
			_, _ = f.Read(head)
			_ = f.Close()
		}
		if string(head) == "\x7fELF" {
			return
		}
	}
	_ = os.Remove(s.program)
	if err := os.WriteFile(s.program, b, 0o755); err != nil {
		t.Fatal(err)
	}
}

func newScene(t *testing.T) *scene {
	t.Helper()
	dir, err := os.MkdirTemp("", "capsid") // unlike t.TempDir it can be opened to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &scene{
		secretDir: filepath.Join(dir, "host"), secret: filepath.Join(dir, "host", "secret"), scratch: filepath.Join(dir, "scratch"),
		program: filepath.Join(dir, "hostile"), path: filepath.Join(dir, "host", "socket"), at: "@" + filepath.Base(dir), neighbour: token(t),
	}
	for _, d := range []string{dir, s.secretDir, s.scratch} {
		_ = os.Mkdir(d, 0o777)
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.restore(t)

	answer := func(l net.Listener, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Read(make([]byte, 4))
				_, _ = c.Write([]byte("here"))
				_ = c.Close()
			}
		}()
		return l.Addr().String()
	}
	s.tcp = answer(net.Listen("tcp", "127.0.0.1:0"))
	answer(net.Listen("unix", s.at))
	answer(net.Listen("unix", s.path))
	_ = os.Chmod(s.path, 0o777)
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	s.udp = u.LocalAddr().String()
	go func() {
		b := make([]byte, 64)
		for {
			_, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo([]byte("here"), from)
		}
	}()

	// The neighbour is not in a sandbox, so that reaching it without guards is easy.
	out := newLog()
	p := start(t, newCapsid(t), Spec{Path: hostilePath(t), Args: []string{"idle", s.neighbour}, Log: out, Isolation: None})
	out.await(t, "up")
	t.Cleanup(func() { _ = p.Kill(); _ = p.Wait() })
	for _, pid := range processes(t, s.neighbour) {
		s.highest = max(s.highest, pid)
	}
	return s
}
