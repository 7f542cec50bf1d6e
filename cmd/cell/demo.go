package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"cell.network/cell/internal/node"
	"cell.network/cell/internal/record"
	"github.com/spf13/cobra"
)

func (a *app) demoCmd() *cobra.Command {
	var sabotage int
	var keep, noMulticast, noNamespace, apart bool
	var taps []int
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole of it on this machine, and check every claim",
		Long: `Starts three nodes as processes of their own on the loopback interface. A cell from
a git repository is published and run on the first, found and called from the others,
stopped, run again, and spreads while its origin dies. Forged and withdrawn releases
are offered and refused. Under load the cell divides, without it the oldest replicas
go, and killed ones are replaced. Each step checks what it claims: the exit code is 0
only if all held.

Where the system allows, the demo plays in a network namespace of its own, in which
every packet that is sent anywhere can be counted.

Nothing is left behind, and nothing but a cache of compiled packages is kept.
--break N sabotages step N, to show that the demo can fail.`,
		Example: "  cell demo\n  cell demo --break 4",
		Args:    takes(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("break") && (sabotage < 1 || sabotage > len(demoSteps)) {
				return usage(c, "there is no step %d to break: the demo has %d", sabotage, len(demoSteps))
			}
			var alone error // why there is no network namespace, if there is none
			switch {
			case apart:
				return enterApart(without(a.args, "--apart"))
			case noNamespace:
				alone = errors.New("--no-namespace was given")
			case len(taps) != tapCount:
				exit, err := playApart(c.Context(), a.args)
				if err == nil {
					return ended(exit)
				}
				alone = err
			}
			ctx, cancel := context.WithCancel(c.Context())
			defer cancel()
			if alone == nil {
				followParent(cancel)
			}
			defer endWithReader(cancel)()
			d, err := newDemo(a, sabotage)
			if err != nil {
				return err
			}
			d.noMulticast, d.taps, d.alone = noMulticast, taps, alone
			err = d.run(ctx)
			return errors.Join(err, d.close(keep))
		},
	}
	c.Flags().IntVar(&sabotage, "break", 0, "sabotage step `N`")
	c.Flags().BoolVar(&noMulticast, "no-multicast", false, "play on a host that refuses multicast")
	c.Flags().BoolVar(&noNamespace, "no-namespace", false, "play on a host that refuses network namespaces")
	c.Flags().BoolVar(&keep, "keep", false, "keep the nodes' homes and say where they are")
	c.Flags().BoolVar(&apart, "apart", false, "set up the network namespace that this process is in, and play there")
	c.Flags().IntSliceVar(&taps, "tap", nil, "descriptors that count packets")
	for _, own := range []string{"apart", "tap"} { // what the demo says to itself
		if err := c.Flags().MarkHidden(own); err != nil {
			panic(err)
		}
	}
	a.jsonFlag(c, "print a JSON object per step")
	return c
}

// demoStep is one claim of the demo: run makes it true and checks it.
type demoStep struct {
	title string
	limit time.Duration // after which it has failed
	run   func(context.Context, *demo) (evidence string, err error)
}

// demo is one run of it. Nodes a and b share the LAN tier; c is cut off from
// it and knows b's address only.
type demo struct {
	app     *app
	dir     string
	broken  int // step to sabotage, or 0
	step    int // that runs, from 1
	network string
	lanPort int
	a, b, c *demoNode

	noMulticast bool
	direct      netip.AddrPort // where b hears announcements without multicast
	taps        []int          // descriptors of playApart
	alone       error          // why there are no taps
	watch       *watch

	origin *origin
	source string       // the author's clone of it
	ref    string       // greeter@z6Mk…, as others name it
	old    record.Spore // a release that the newest withdraws
	newest record.Spore
	steady *caller // from step 9 to step 11
	heavy  *caller // from step 9 to step 10
}

