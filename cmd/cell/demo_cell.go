package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/mycelium"
	"cell.network/cell/internal/node"
	"cell.network/cell/internal/record"
)

// What the demo adds to the cell that `cell new` makes: a method that costs as
// much as its caller asks for, and bounds within which the cell divides and dies.
const (
	demoManifest = `[cell]
name    = "greeter"
version = "0.2.0"
mirrors = [%q]

[limits]
cpu = %g

[scaling]
min_replicas = %d
max_replicas = %d
`
	demoContract = `package greeter

import "cell.network/cell"

// Burn keeps a processor busy.
var Burn = cell.NewMethod[Work, Done]("greeter/burn")

// Work says for how long.
type Work struct{ Milliseconds int }

// Done says how many rounds that took.
type Done struct{ Rounds int }
`
	demoMain = `// Command greeter serves the methods of package greeter.
package main

import (
	"context"
	"sync"
	"syscall"
	"time"

	"cell.local/greeter"
	"cell.network/cell"
)

func main() {
	cell.Main(cell.On(greeter.Hello, hello), cell.On(greeter.Burn, burn))
}

func hello(ctx context.Context, in greeter.Req) (greeter.Res, error) {
	return greeter.Res{Text: "hello " + in.Name}, nil
}

var processor sync.Mutex // held by the call that burns: what it uses is its own

func burn(ctx context.Context, in greeter.Work) (out greeter.Done, err error) {
	processor.Lock()
	defer processor.Unlock()
	begin, work := used(), time.Duration(in.Milliseconds)*time.Millisecond
	for used()-begin < min(work, time.Second) && ctx.Err() == nil {
		out.Rounds++
	}
	return out, ctx.Err()
}

// used is the processor time of this process so far.
func used() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
`
)

// Bounds of the demo's cell.
const (
	demoMin   = 2
	demoMax   = 4
	demoCores = 0.25 // what one replica may use of a processor
)

// writeCell makes the cell in a folder that `cell new` then leaves to the author,
// who has pushed it to the origin and cloned it from there.
func (d *demo) writeCell(ctx context.Context, draft string) error {
	if got, err := d.a.cell(ctx, "new", filepath.Base(draft)); err != nil || got.exit != 0 {
		return failed("cell new", got, err)
	}
	files := map[string]string{
		node.ManifestFile:     fmt.Sprintf(demoManifest, d.origin.mirror(), demoCores, demoMin, demoMax),
		"burn.go":             demoContract,
		"cmd/greeter/main.go": demoMain,
	}
	if d.breaks() {
		files["broken.go"] = "package greeter\n\nfunc broken( {}\n"
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(draft, filepath.FromSlash(name)), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"}, {"add", "."}, {"commit", "-q", "-m", "a greeter"}, {"push", "-q", d.origin.dir, "main"},
	} {
		if _, err := git(ctx, draft, args...); err != nil {
			return err
		}
	}
	if err := d.origin.publish(ctx); err != nil {
		return err
	}
	_, err := git(ctx, d.dir, "clone", "-q", d.origin.url(), d.source)
	return err
}

// publishOld signs, on another machine of the author's, a release that the next
// one withdraws, and returns it for somebody to offer all the same.
func (d *demo) publishOld(ctx context.Context) (record.Spore, error) {
	keys, err := node.LoadKeys(d.a.home)
	if err != nil {
		return record.Spore{}, err
	}
	s, err := mycelium.New(mycelium.Config{Dir: filepath.Join(d.dir, "elsewhere"), Network: identity.Network(d.network)})
	if err != nil {
		return record.Spore{}, err
	}
	defer s.Close()
	p := mycelium.Publication{Author: keys.Author, Name: "greeter", Version: oldVersion, Serve: record.Serve{Open: true}}
	old, err := s.Publish(ctx, d.source, p)
	if err != nil {
		return record.Spore{}, err
	}
	p.Version, p.MinSeq = "0.1.1", old.Spore.Seq+1
	_, err = s.Publish(ctx, d.source, p)
	return old.Spore, err
}

// publish has node a sign and hand out the cell, and the origin too.
func (d *demo) publish(ctx context.Context) error {
	if got, err := d.a.cell(ctx, "publish", "--dir", d.source); err != nil || got.exit != 0 {
		return failed("cell publish", got, err)
	}
	ref := record.Spore{Cell: d.old.Cell, Seq: d.old.Seq + 2}.Ref()
	raw, err := git(ctx, d.source, "cat-file", "tag", ref)
	if err != nil {
		return err
	}
	if d.newest, err = record.ParseSpore(raw); err != nil {
		return fmt.Errorf("read %s: %w", ref, err)
	}
	if _, err := git(ctx, d.source, "push", "-q", d.origin.dir, "refs/tags/cell/*:refs/tags/cell/*"); err != nil {
		return err
	}
	return d.origin.publish(ctx)
}
