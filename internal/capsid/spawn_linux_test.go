package capsid

import (
	"io"
	"os"
	"os/exec"

	"slices"
	"strings"
	"testing"
	"time"
)

// TestSpawnOverhead logs how long it takes a static hello from its start to its
// first word on descriptor 3: by plain exec, by bubblewrap and by capsid. It
// asserts next to nothing, since a machine that is busy cannot tell; the
// benchmark in bench/capsid does.
func TestSpawnOverhead(t *testing.T) {
	if testing.Short() || os.Getenv(envExpect) != "" {
		t.Skip("short")
	}
	hello := victimPath(t)
	c := newCapsid(t)
	bare := newCapsid(t)
	bare.without = map[string]bool{"limits": true}
	rounds := 40
	pipe := func(cmd *exec.Cmd) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		cmd.ExtraFiles = []*os.File{w}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Wait() }()
	}
	sandboxed := func(c *Capsid, iso Isolation) func() func() {
		return func() func() {
			p := start(t, c, Spec{Path: hello, Args: []string{"hello"}, Isolation: iso})
			_, _, _ = p.Link().Recv() // refuses the word, having heard it
			return func() { _ = p.Wait() }
		}
	}
	type way struct {
		name string
		run  func() func()
	}
	ways := []way{
		{"plain exec", func() func() { pipe(exec.Command(hello, "hello")); return func() {} }},
		{"capsid", sandboxed(c, Auto)},
		{"without control groups", sandboxed(bare, Auto)},
		{"keeper alone", sandboxed(bare, None)},
	}
	if bwrap, err := exec.LookPath("bwrap"); err == nil {
		ways = append(ways, way{"bubblewrap", func() func() {
			pipe(exec.Command(bwrap, strings.Fields("--unshare-all --die-with-parent --new-session --ro-bind "+hello+" /cell/bin --proc /proc --dev /dev --tmpfs /tmp --clearenv /cell/bin hello")...))
			return func() {}
		}})
	}
	took := make([][]time.Duration, len(ways))
	for range rounds {
		for i, w := range ways {
			begin := time.Now()
			wait := w.run()
			took[i] = append(took[i], time.Since(begin))
			wait()
		}
	}
	for i, w := range ways {
		slices.Sort(took[i])
		t.Logf("%-22s least %v median %v p95 %v", w.name, took[i][0], took[i][rounds/2], took[i][rounds*95/100])
	}
}
