package faults_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	ma "github.com/multiformats/go-multiaddr"
)

// What a flood may cost. A caller's latencies are compared with those that it
// has while the same flood goes to another node of this machine: an attacker
// beside it takes processors, whomever he attacks. What counts is
// [latencies.usual]; moreover it may never be stuck. On a machine that is busy
// with other things latencies say nothing and are only told.
const (
	mayGrow    = 64 << 20               // bytes of the node's memory above what it holds when idle
	mayDelay   = 2                      // times what is usual, …
	delayFloor = 20 * time.Millisecond  // … or this much more: 1 ms doubles by a breath of the machine
	mayStall   = 250 * time.Millisecond // so much more may the p99 of all calls be
	tries      = 2                      // of a measurement, on a machine that has other things to do
	window     = 200                    // calls
	quiet      = 0.8                    // share of the processors that this process must get to judge
)

// share is how much of the machine's processors this process gets if it wants
// all of them.
func share() float64 {
	const d = 100 * time.Millisecond
	used := func() time.Duration {
		var r syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	before, began := used(), time.Now()
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for time.Since(began) < d {
			}
		})
	}
	all.Wait()
	return float64(used()-before) / float64(time.Since(began)) / float64(runtime.GOMAXPROCS(0))
}

// latencies are how long calls took, in their order.
type latencies []time.Duration

func (l latencies) p99() time.Duration {
	sorted := slices.Sorted(slices.Values(l))
	return sorted[len(sorted)*99/100]
}

// usual is the median of the p99 of each window, without the moments in which
// the machine did something else.
func (l latencies) usual() time.Duration {
	var all []time.Duration
	for w := range slices.Chunk(l, window) {
		if len(w) == window {
			all = append(all, w.p99())
		}
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// call makes one call to the greeter and returns how long it took.
func call(ctx context.Context, c *frame.Conn, target string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	began := time.Now()
	r, err := c.Call(ctx, frame.Request{Target: target, Codec: frame.JSON, Body: []byte(`{"Name":"Ada"}`)})
	if err == nil && !bytes.Contains(r.Body, []byte("hello Ada")) {
		err = fmt.Errorf("greeting: %q", r.Body)
	}
	return time.Since(began), err
}

// measure calls again and again, until more says that it is enough.
func measure(t *testing.T, c *frame.Conn, target string, more func(n int) bool) latencies {
	t.Helper()
	var all latencies
	for more(len(all)) {
		took, err := call(t.Context(), c, target)
		if err != nil {
			t.Fatalf("call %d: %v", len(all), err)
		}
		all = append(all, took)
		time.Sleep(2 * time.Millisecond)
	}
	return all
}

// attack is what a flood of one node brought about.
type attack struct {
	opened, failed int // connections
	took           time.Duration
	calls          latencies // of a caller that has nothing to do with it
	peak           int64     // of the memory of the node that serves the caller, in bytes
}

// hostile runs a hostile process beside a caller of the cell on node d. The
// process attacks whom env says.
func hostile(t *testing.T, d *daemon, c *frame.Conn, target, kind string, env []string) attack {
	t.Helper()
	var said, wrong strings.Builder
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), envHostile+"="+kind), env...)
	cmd.Stdout, cmd.Stderr = &said, &wrong
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var a attack
	var ended bool
	a.calls = measure(t, c, target, func(n int) bool {
		if n%8 == 0 {
			a.peak = max(a.peak, memory(t, d.cmd.Process.Pid))
		}
		select {
		case err := <-done:
			if ended = true; err != nil {
				t.Errorf("hostile process: %v: %s", err, wrong.String())
			}
		default:
		}
		return !ended || n < 2*window
	})
	a.took = time.Since(began).Round(time.Millisecond)
	_, _ = fmt.Sscan(said.String(), &a.opened, &a.failed)
	return a
}

