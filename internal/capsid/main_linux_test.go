package capsid

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Variables by which the tests run themselves again, as somebody else.
const (
	envVictim  = "CAPSID_TEST_VICTIM"  // path of the built victim
	envHostile = "CAPSID_TEST_HOSTILE" // of the hostile program
	envExpect  = "CAPSID_TEST_EXPECT"  // "sandbox" or "keeper": what Auto must come to
	envForbid  = "CAPSID_TEST_FORBID"  // forbid user namespaces first
	envNode    = "CAPSID_TEST_NODE"    // be a node that starts the victim: its isolation
)

func TestMain(m *testing.M) {
	if os.Getenv(envForbid) != "" {
		if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
			fmt.Println("forbid user namespaces:", err)
			os.Exit(1)
		}
	}
	if iso := os.Getenv(envNode); iso != "" {
		beNode(iso)
	}
	goleak.VerifyTestMain(m)
}

// victim and hostile build the programs of testdata once.
var (
	victim  = program("victim", envVictim)
	hostile = program("hostile", envHostile)
)

func program(name, given string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		if path := os.Getenv(given); path != "" {
			return path, nil
		}
		dir, err := os.MkdirTemp("", "capsid") // left to the system: other users and processes need it
		if err != nil {
			return "", err
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			return "", err
		}
		path := filepath.Join(dir, name)
		cmd := exec.Command("go", "build", "-o", path, "./testdata/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
		return path, nil
	})
}

func hostilePath(t *testing.T) string {
	t.Helper()
	v, err := hostile()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func victimPath(t *testing.T) string {
	t.Helper()
	v, err := victim()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// log is a bytes.Buffer that two goroutines may use.
type log struct {
	mu   sync.Mutex
	b    bytes.Buffer
	more chan struct{}
}

func newLog() *log { return &log{more: make(chan struct{}, 1)} }

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// await waits until the log holds s.
func (l *log) await(t *testing.T, s string) {
	t.Helper()
	for late := time.After(10 * time.Second); !strings.Contains(l.String(), s); {
		select {
		case <-l.more:
		case <-late:
			t.Fatalf("no %q in the log: %s", s, l)
		}
	}
}

func newCapsid(t *testing.T) *Capsid {
	t.Helper()
	c := New(Config{StateDir: filepath.Join(t.TempDir(), "replicas")})
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func start(t *testing.T, c *Capsid, s Spec) Proc {
	t.Helper()
	if s.Path == "" {
		s.Path = victimPath(t)
	}
	p, err := c.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Link().Close() })
	return p
}

// each runs f with every isolation that this system has.
func each(t *testing.T, f func(t *testing.T, iso Isolation, sandbox bool)) {
	t.Run("auto", func(t *testing.T) { f(t, Auto, hasSandbox(t)) })
	t.Run("none", func(t *testing.T) { f(t, None, false) })
}

func hasSandbox(t *testing.T) bool {
	t.Helper()
	c := New(Config{})
	defer c.Close()
	why := c.Probe().Sandbox
	if want := os.Getenv(envExpect); want != "" && (want == "sandbox") != (why == "") {
		t.Fatalf("want %s here, Probe says %q", want, why)
	}
	if why != "" {
		t.Logf("no sandbox here: %s", why)
	}
	return why == ""
}
