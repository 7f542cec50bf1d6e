package celltest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/celltest"
	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/node"
)

// world is where a scenario plays: in virtual time, or with real processes.
// All replicas are of one cell, the greeter.
type world interface {
	Author() string
	Key(i int) string                                               // of node i
	Run(i int) error                                                // greeter on node i; returns when it answers
	Publish(i int) error                                            // greeter, from node i, which seeds it then
	Grow(i int) error                                               // greeter on node i, from whoever seeds it; returns when it answers
	Call(ctx context.Context, i int, target string) (string, error) // errors match a *frame.Error by code
	Busy(i, calls int) bool                                         // waits until node i serves so many slow calls to greeter at once; false: it does not come to that
	Status(ctx context.Context, i int) (node.CellStatus, error)     // what node i knows of greeter on all hosts; zero where it knows nothing
	Scale(i, lo, hi int) error                                      // as `cell scale` does
	Stop(i int) (everywhere bool, err error)                        // as `cell stop` does
	Drain(i int, undo bool) error                                   // the whole node, as `cell drain` does
	KillReplicas(i int) (int, error)                                // those of greeter on node i, as a crash would; returns how many there were
	KillNode(i int)                                                 // as a power failure would
	Down(i int) error                                               // as SIGTERM does; returns when the node has gone
	RestartNode(i int) error                                        // with the disk that it had
}

// scenarios are the same for all worlds. In those, nodes 0 and 1 share a LAN;
// node 2 has none and knows node 1's address only.
var scenarios = []struct {
	name string
	play func(ctx context.Context, t *testing.T, w world)
}{
	{"found by LAN and DHT", playFound},
	{"a stopped cell fails fast until it is run again", playStop},
	{"a dead replica is replaced", playReplicaDeath},
	{"a dead node comes back with what it ran", playNodeDeath},
	{"nobody serves it", playNobody},
	{"a newer replica takes over", playTakeover},
	{"a node goes down", playDown},
	{"a node outranks its former life", playRestart},
}

func TestSimulated(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := celltest.New(t, celltest.Options{Nodes: 3, LAN: lanOf, Knows: knownTo})
				if err := o.Node(0).Operate(); err != nil { // as the first of the processes does
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				s.play(ctx, t, simulated{o: o})
			})
		})
	}
}

func lanOf(i int) string {
	if i == 2 {
		return ""
	}
	return "lan"
}

func knownTo(i int) []int {
	if i == 2 {
		return []int{1}
	}
	return nil
}

// simulated is a world in virtual time.
type simulated struct {
	o        *celltest.Organism
	manifest string // of the greeter, after its name
}

func (w simulated) Author() string   { return w.o.Author() }
func (w simulated) Key(i int) string { return w.o.Node(i).Key() }

func (w simulated) Run(i int) error { return w.o.Node(i).Deploy("greeter", w.manifest, greet) }

func (w simulated) Publish(i int) error {
	return w.o.Node(i).Publish("greeter", w.manifest, greet)
}

func (w simulated) Grow(i int) error { return w.o.Node(i).Grow(context.Background(), "greeter") }

