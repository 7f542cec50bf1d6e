package faults_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/home"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/node"
)

// Variables by which this test program tells itself, run again, what to be.
const (
	envProgram = "FAULTS_PROGRAM" // the cell program that is built already
	envHostile = "FAULTS_HOSTILE" // the hostile process to be, see hostiles
	envInside  = "FAULTS_INSIDE"  // the test whose namespaces this process is in
)

// program is the path of the cell program, built once.
var program string

func TestMain(m *testing.M) {
	if name := os.Getenv(envHostile); name != "" {
		hostiles[name]()
		return
	}
	os.Exit(func() int {
		if program = os.Getenv(envProgram); program == "" {
			dir, err := os.MkdirTemp("", "faults")
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			defer os.RemoveAll(dir)
			program = filepath.Join(dir, "cell")
			if out, err := exec.Command("go", "build", "-o", program, "../cmd/cell").CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build cell: %v\n%s", err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

// goCache is the compiled standard library of whoever runs the tests: a node
// with a cache of its own would compile it anew each time.
var goCache = sync.OnceValue(func() string {
	out, _ := exec.Command("go", "env", "GOCACHE").Output()
	return strings.TrimSpace(string(out))
})

// site is a home and the environment of its node and of its user's commands.
type site struct {
	t    *testing.T
	dir  string // holds everything, home included
	home home.Home
	net  identity.Network
	port int // of announcements on the local network
	env  []string
}

var sites atomic.Int32

// newSite makes an empty home in a folder of its own, with a network and a port
// for announcements that no other test uses.
func newSite(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "cf") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeAll(t, dir) })
	network := identity.Network(fmt.Sprintf("faults-%d-%d", os.Getpid(), sites.Add(1)))
	return siteAt(t, dir, network, freePort(t))
}

// neighbour makes another home on the same network.
func (s *site) neighbour() *site {
	s.t.Helper()
	n := newSite(s.t)
	return siteAt(s.t, n.dir, s.net, s.port)
}

func siteAt(t *testing.T, dir string, network identity.Network, port int) *site {
	t.Helper()
	h, err := home.At(filepath.Join(dir, "home"))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir, home: h, net: network, port: port}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "CELL_") && !strings.HasPrefix(kv, "XDG_") {
			s.env = append(s.env, kv)
		}
	}
	s.env = append(s.env, "CELL_HOME="+filepath.Join(dir, "home"), "HOME="+dir, "TMPDIR="+dir, "GOPROXY=off",
		"CELL_NETWORK="+string(network), "CELL_LAN_PORT="+strconv.Itoa(port),
		"CELL_LISTEN=/ip4/127.0.0.1/udp/0/quic-v1", "GORACE=atexit_sleep_ms=0")
	return s
}

// removeAll removes a folder in which processes that were killed may be about
// to write their last.
func removeAll(t *testing.T, dir string) {
	err := os.RemoveAll(dir)
	for deadline := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(deadline); err = os.RemoveAll(dir) {
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Errorf("clear up: %v", err)
	}
}

// freePort is a UDP port that nobody uses now, by IPv4 and IPv6.
func freePort(t *testing.T) int {
	t.Helper()
	c, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port
}

// outcome is how a command ended.
type outcome struct {
	exit           int
	stdout, stderr string
	took           time.Duration
}

// commandTime bounds every command: one that hangs fails its test.
const commandTime = 60 * time.Second

// cell runs a command as the user of this home would.
func (s *site) cell(args ...string) outcome {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	c := exec.CommandContext(ctx, program, args...)
	c.Env, c.Dir = s.env, s.dir
	c.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	began := time.Now()
	err := c.Run()
	took := time.Since(began)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		s.t.Fatalf("cell %s: %v after %v\n%s", strings.Join(args, " "), err, took, stderr.String())
	}
	return outcome{c.ProcessState.ExitCode(), stdout.String(), stderr.String(), took}
}

// begin starts a command that the caller waits for.
func (s *site) begin(args ...string) *exec.Cmd {
	s.t.Helper()
	c := exec.Command(program, args...)
	c.Env, c.Dir = s.env, s.dir
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// must runs a command that has to succeed.
func (s *site) must(args ...string) outcome {
	s.t.Helper()
	o := s.cell(args...)
	if o.exit != 0 {
		s.t.Fatalf("cell %s: exit %d\n%s%s", strings.Join(args, " "), o.exit, o.stdout, o.stderr)
	}
	return o
}

// wants fails the test unless the command ended with exit and said every one of
// words on stderr.
func (o outcome) wants(t *testing.T, exit int, words ...string) {
	t.Helper()
	if o.exit != exit {
		t.Errorf("exit %d, want %d: %s", o.exit, exit, o.stderr)
	}
	for _, w := range words {
		if !strings.Contains(o.stderr, w) {
			t.Errorf("stderr lacks %q: %s", w, o.stderr)
		}
	}
}

// daemon is a node that runs.
type daemon struct {
	*site
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
	stderr bytes.Buffer  // complete once exited is closed
	status node.Status
	took   time.Duration // until it listened
}

// upTime is how long a node may take to listen.
const upTime = 20 * time.Second

// up starts the node and waits until it listens. The test's end ends it.
func (s *site) up(flags ...string) *daemon {
	s.t.Helper()
	return s.upBy(program, append([]string{"up", "--json"}, flags...)...)
}

// upBy starts the node by a command that becomes `cell up --json`.
func (s *site) upBy(name string, args ...string) *daemon {
	s.t.Helper()
	d := &daemon{site: s, exited: make(chan struct{})}
	d.cmd = exec.Command(name, args...)
	d.cmd.Env, d.cmd.Dir = s.env, s.dir
	d.cmd.Stderr = &d.stderr
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	began := time.Now()
	if err := d.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	up := make(chan error, 1)
	go func() {
		up <- json.NewDecoder(out).Decode(&d.status) // the first line, once it listens
		_ = d.cmd.Wait()
		close(d.exited)
	}()
	s.t.Cleanup(d.stop)
	select {
	case err = <-up:
	case <-time.After(upTime):
		err = errors.New("it does not listen")
	}
	d.took = time.Since(began)
	if err != nil {
		d.kill()
		s.t.Fatalf("node did not come up: %v: %s", err, d.stderr.String())
	}
	return d
}

// stop ends the node in good order, and by force where it does not.
func (d *daemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.exited:
	case <-time.After(10 * time.Second):
		d.t.Errorf("the node does not end: %s", d.stack())
	}
}

