package celltest_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/frame"
)

const ledgerContract = `package ledger

import "cell.network/cell"

type Req struct{ A, B int }
type Res struct {
	Sum  int
	Left int64 // milliseconds until the caller's deadline
}

var (
	Add   = cell.NewMethod[Req, Res]("ledger/add")
	Stall = cell.NewMethod[Req, Res]("ledger/stall")
	Ended = cell.NewMethod[Req, Res]("ledger/ended")
)
`

const ledgerMain = `package main

import (
	"context"
	"sync/atomic"
	"time"

	"cell.local/ledger"
	"cell.network/cell"
)

func main() {
	cell.Main(cell.On(ledger.Add, add), cell.On(ledger.Stall, stall), cell.On(ledger.Ended, ended))
}

func add(ctx context.Context, in ledger.Req) (ledger.Res, error) {
	out := ledger.Res{Sum: in.A + in.B}
	if deadline, ok := ctx.Deadline(); ok {
		out.Left = time.Until(deadline).Milliseconds()
	}
	return out, nil
}

var cancelled atomic.Int64

func stall(ctx context.Context, _ ledger.Req) (ledger.Res, error) {
	<-ctx.Done()
	cancelled.Add(1)
	return ledger.Res{}, ctx.Err()
}

func ended(context.Context, ledger.Req) (ledger.Res, error) {
	return ledger.Res{Sum: int(cancelled.Load())}, nil
}
`

const frontContract = `package front

import "cell.network/cell"

type Req struct{ A, B int }
type Res struct {
	Sum  int
	Left int64
}

var (
	Add      = cell.NewMethod[Req, Res]("front/add")
	Stall    = cell.NewMethod[Req, Res]("front/stall")
	Ended    = cell.NewMethod[Req, Res]("front/ended")
	ByAuthor = cell.NewMethod[Req, Res]("front/byauthor")
	Stranger = cell.NewMethod[Req, Res]("front/stranger")
)
`

// frontMain passes every call on to the ledger.
const frontMain = `package main

import (
	"context"

	"cell.local/front"
	"cell.network/cell"
)

func main() {
	cell.Main(
		cell.On(front.Add, pass("ledger/add")), cell.On(front.Stall, pass("ledger/stall")), cell.On(front.Ended, pass("ledger/ended")),
		cell.On(front.ByAuthor, pass("ledger@AUTHOR/add")), cell.On(front.Stranger, pass("vault/open")),
	)
}

func pass(target string) func(context.Context, front.Req) (front.Res, error) {
	return func(ctx context.Context, in front.Req) (front.Res, error) {
		return cell.Call[front.Res](ctx, target, in)
	}
}
`

// needs is a world with the sources of two cells, one of which calls the other.
type needs struct {
	*processes
	ledger, front string
}

func newNeeds(t *testing.T) needs {
	w := newProcesses(t, "")
	author := w.Author()
	return needs{
		w,
		w.newCell("ledger", map[string]string{"ledger.go": ledgerContract, "cmd/ledger/main.go": ledgerMain}),
		w.newCell("front", map[string]string{
			"front.go": frontContract, "cmd/front/main.go": strings.Replace(frontMain, "AUTHOR", author, 1),
			"Cell.toml": "[cell]\nname = \"front\"\n\n[needs]\nledger = \"ledger@" + author + "\"\n",
		}),
	}
}

type sum struct {
	Sum  int
	Left int64
}

// add calls a method of the front that node i runs, from a program on node i.
func (w needs) add(ctx context.Context, i int, method string) (out sum, err error) {
	body, err := w.request(ctx, i, "front/"+method, `{"A":1,"B":2}`)
	if err == nil {
		err = json.Unmarshal(body, &out)
	}
	return out, err
}

func (w needs) run(i int, dir string) {
	w.t.Helper()
	if err := w.runDir(i, dir); err != nil {
		w.t.Fatalf("run %s on node %d: %v", filepath.Base(dir), i, err)
	}
}