// greet is the greeter.
func greet(ctx context.Context, method string, in []byte) ([]byte, error) {
	switch method {
	case "slow":
		select {
		case <-time.After(slowTime):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case "work":
		if err := celltest.Work(ctx, workTime, workCores); err != nil {
			return nil, err
		}
	}
	return fmt.Appendf(nil, "hello %s", in), nil
}

func (w simulated) Call(ctx context.Context, i int, target string) (string, error) {
	out, err := w.o.Node(i).Call(ctx, target, []byte("Ada"))
	return string(out), err
}

// Busy knows that in virtual time nothing delays a call.
func (w simulated) Busy(int, int) bool {
	time.Sleep(slowTime / 2)
	return true
}

func (w simulated) Status(_ context.Context, i int) (node.CellStatus, error) {
	return greeterOf(w.o.Node(i).Cells()), nil
}

func (w simulated) Scale(i, lo, hi int) error {
	return w.o.Node(i).Scale(context.Background(), "greeter", lo, hi)
}

func (w simulated) Stop(i int) (everywhere bool, err error) {
	return w.o.Node(i).Stop(context.Background(), "greeter")
}

func (w simulated) Drain(i int, undo bool) error {
	return w.o.Node(i).Drain(context.Background(), "", undo)
}

func (w simulated) KillReplicas(i int) (int, error) { return w.o.Node(i).KillReplicas("greeter") }
func (w simulated) KillNode(i int)                  { w.o.Node(i).Kill() }
func (w simulated) Down(i int) error                { return w.o.Node(i).Down() }
func (w simulated) RestartNode(i int) error         { return w.o.Node(i).Restart() }

// greeterOf is what a node says of the greeter; zero where it does not know it.
func greeterOf(cells []node.CellStatus) node.CellStatus {
	for _, c := range cells {
		if strings.HasPrefix(c.Cell, "greeter@") {
			return c
		}
	}
	return node.CellStatus{}
}

func greeter(w world) string { return "greeter@" + w.Author() + "/hello" }

func mustRun(t *testing.T, w world, i int) {
	t.Helper()
	if err := w.Run(i); err != nil {
		t.Fatalf("run on node %d: %v", i, err)
	}
}

// wantAnswer calls once from each node: discovery itself has to find it.
func wantAnswer(ctx context.Context, t *testing.T, w world, nodes ...int) {
	t.Helper()
	for _, i := range nodes {
		begin := time.Now()
		if out, err := w.Call(ctx, i, greeter(w)); err != nil || out != "hello Ada" {
			t.Errorf("node %d: %q, %v", i, out, err)
		}
		t.Logf("node %d answered after %v", i, time.Since(begin))
	}
}

// wantNoReplica calls from a node and wants a clear no within limit.
func wantNoReplica(ctx context.Context, t *testing.T, w world, i int, limit time.Duration) {
	t.Helper()
	begin := time.Now()
	out, err := w.Call(ctx, i, greeter(w))
	took := time.Since(begin)
	if !errors.Is(err, &frame.Error{Code: frame.NoReplica}) {
		t.Errorf("node %d: %q, %v; want no replica", i, out, err)
	}
	if took > limit {
		t.Errorf("node %d took %v to say no, more than %v", i, took, limit)
	}
	t.Logf("node %d said no after %v", i, took)
}

// eventually calls until it is answered: news needs time to spread, and how
// much is measured elsewhere. ctx bounds it.
func eventually(ctx context.Context, t *testing.T, w world, i int) {
	t.Helper()
	begin := time.Now()
	said := ""
	for {
		out, err := w.Call(ctx, i, greeter(w))
		if err == nil && out == "hello Ada" {
			t.Logf("node %d answered after %v", i, time.Since(begin))
			return
		}
		if now, _, _ := strings.Cut(fmt.Sprint(out, err), " ago"); now != said {
			said = now
			t.Logf("node %d after %v: %s", i, time.Since(begin), said)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("node %d: %q, %v", i, out, err)
		}
	}
}

func playFound(ctx context.Context, t *testing.T, w world) {
	mustRun(t, w, 0)
	wantAnswer(ctx, t, w, 0, 1)
	eventually(ctx, t, w, 2)
}

func playStop(ctx context.Context, t *testing.T, w world) {
	mustRun(t, w, 0)
	for i := range 3 {
		eventually(ctx, t, w, i)
	}
	if everywhere, err := w.Stop(0); err != nil || !everywhere {
		t.Fatalf("stopped everywhere: %t, %v", everywhere, err)
	}
	wantNoReplica(ctx, t, w, 0, time.Second)
	wantNoReplica(ctx, t, w, 1, time.Second)
	wantNoReplica(ctx, t, w, 2, 3*time.Second)
	mustRun(t, w, 0)
	for i := range 3 {
		eventually(ctx, t, w, i)
	}
}

// playReplicaDeath kills the only replica: its host starts another, which is
// found by everybody, and nobody has to ask for it.
func playReplicaDeath(ctx context.Context, t *testing.T, w world) {
	mustRun(t, w, 0)
	for i := range 3 {
		eventually(ctx, t, w, i)
	}
	if n, err := w.KillReplicas(0); err != nil || n != 1 {
		t.Fatalf("%d replicas were killed: %v", n, err)
	}
	limit, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for i := range 3 { // by the new one: the other has ended
		eventually(limit, t, w, i)
	}
}

func playNodeDeath(ctx context.Context, t *testing.T, w world) {
	mustRun(t, w, 0)
	for i := range 3 {
		eventually(ctx, t, w, i)
	}
	w.KillNode(0)
	var calls sync.WaitGroup
	for i := 1; i < 3; i++ { // nobody was told: the call must end all the same
		calls.Go(func() {
			begin := time.Now()
			limit, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			if out, err := w.Call(limit, i, greeter(w)); err == nil {
				t.Errorf("node %d: a dead node answered %q", i, out)
			} else if limit.Err() != nil {
				t.Errorf("node %d: the call ended with its deadline only: %v", i, err)
			} else {
				t.Logf("node %d gave up on the dead node after %v: %v", i, time.Since(begin), err)
			}
		})
	}
	calls.Wait()
	if err := w.RestartNode(0); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		eventually(ctx, t, w, i)
	}
}

func playNobody(ctx context.Context, t *testing.T, w world) {
	for i, limit := range []time.Duration{time.Second, time.Second, 4 * time.Second} {
		wantNoReplica(ctx, t, w, i, limit)
	}
}
