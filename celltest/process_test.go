package celltest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cell.network/cell/celltest"
	"cell.network/cell/internal/home"
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

// goCache holds the compiled standard library of whoever runs the tests.
var goCache = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	return strings.TrimSpace(string(out)), err
})

func TestMain(m *testing.M) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen { // the long tests mostly wait: all may play at once
		_ = flag.Set("test.parallel", "5")
	}
	code := m.Run()
	if path, err := program(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// The scenarios of the simulation, with real processes on loopback.
func TestProcesses(t *testing.T) {
	t.Parallel()
	built := t.TempDir()
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			w := newProcesses(t, built)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			s.play(ctx, t, w)
		})
	}
}

// processes is a world of three `cell up`, or of as many as a test starts.
type processes struct {
	t       *testing.T
	dir     string
	built   string // folder of the programs of cells
	source  string // of the greeter
	lanPort int
	nodes   []*process
}

type process struct {
	root   string
	args   []string // of cell up
	cmd    *exec.Cmd
	stderr bytes.Buffer
	status node.Status
	client *node.Client
	ended  chan struct{}
}

// newProcesses starts the three nodes of the scenarios; for built see newSite.
func newProcesses(t *testing.T, built string) *processes {
	t.Helper()
	w := newSite(t, built)
	for i := range 3 {
		args := []string{"--network", "celltest", "--lan-port", strconv.Itoa(w.lanPort)}
		if i == 2 {
			args = []string{"--network", "celltest", "--no-lan", "--bootstrap", w.nodes[1].status.Listen[0]}
		}
		// A restarted node keeps its address, as a host does.
		w.up(append(args, "--listen", fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", freePort(t)))...)
	}
	w.source = w.newCell("greeter", map[string]string{"greeter.go": greeterContract, "cmd/greeter/main.go": greeterMain})
	return w
}

// newSite is a place for nodes, with none yet. They share the programs of cells in
// a folder, where nobody may build the same at the same time; "" is one of their own.
func newSite(t *testing.T, built string) *processes {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real nodes")
	}
	dir, err := os.MkdirTemp("", "cell-p-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	if built == "" {
		built = filepath.Join(dir, "bin")
	}
	w := &processes{t: t, dir: dir, built: built, lanPort: freePort(t)}
	t.Cleanup(func() {
		for _, p := range w.nodes {
			if p.cmd != nil {
				p.kill()
			}
		}
		_ = os.RemoveAll(dir)
	})
	return w
}

// machine adds a host on which no node runs yet.
func (w *processes) machine(args ...string) *process {
	w.t.Helper()
	p := &process{root: filepath.Join(w.dir, strconv.Itoa(len(w.nodes))), args: args}
	w.nodes = append(w.nodes, p)
	w.shareBuildCache(p.root)
	return p
}

// up adds a host and starts its node.
func (w *processes) up(args ...string) *process {
	w.t.Helper()
	p := w.machine(args...)
	if err := w.start(p); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// newCell makes the source of a cell as an author does: by `cell new` and an editor.
func (w *processes) newCell(name string, edited map[string]string) string {
	w.t.Helper()
	dir := filepath.Join(w.dir, name)
	if out, err := w.command(w.nodes[0], "new", name).CombinedOutput(); err != nil {
		w.t.Fatalf("cell new: %v: %s", err, out)
	}
	for file, text := range edited {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	return dir
}

const greeterContract = `package greeter

import "cell.network/cell"

type Req struct{ Name string }
type Res struct{ Text string }

var (
	Hello = cell.NewMethod[Req, Res]("greeter/hello")
	Slow  = cell.NewMethod[Req, Res]("greeter/slow")
	Fail  = cell.NewMethod[Req, Res]("greeter/fail")
	Work  = cell.NewMethod[Req, Res]("greeter/work")
)
`

var greeterMain = fmt.Sprintf(`package main

import (
	"context"
	"errors"
	"runtime"
	"syscall"
	"time"

	"cell.local/greeter"
	"cell.network/cell"
)

func main() {
	cell.Main(cell.On(greeter.Hello, hello), cell.On(greeter.Slow, slow), cell.On(greeter.Fail, fail), cell.On(greeter.Work, work))
}

func hello(_ context.Context, in greeter.Req) (greeter.Res, error) {
	return greeter.Res{Text: "hello " + in.Name}, nil
}

func slow(ctx context.Context, in greeter.Req) (greeter.Res, error) {
	select {
	case <-time.After(%d):
		return hello(ctx, in)
	case <-ctx.Done():
		return greeter.Res{}, ctx.Err()
	}
}

func fail(context.Context, greeter.Req) (greeter.Res, error) {
	return greeter.Res{}, errors.New("out of greetings")
}

var core = make(chan struct{}, 1) // taken by who works

// work takes so much CPU, one request after another, and as long as its limit allows.
func work(ctx context.Context, in greeter.Req) (greeter.Res, error) {
	select {
	case core <- struct{}{}:
	case <-ctx.Done():
		return greeter.Res{}, ctx.Err()
	}
	defer func() { <-core }()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	end := time.After(%d)
	for begin := used(); used()-begin < %d; {
	}
	<-end
	return hello(ctx, in)
}

// used is the CPU that this thread has used, in nanoseconds.
func used() int64 {
	var u syscall.Rusage
	const thread = 1 // that of Linux; elsewhere the clock has to do
	if syscall.Getrusage(thread, &u) != nil {
		return time.Now().UnixNano()
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
`, slowTime, int64(float64(workTime)/workCores), workTime)

// shareBuildCache spares every test the compilation of the standard library, and
// every node that of cells that were built before.
func (w *processes) shareBuildCache(root string) {
	compiled, err := goCache()
	if err != nil {
		w.t.Fatal(err)
	}
	build := filepath.Join(root, "cache", "build")
	for _, dir := range []string{build, w.built} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			w.t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"go": compiled, "bin": w.built} {
		if err := os.Symlink(to, filepath.Join(build, name)); err != nil {
			w.t.Fatal(err)
		}
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
	p.cmd = w.command(p, append([]string{"up", "--json"}, p.args...)...)
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

func (w *processes) Run(i int) error { return w.runDir(i, w.source) }

func (w *processes) runDir(i int, dir string) error {
	_, err := w.nodes[i].client.Run(w.t.Context(), dir, func(node.Progress) {})
	return err
}

func (w *processes) Call(ctx context.Context, i int, target string) (string, error) {
	body, err := w.request(ctx, i, target, `{"Name":"Ada"}`)
	if err != nil {
		return "", err
	}
	var answer struct{ Text string }
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", err
	}
	return answer.Text, nil
}

func (w *processes) Busy(i, calls int) bool {
	for end := time.Now().Add(slowTime); time.Now().Before(end); time.Sleep(pause) {
		rs, err := w.nodes[i].client.Replicas(w.t.Context())
		if err != nil {
			return false
		}
		busy := 0
		for _, r := range rs {
			busy += r.Inflight
		}
		if busy >= calls {
			return true
		}
	}
	return false
}

func (w *processes) Key(i int) string { return w.nodes[i].status.Node.String() }

func (w *processes) Publish(i int) error {
	if err := celltest.Commit(w.source); err != nil {
		return err
	}
	_, err := w.nodes[i].client.Publish(w.t.Context(), w.source, "")
	return err
}

func (w *processes) Grow(i int) error {
	_, err := w.nodes[i].client.Grow(w.t.Context(), "greeter@"+w.Author(), nil, func(node.Progress) {})
	return err
}

func (w *processes) Status(ctx context.Context, i int) (node.CellStatus, error) {
	cells, err := w.nodes[i].client.Cells(ctx)
	return greeterOf(cells), err
}

func (w *processes) Scale(i, lo, hi int) error {
	_, err := w.nodes[i].client.Scale(w.t.Context(), node.ScaleRequest{Cell: "greeter@" + w.Author(), Min: &lo, Max: &hi})
	return err
}

func (w *processes) Stop(i int) (everywhere bool, err error) {
	done, err := w.nodes[i].client.Stop(w.t.Context(), "greeter@"+w.Author())
	return done.Everywhere, err
}

func (w *processes) Drain(i int, undo bool) error {
	return w.nodes[i].client.Drain(w.t.Context(), node.DrainRequest{Undo: undo}, func(node.Progress) {})
}

func (w *processes) KillReplicas(i int) (int, error) {
	ctx := w.t.Context()
	rs, err := w.nodes[i].client.Replicas(ctx)
	killed := 0
	for _, r := range rs {
		if r.State == node.ReplicaExited || !strings.HasPrefix(r.Cell, "greeter@") {
			continue
		}
		if err := w.nodes[i].client.Kill(ctx, r.ID); err != nil {
			return killed, err
		}
		killed++
	}
	return killed, err
}

func (w *processes) KillNode(i int) { w.nodes[i].kill() }

// Down ends a node by SIGTERM.
func (w *processes) Down(i int) error {
	p := w.nodes[i]
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-p.ended
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("exit code %d: %s", code, p.stderr.String())
	}
	return nil
}

func (w *processes) RestartNode(i int) error { return w.start(w.nodes[i]) }

// lastPort is the one that was handed out last, less firstPort.
var lastPort = rand.Uint32N(manyPorts)

const (
	firstPort = 20_000
	manyPorts = 12_000 // below those that systems give to whoever wants any
)

// freePort is a UDP port that nobody uses, and that nobody else gets before a node
// has it.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := firstPort + int(atomic.AddUint32(&lastPort, 1)%manyPorts)
		c, err := net.ListenPacket("udp", ":"+strconv.Itoa(port))
		if err == nil {
			c.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}
