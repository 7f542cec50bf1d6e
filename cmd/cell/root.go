package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// app is what every command has at hand.
type app struct {
	term   *terminal
	stdin  io.Reader
	getenv func(string) string
	args   []string
	json   bool // --json of the command that runs
	asks   bool // a person sees a question on stderr and can answer it on stdin
}

// run carries out one command line and returns the exit code. The first SIGINT
// or SIGTERM ends ctx, the second the process.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
			return
		}
		<-signals
		os.Exit(node.ExitInterrupted)
	}()

	a := &app{term: newTerminal(stdout, stderr, os.Getenv), stdin: stdin, getenv: os.Getenv, args: args}
	a.asks = a.term.errTTY && isTTY(stdin)
	root := a.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return node.ExitOK
	}
	e := describe(err)
	if e.Code != node.CodeInterrupted {
		a.term.jsonErrors = a.json || slices.Contains(args, "--json")
		a.term.fail(e)
	}
	return e.Exit
}

// groups order the commands in the help text.
var groups = []*cobra.Group{
	{ID: "start", Title: "Start:"},
	{ID: "cells", Title: "Cells:"},
	{ID: "look", Title: "Look around:"},
	{ID: "operate", Title: "Operate:"},
}

func (a *app) root() *cobra.Command {
	cobra.EnableCommandSorting = false
	root := &cobra.Command{
		Use:   "cell",
		Short: "Services that find each other, without a server in the middle",
		Long: `Services that find each other, without a server in the middle.

A cell is a service. A node, one per host, runs cells and makes them known to
other nodes: on the local network and, through a distributed table, beyond.
Nothing is reported to anybody.`,
		Example: `  cell up                                  # in one terminal: starts this host's node
  cell new greeter && cell run greeter     # in another: makes a cell and runs it
  cell call greeter/hello '{"Name":"Ada"}'`,
		Args:                       cobra.ArbitraryArgs,
		SilenceErrors:              true,
		SilenceUsage:               true,
		DisableSuggestions:         true,
		SuggestionsMinimumDistance: 2,
		CompletionOptions:          cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE:                       noSuchCommand,
	}
	root.AddGroup(groups...)
	root.SetFlagErrorFunc(a.badFlag)
	root.Version = node.Version()
	root.SetVersionTemplate("cell {{.Version}}\n")
	root.SetHelpCommand(&cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Explain a command",
		GroupID: "look",
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return noSuchCommand(c, rest)
			}
			return c.Help()
		},
	})
	for i, commands := range [][]*cobra.Command{ // as in groups
		{a.initCmd(), a.upCmd(), a.downCmd(), a.demoCmd()},
		{a.newCmd(), a.runCmd(), a.psCmd(), a.callCmd(), a.publishCmd(), a.growCmd(), a.scaleCmd(), a.loadCmd(), a.logsCmd(), a.drainCmd(), a.stopCmd()},
		{a.topCmd(), a.whyCmd(), a.eventsCmd(), a.lookupCmd(), a.seedsCmd(), a.peersCmd(), a.pingCmd(), a.hintsCmd(), a.doctorCmd(), a.glossaryCmd()},
		{a.admitCmd(), a.trustCmd(), a.configCmd(), a.completionCmd(), a.versionCmd()},
	} {
		for _, c := range commands {
			c.GroupID = groups[i].ID
			root.AddCommand(c)
		}
	}
	return root
}

// noSuchCommand is what a command that only holds others does with a word.
func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	e := usage(c, "unknown command %q for %q", clean(args[0]), c.CommandPath())
	if near := nearest(args[0], names(c)); near != "" {
		e.Hint = "did you mean: " + c.CommandPath() + " " + near
	}
	return e
}

// badFlag explains a flag that cannot be read.
func (a *app) badFlag(c *cobra.Command, err error) error {
	if !c.HasParent() && len(a.args) > 0 && !strings.HasPrefix(a.args[0], "-") {
		return noSuchCommand(c, a.args[:1]) // the word before the flag is the mistake
	}
	e := usage(c, "%s", clean(err.Error()))
	if word, ok := strings.CutPrefix(err.Error(), "unknown flag: --"); ok {
		var flags []string
		c.Flags().VisitAll(func(f *pflag.Flag) { flags = append(flags, f.Name) })
		if near := nearest(word, flags); near != "" {
			e.Hint = "did you mean: --" + near
		}
	}
	return e
}

func names(c *cobra.Command) []string {
	var out []string
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			out = append(out, sub.Name())
		}
	}
	return out
}

// nearest returns the word that a typing error away from word, or "".
func nearest(word string, words []string) string {
	best, distance := "", 3
	for _, w := range words {
		if d := edits(strings.ToLower(word), w); d < distance && d < len(w) {
			best, distance = w, d
		} else if best == "" && len(word) >= 2 && strings.HasPrefix(w, word) {
			best = w
		}
	}
	return best
}

// edits counts the letters to insert, delete or replace to make b of a, a swap
// of neighbours counting as one.
func edits(a, b string) int {
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(next[j-1]+1, row[j]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}

// takes checks the number of arguments; most < 0 means any.
func takes(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usage(c, "%q needs %s", c.CommandPath(), strings.TrimSpace(strings.TrimPrefix(c.Use, c.Name())))
		case most >= 0 && len(args) > most:
			return usage(c, "%q does not take %q", c.CommandPath(), clean(args[most]))
		}
		return nil
	}
}

// usage makes the error of a wrong command line.
func usage(c *cobra.Command, format string, args ...any) *node.APIError {
	return node.NewError(node.CodeUsage, fmt.Sprintf(format, args...), "see: "+c.CommandPath()+" --help")
}

// jsonFlag gives a command --json.
func (a *app) jsonFlag(c *cobra.Command, what string) {
	c.Flags().BoolVar(&a.json, "json", false, what)
}

// home finds the folders and checks what depends on them alone.
func (a *app) home() (home.Home, error) { return home.Locate(a.getenv) }

// load returns the folders and the settings in them.
func (a *app) load() (home.Home, node.Settings, error) {
	h, err := a.home()
	if err != nil {
		return h, node.Settings{}, err
	}
	s, err := node.LoadSettings(h, a.getenv)
	return h, s, err
}

// dial connects to the node.
func (a *app) dial() (*node.Client, error) {
	h, err := a.home()
	if err != nil {
		return nil, err
	}
	return node.Dial(h)
}