// A cell calls one that its [needs] name, on the same host and on others, and no other.
func TestNeeds(t *testing.T) {
	t.Parallel()
	w := newNeeds(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	w.run(0, w.front)
	begin := time.Now()
	_, err := w.add(ctx, 0, "add")
	if took := time.Since(begin); err == nil || !strings.Contains(err.Error(), "ledger") || took > 3*time.Second {
		t.Errorf("the ledger is missing: %v after %v", err, took)
	} else {
		t.Logf("the ledger is missing: %v after %v", err, took)
	}
	w.run(0, w.ledger)
	for i, where := range []string{"the same host", "another host", "a host elsewhere"} {
		if i > 0 {
			w.run(i, w.front)
		}
		w.wantSum(ctx, t, i, where)
	}
	w.wantDirect(ctx, t)

	for i := range 3 { // a new ledger takes over, and nobody who calls it through a front notices
		done := make(chan error, 1)
		go func() { done <- w.runDir(0, w.ledger) }()
		for calls, running := 0, true; running; calls++ {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				running = false
				t.Logf("node %d called %d times meanwhile", i, calls)
			default:
			}
			if out, err := w.add(ctx, i, "add"); err != nil || out.Sum != 3 {
				t.Fatalf("node %d: %+v, %v", i, out, err)
			}
		}
	}
}

// wantSum calls everything that a front on node i can, and cannot, call.
func (w needs) wantSum(ctx context.Context, t *testing.T, i int, where string) {
	t.Helper()
	const patience = 5 * time.Second
	for _, method := range []string{"add", "byauthor"} {
		limit, cancel := context.WithTimeout(ctx, patience)
		out, err := w.add(limit, i, method)
		cancel()
		if err != nil || out.Sum != 3 || out.Left <= 0 || out.Left > patience.Milliseconds() {
			t.Errorf("the ledger on %s: %s: %+v, %v", where, method, out, err)
		}
		t.Logf("the ledger on %s saw %d ms of %v left", where, out.Left, patience)
	}
	out, err := w.add(ctx, i, "stranger")
	if err == nil || !strings.Contains(err.Error(), `"vault" is not in [needs] of front`) {
		t.Errorf("a cell that it does not need: %+v, %v", out, err)
	}
	var e *frame.Error
	if errors.As(err, &e) && !strings.Contains(e.Hint, "Cell.toml") {
		t.Errorf("hint %q", e.Hint)
	}

	before, err := w.add(ctx, i, "ended")
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := w.add(short, i, "stall"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a slow ledger: %v", err)
	}
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if out, err := w.add(ctx, i, "ended"); err != nil || out.Sum == before.Sum+1 {
			if err != nil {
				t.Error(err)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("the handler on %s goes on after its caller gave up", where)
			return
		}
	}
}

// wantDirect holds that on one host two replicas talk past their node.
func (w needs) wantDirect(ctx context.Context, t *testing.T) {
	t.Helper()
	served := func() (n uint64) {
		rs, err := w.nodes[0].client.Replicas(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			if strings.HasPrefix(r.Cell, "ledger@") {
				n += r.Served
			}
		}
		return n
	}
	before := served()
	if _, err := w.add(ctx, 0, "add"); err != nil || served() != before {
		t.Errorf("the call of a neighbour went through the node: %d, %d, %v", before, served(), err)
	}
	if _, err := w.add(ctx, 1, "add"); err != nil || served() != before+1 {
		t.Errorf("the call from another host did not go through the node: %d, %d, %v", before, served(), err)
	}
}

// request calls a method with JSON from a program on node i.
func (w *processes) request(ctx context.Context, i int, target, in string) ([]byte, error) {
	conn, err := w.nodes[i].client.Connect(ctx)
	if err != nil {
		return nil, err
	}
	c := frame.NewConn(conn, frame.Config{})
	defer c.Close()
	r, err := c.Call(ctx, frame.Request{Target: target, Codec: frame.JSON, Body: []byte(in)})
	return r.Body, err
}