// stack ends a node that hangs and returns where it did.
func (d *daemon) stack() string {
	_ = d.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-d.exited:
	case <-time.After(5 * time.Second):
		d.kill()
	}
	return d.stderr.String()
}

// kill is kill -9.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.exited
}

// alive fails the test where the node has ended.
func (d *daemon) alive() {
	d.t.Helper()
	select {
	case <-d.exited:
		d.t.Fatalf("the node ended: %s", d.stderr.String())
	default:
	}
}

// keys are those in the home's files.
func (s *site) keys() node.KeyRing {
	s.t.Helper()
	keys, err := node.LoadKeys(s.home)
	if err != nil {
		s.t.Fatal(err)
	}
	return keys
}

func (s *site) journalDir() string { return filepath.Join(s.home.State, "journal") }

// events reads the journal's files, whole lines only, and keeps those of the
// kinds given; of all kinds where none is.
func (s *site) events(kinds ...journal.Kind) []journal.Event {
	var all []journal.Event
	for e, err := range journal.Read(s.journalDir()) {
		if err == nil && (len(kinds) == 0 || slices.Contains(kinds, e.Kind)) {
			all = append(all, e)
		}
	}
	return all
}

// checks returns what `cell doctor` finds, by name; of two checks with the same
// name the node's own.
func (s *site) checks() map[string]node.Check {
	s.t.Helper()
	var list node.CheckList
	if err := json.Unmarshal([]byte(s.cell("doctor", "--json").stdout), &list); err != nil {
		s.t.Fatal(err)
	}
	all := make(map[string]node.Check)
	for _, c := range list.Checks {
		all[c.Name] = c
	}
	return all
}

// shareGoCache lets the node's builds use what is compiled already.
func (s *site) shareGoCache() {
	s.t.Helper()
	dir := filepath.Join(s.home.Cache, "build")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Symlink(goCache(), filepath.Join(dir, "go")); err != nil && !errors.Is(err, os.ErrExist) {
		s.t.Fatal(err)
	}
}

// needsGo skips a test that builds a cell where that is not possible or wanted.
func needsGo(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a cell")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("needs the go command")
	}
}

// greeter makes the cell of `cell new` and runs it on the site's node.
func (s *site) greeter() node.Replica {
	s.t.Helper()
	s.shareGoCache()
	if _, err := os.Stat(filepath.Join(s.dir, "greeter")); err != nil {
		s.must("new", "greeter")
	}
	var r node.Replica
	if err := json.Unmarshal([]byte(s.must("run", "--json", "greeter").stdout), &r); err != nil {
		s.t.Fatal(err)
	}
	return r
}

// greet calls the greeter once, as a user would, and wants the greeting.
func (s *site) greet(target string) {
	s.t.Helper()
	if o := s.must("call", target, `{"Name":"Ada"}`); !strings.Contains(o.stdout, `"hello Ada"`) {
		s.t.Fatalf("greeting: %s", o.stdout)
	}
}

// caller opens a connection for calls to the site's node.
func (s *site) caller() *frame.Conn {
	s.t.Helper()
	c := frame.NewConn(s.upgrade(), frame.Config{})
	s.t.Cleanup(func() { c.Close() })
	return c
}

// upgrade opens a connection to the control socket on which frames are spoken.
func (s *site) upgrade() net.Conn {
	s.t.Helper()
	c, err := net.Dial("unix", s.home.Socket())
	if err != nil {
		s.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(c, "POST /v1/connect HTTP/1.1\r\nHost: cell\r\n%s: %d\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", node.HeaderProtocol, node.Protocol, node.UpgradeFrame)
	answer, end := []byte{}, []byte("\r\n\r\n")
	for b := make([]byte, 1); !bytes.HasSuffix(answer, end); answer = append(answer, b...) {
		if _, err := c.Read(b); err != nil {
			s.t.Fatalf("upgrade: %v after %q", err, answer)
		}
	}
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 101 ")) {
		s.t.Fatalf("upgrade: %q", answer)
	}
	_ = c.SetDeadline(time.Time{})
	return c
}

// eventually waits until ok, and fails the test where it takes too long.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