// flood attacks another node and then the one that serves the caller, and
// compares. It returns the attack on the latter.
func flood(t *testing.T, d *daemon, c *frame.Conn, target, kind string, other, victim []string) (a attack) {
	t.Helper()
	measure(t, c, target, func(n int) bool { return n < window }) // warm
	idle := memory(t, d.cmd.Process.Pid)
	for try := range tries {
		free := share()
		without := hostile(t, d, c, target, kind, other).calls
		a = hostile(t, d, c, target, kind, victim)
		d.alive()
		free = min(free, share())
		t.Logf("%d connections opened, %d refused, in %v; of %d calls p99 %v, usually %v; while the flood went elsewhere %v and %v; memory %d MiB, before %d MiB",
			a.opened, a.failed, a.took, len(a.calls), a.calls.p99(), a.calls.usual(), without.p99(), without.usual(), a.peak>>20, idle>>20)
		if grown := a.peak - idle; grown > mayGrow {
			t.Errorf("memory grew by %d MiB", grown>>20)
		}
		if a.calls.usual() <= max(mayDelay*without.usual(), without.usual()+delayFloor) && a.calls.p99() <= without.p99()+mayStall {
			return a
		}
		if free < quiet {
			t.Logf("the latencies do not count: this process gets %.0f %% of the machine", 100*free)
			return a
		}
		if try == tries-1 {
			t.Error("another caller's calls take too long in the flood")
		}
	}
	return a
}

// 10,000 connections of one user's programs to the control socket neither eat
// the node's memory nor hold up others, neither those that are connected nor
// those that come.
func TestFloodOfControlConnections(t *testing.T) {
	needsGo(t)
	s := newSite(t)
	d := s.up()
	s.greeter()
	ctx, cancel := context.WithCancel(t.Context())
	var comers sync.WaitGroup
	var slowest time.Duration
	comers.Go(func() { // commands that come anew
		for ctx.Err() == nil {
			began := time.Now()
			for {
				o := s.cell("call", "greeter/hello", `{"Name":"Ada"}`)
				if o.exit == 0 {
					break
				}
				if !strings.Contains(o.stderr, "resource temporarily unavailable") { // the system's queue is full
					t.Errorf("a command in the flood: exit %d: %s", o.exit, o.stderr)
					return
				}
			}
			slowest = max(slowest, time.Since(began))
			time.Sleep(50 * time.Millisecond)
		}
	})
	other := newSite(t)
	other.up()
	a := flood(t, d, s.caller(), "greeter/hello", "unix",
		[]string{envTarget + "=" + other.home.Socket()}, []string{envTarget + "=" + s.home.Socket()})
	cancel()
	comers.Wait()
	t.Logf("slowest command %v", slowest)
	if slowest > 10*time.Second {
		t.Errorf("a command took %v", slowest)
	}
	if a.opened < floodSize {
		t.Errorf("%d connections were opened, not %d: nothing has been tested", a.opened, floodSize)
	}
}

// 10,000 connections of one machine with 10,000 keys neither eat the node's
// memory nor hold up the calls of another node.
func TestFloodOfConnections(t *testing.T) {
	needsGo(t)
	s := newSite(t)
	d := s.up()
	s.greeter()
	other := s.neighbour()
	other.up("--bootstrap", d.status.Listen[0])
	target := "greeter@" + d.status.Author.String() + "/hello"
	other.greet(target)
	a := flood(t, d, other.caller(), target, "quic", newSite(t).up().reached(), d.reached())
	if a.opened+a.failed < floodSize || a.opened < 100 {
		t.Errorf("%d connections were tried and %d accepted, not %d: nothing has been tested", a.opened+a.failed, a.opened, floodSize)
	}
	other.greet(target)
	d.alive()
	fresh := s.neighbour() // whoever comes after the flood is let in
	fresh.up("--bootstrap", d.status.Listen[0])
	eventually(t, 30*time.Second, "a new node calls", func() bool {
		return fresh.cell("call", target, `{"Name":"Ada"}`).exit == 0
	})
}

// reached says to a hostile process where the node is.
func (d *daemon) reached() []string {
	d.t.Helper()
	a := d.addrs()[0]
	ip, err := a.ValueForProtocol(ma.P_IP4)
	if err != nil {
		d.t.Fatal(err)
	}
	port, err := a.ValueForProtocol(ma.P_UDP)
	if err != nil {
		d.t.Fatal(err)
	}
	id, err := host.PeerID(d.status.Node)
	if err != nil {
		d.t.Fatal(err)
	}
	return []string{envTarget + "=" + ip + ":" + port, envPeer + "=" + id.String()}
}
