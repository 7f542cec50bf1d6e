package celltest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/home"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/node"
)

// program builds the real cell program once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cell-bin-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "cell")
	if out, err := exec.Command("go", "build", "-o", path, "cell.network/cell/cmd/cell").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build cell: %w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := program(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// The scenarios of the simulation, with real processes on loopback.
func TestProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real nodes")
	}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			w := newProcesses(t)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			s.play(ctx, t, w)
		})
	}
}

// processes is a world of three `cell up`.
type processes struct {
	t       *testing.T
	dir     string
	source  string
	lanPort int
	nodes   [3]*process
}

type process struct {
	root   string
	args   []string
	cmd    *exec.Cmd
	stderr bytes.Buffer
	status node.Status
	client *node.Client
	ended  chan struct{}
}

func newProcesses(t *testing.T) *processes {
	t.Helper()
	dir, err := os.MkdirTemp("", "cell-p-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	w := &processes{t: t, dir: dir, lanPort: freePort(t)}
	t.Cleanup(func() {
		for _, p := range w.nodes {
			if p != nil && p.cmd != nil {
				p.kill()
			}
		}
		_ = os.RemoveAll(dir)
	})
	for i := range w.nodes {
		p := &process{root: filepath.Join(dir, strconv.Itoa(i))}
		p.args = []string{"--lan-port", strconv.Itoa(w.lanPort)}
		if i == 2 {
			p.args = []string{"--no-lan", "--bootstrap", w.nodes[1].status.Listen[0]}
		}
		// A restarted node keeps its address, as a host does.
		p.args = append(p.args, "--listen", fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", freePort(t)))
		w.nodes[i] = p
		if i == 0 {
			w.shareBuildCache(p.root)
		}
		if err := w.start(p); err != nil {
			t.Fatal(err)
		}
	}
	w.source = filepath.Join(dir, "greeter")
	c := w.command(w.nodes[0], "new", "greeter")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("cell new: %v: %s", err, out)
	}
	return w
}

// shareBuildCache spares every test the compilation of the standard library.
func (w *processes) shareBuildCache(root string) {
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		w.t.Fatal(err)
	}
	build := filepath.Join(root, "cache", "build")
	if err := os.MkdirAll(build, 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Symlink(strings.TrimSpace(string(out)), filepath.Join(build, "go")); err != nil {
		w.t.Fatal(err)
	}
}

func (w *processes) command(p *process, args ...string) *exec.Cmd {
	path, err := program()
	if err != nil {
		w.t.Fatal(err)
	}
	c := exec.Command(path, args...)
	c.Dir = w.dir
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "CELL_") {
			c.Env = append(c.Env, kv)
		}
	}
	c.Env = append(c.Env, "CELL_HOME="+p.root)
	return c
}

func (w *processes) start(p *process) error {
	p.cmd = w.command(p, append([]string{"up", "--json", "--network", "celltest"}, p.args...)...)
	p.stderr.Reset()
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.ended = make(chan struct{})
	up := make(chan error, 1)
	go func(ended chan struct{}) {
		up <- json.NewDecoder(out).Decode(&p.status)
		_ = p.cmd.Wait()
		close(ended)
	}(p.ended)
	if err := <-up; err != nil {
		p.kill()
		return fmt.Errorf("node did not come up: %s", p.stderr.String())
	}
	h, err := home.At(p.root)
	if err != nil {
		return err
	}
	p.client, err = node.Dial(h)
	return err
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

func (w *processes) Author() string { return w.nodes[0].status.Author.String() }

func (w *processes) Run(i int) error {
	_, err := w.nodes[i].client.Run(w.t.Context(), w.source, func(node.Progress) {})
	return err
}

func (w *processes) Call(ctx context.Context, i int, target string) (string, error) {
	conn, err := w.nodes[i].client.Connect(ctx)
	if err != nil {
		return "", err
	}
	c := frame.NewConn(conn, frame.Config{})
	defer c.Close()
	r, err := c.Call(ctx, frame.Request{Target: target, Codec: frame.JSON, Body: []byte(`{"Name":"Ada"}`)})
	if err != nil {
		return "", err
	}
	var answer struct{ Text string }
	if err := json.Unmarshal(r.Body, &answer); err != nil {
		return "", err
	}
	return answer.Text, nil
}

func (w *processes) KillReplica(i int) error {
	ctx := w.t.Context()
	rs, err := w.nodes[i].client.Replicas(ctx)
	if err != nil {
		return err
	}
	for _, r := range rs {
		if r.State == node.ReplicaAlive {
			return w.nodes[i].client.Kill(ctx, r.ID)
		}
	}
	return fmt.Errorf("node %d has no replica", i)
}

func (w *processes) KillNode(i int)          { w.nodes[i].kill() }
func (w *processes) RestartNode(i int) error { return w.start(w.nodes[i]) }

func (w *processes) Wait(ctx context.Context, i int, kind string) error {
	for e, err := range w.nodes[i].client.Events(ctx, 0, true) {
		if err != nil {
			return err
		}
		if e.Kind == journal.Kind(kind) {
			return nil
		}
	}
	return ctx.Err()
}

func freePort(t *testing.T) int {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port
}