// demoResult is what --json prints of a step.
type demoResult struct {
	Step     int     `json:"step"`
	Title    string  `json:"title"`
	OK       bool    `json:"ok"`
	Evidence string  `json:"evidence,omitempty"`
	Error    string  `json:"error,omitempty"`
	TookMS   float64 `json:"took_ms"`
}

func newDemo(a *app, broken int) (*demo, error) {
	dir, err := os.MkdirTemp("", "cell-demo-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the demo: %w", err)
	}
	port, err := freeUDPPort()
	if err != nil {
		return nil, err
	}
	return &demo{app: a, dir: dir, broken: broken, network: "demo-" + strconv.Itoa(os.Getpid()), lanPort: port}, nil
}

// breaks reports whether the step that runs is to be sabotaged.
func (d *demo) breaks() bool { return d.step == d.broken }

// will reports whether a later step is to be sabotaged, by preparing it now.
func (d *demo) will(step int) bool { return d.broken == step }

func (d *demo) run(ctx context.Context) error {
	begin := time.Now()
	for i, s := range demoSteps {
		d.step = i + 1
		stepCtx, cancel := context.WithTimeout(ctx, s.limit)
		start := time.Now()
		evidence, err := s.run(stepCtx, d)
		took := time.Since(start)
		if err != nil && stepCtx.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("not within %s: %w", duration(s.limit), err)
		}
		cancel()
		d.report(demoResult{Step: d.step, Title: s.title, OK: err == nil, Evidence: evidence, Error: text(err), TookMS: float64(took.Microseconds()) / 1000})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return node.NewError(node.CodeFailed, fmt.Sprintf("step %d (%s) failed: %v", d.step, s.title, err), "")
		}
	}
	if !d.app.json {
		d.app.term.print("all %d steps held, in %s\n", len(demoSteps), duration(time.Since(begin)))
	}
	return nil
}

func (d *demo) report(r demoResult) {
	if d.app.json {
		_ = d.app.term.json(r)
		return
	}
	mark := "✓"
	if !r.OK {
		mark = "✗"
	}
	d.app.term.print("%s %-2d %-60s %8s\n", mark, r.Step, r.Title, duration(millis(r.TookMS)))
	if r.Evidence != "" {
		d.app.term.print("     %s\n", clean(r.Evidence))
	}
}

// progress tells a person that waits what is going on.
func (d *demo) progress(p node.Progress) {
	if d.app.term.errTTY && p.TookMS == 0 && p.Text != "" {
		d.app.term.say("     %s", clean(p.Text))
	}
}

func (d *demo) close(keep bool) error {
	for _, c := range []*caller{d.heavy, d.steady} {
		if c != nil {
			c.stop()
		}
	}
	nodes := []*demoNode{d.a, d.b, d.c}
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		if n != nil {
			all.Go(func() { errs[i] = n.stop() })
		}
	}
	all.Wait()
	if d.origin != nil {
		d.origin.close()
	}
	if keep {
		d.app.term.say("the nodes' homes are kept in %s", d.dir)
		return errors.Join(errs...)
	}
	if err := os.RemoveAll(d.dir); err != nil {
		errs = append(errs, fmt.Errorf("remove the demo's folder: %w", err))
	}
	return errors.Join(errs...)
}

// endWithReader calls end when nobody reads what is printed any more, which would
// end this process at once, until it is undone.
func endWithReader(end func()) (undo func()) {
	closed := make(chan os.Signal, 1)
	signal.Notify(closed, syscall.SIGPIPE)
	go func() {
		for range closed {
			end()
		}
	}()
	return func() {
		signal.Stop(closed)
		close(closed)
	}
}

// without returns args without a flag.
func without(args []string, flag string) []string {
	return slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == flag })
}

// ended is the error of a process that has said itself what there was to say.
func ended(exit int) error {
	if exit == 0 {
		return nil
	}
	return &node.APIError{Code: node.CodeInterrupted, Exit: exit} // of which nothing is printed
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
