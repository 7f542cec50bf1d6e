package main

import (
	"context"
	"errors"
	"slices"

	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

// decisions are the kinds of events that say why a cell has as many replicas as it has.
var decisions = []journal.Kind{journal.Mitosis, journal.Apoptosis, journal.Decide}

// standing is a node's present decision on a cell, in the shape of an event.
type standing struct {
	Kind string         `json:"kind"` // now
	Cell string         `json:"cell"`
	Text string         `json:"text"`
	Data map[string]int `json:"data"`
}

func (a *app) whyCmd() *cobra.Command {
	var follow bool
	var newest int
	c := &cobra.Command{
		Use:   "why [CELL]",
		Short: "Explain why a cell has as many replicas as it has",
		Long: `Shows what this host's node decided about a cell, or about all, oldest decision first:
to start a replica (mitosis), to end one (apoptosis), or to wait (decide), each as a
sentence with the numbers that led to it. Then, after "now:", what stands.

Every host decides for itself what it starts and ends; ask there for what others did.
Where the node is not running, its journal is read from disk.`,
		Example: "  cell why greeter\n  cell why --follow\n  cell why greeter -n 5",
		Args:    takes(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if newest < 0 {
				return usage(c, "-n must not be negative")
			}
			text := ""
			if len(args) == 1 {
				text = args[0]
			}
			meant, err := a.which(text)
			if err != nil {
				return err
			}
			return a.why(c, text, meant, newest, follow)
		},
		ValidArgsFunction: a.completeKnown,
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is decided next, until Ctrl-C")
	c.Flags().IntVarP(&newest, "newest", "n", 0, "only the newest `N` decisions (default all)")
	a.jsonFlag(c, `print one event a line as JSON; what stands has the kind "now"`)
	return c
}

func (a *app) why(c *cobra.Command, text string, meant func(string) bool, newest int, follow bool) error {
	client, err := a.dial()
	switch {
	case err == nil:
		defer client.Close()
	case follow || !errors.Is(err, node.ErrNotRunning):
		return err
	}
	events, err := a.journal(c, 0, false)
	if err != nil {
		return err
	}
	var past []journal.Event
	var last uint64
	known := text == ""
	for e, err := range events {
		switch {
		case errors.Is(err, journal.ErrTorn):
			a.term.say("cell: %s %s", "warning:", clean(err.Error()))
			continue
		case err != nil:
			return err
		}
		last = e.Seq
		if known = known || meant(e.Cell); !meant(e.Cell) || !slices.Contains(decisions, e.Kind) {
			continue
		}
		if past = append(past, e); newest > 0 && len(past) > newest {
			past = past[1:]
		}
	}
	var now []node.CellStatus
	if client != nil {
		if now, err = cells(c.Context(), client, meant); err != nil {
			return err
		}
	}
	if !known && len(now) == 0 {
		return unknownCell(text)
	}
	for _, e := range past {
		if err := a.event(e); err != nil {
			return err
		}
	}
	if len(past) == 0 {
		a.term.say("nothing has been decided here yet")
	}
	for _, s := range now {
		if err := a.standing(s); err != nil {
			return err
		}
	}
	if !follow {
		return c.Context().Err()
	}
	return a.whyNext(c.Context(), client, last, meant)
}

// standing prints what a node's present decision on a cell is.
func (a *app) standing(s node.CellStatus) error {
	text := decision(s)
	if a.json {
		return a.term.json(standing{"now", s.Cell, text, map[string]int{
			"want": s.Want, "live": s.Live, "starting": s.Starting, "draining": s.Draining, "min": s.Min, "max": s.Max,
		}})
	}
	a.term.print("now: %s %s\n", clean(shortCell(s.Cell)), clean(text))
	return nil
}

// whyNext prints what is decided after an event.
func (a *app) whyNext(ctx context.Context, client *node.Client, after uint64, meant func(string) bool) error {
	for e, err := range client.Events(ctx, after, true) {
		if err != nil {
			return err
		}
		if meant(e.Cell) && slices.Contains(decisions, e.Kind) {
			if err := a.event(e); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}
