package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) eventsCmd() *cobra.Command {
	var follow bool
	var after uint64
	var kinds []string
	var cell string
	c := &cobra.Command{
		Use:   "events",
		Short: "Show what happened on this host, and why",
		Long: `Shows the journal of this host's node, oldest event first; where the node is not
running it is read from disk. The last column, in brackets, is the event that led to it.
cell glossary explains the kinds.`,
		Example: `  cell events --follow
  cell events --kind spawn,exit --cell greeter
  cell events --json | jq .kind`,
		Args: takes(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			for _, k := range kinds {
				if !journal.Kind(k).Known() {
					e := usage(c, "unknown kind of event %q", clean(k))
					if near := nearest(k, kindNames()); near != "" {
						e.Hint = "did you mean: --kind " + near
					}
					return e
				}
			}
			events, err := a.journal(c, after, follow)
			if err != nil {
				return err
			}
			for e, err := range events {
				switch {
				case errors.Is(err, journal.ErrTorn):
					a.term.say("cell: %s %s", "warning:", clean(err.Error()))
					continue
				case err != nil:
					return err
				}
				if e.Seq <= after || len(kinds) > 0 && !slices.Contains(kinds, string(e.Kind)) || cell != "" && !concerns(e, cell) {
					continue
				}
				if err := a.event(e); err != nil {
					return err
				}
			}
			return c.Context().Err()
		},
	}
	f := c.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on with what happens next, until Ctrl-C")
	f.Uint64Var(&after, "after", 0, "start after the event of this number")
	f.StringSliceVar(&kinds, "kind", nil, "only these kinds, separated by commas")
	f.StringVar(&cell, "cell", "", "only what concerns this cell: a name, or name@author")
	a.jsonFlag(c, "print one event a line as JSON")
	c.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(kindNames(), cobra.ShellCompDirectiveNoFileComp))
	c.RegisterFlagCompletionFunc("cell", a.completeCells)
	return c
}

// journal is the node's, live where it runs.
func (a *app) journal(c *cobra.Command, after uint64, follow bool) (iter.Seq2[journal.Event, error], error) {
	client, err := a.dial()
	if err == nil {
		return client.Events(c.Context(), after, follow), nil
	}
	if follow || !errors.Is(err, node.ErrNotRunning) {
		return nil, err
	}
	h, err := a.home()
	if err != nil {
		return nil, err
	}
	a.term.say("the node is not running; reading its journal from disk")
	return journal.Read(filepath.Join(h.State, "journal")), nil
}

func (a *app) event(e journal.Event) error {
	if a.json {
		return a.term.json(e)
	}
	at, _, _ := strings.Cut(e.Time, "_")
	if t, err := time.Parse(time.RFC3339Nano, at); err == nil {
		at = t.Format("2006-01-02T15:04:05.000Z07:00")
	}
	line := fmt.Sprintf("%s  %-6d %-14s", clean(at), e.Seq, clean(string(e.Kind)))
	if cell := shortCell(e.Cell); cell != "" && !strings.Contains(e.Text, cell) {
		line += " " + clean(cell)
	}
	line += " " + clean(e.Text)
	if detail, err := json.Marshal(e.Data); err == nil && len(e.Data) > 0 && e.Text == "" {
		line += clean(string(detail))
	}
	if e.Cause != "" {
		line += " [" + clean(e.Cause) + "]"
	}
	a.term.print("%s\n", line)
	return nil
}

// concerns reports whether an event is about a cell, given as name or name@author.
func concerns(e journal.Event, cell string) bool {
	return e.Cell == cell || bareName(e.Cell) == cell
}

func kindNames() []string {
	out := make([]string, len(journal.Kinds))
	for i, k := range journal.Kinds {
		out[i] = string(k.Kind)
	}
	return out
}
