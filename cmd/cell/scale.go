package main

import (
	"fmt"
	"strconv"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

// maxPopulation is the most replicas that a cell can be given.
const maxPopulation = 10_000

func (a *app) scaleCmd() *cobra.Command {
	var least, most int
	var reset bool
	c := &cobra.Command{
		Use:   "scale CELL",
		Short: "Say how many replicas a cell has, on all hosts together",
		Long: `Sets how many replicas a cell has at least and at most, on all hosts together; between
the two its load decides. The word is signed with the key of the cell's author or of
your colony and told to all hosts; where neither key is here it cannot reach them, and
says so. --reset goes back to the bounds of Cell.toml.

Without flags it prints what holds: how many replicas are wanted and live, the bounds,
and where they come from.`,
		Example: "  cell scale greeter\n  cell scale greeter --min 2 --max 8\n  cell scale greeter --reset",
		Args:    takes(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := identity.ParseRef(args[0]); err != nil {
				return err
			}
			q := node.ScaleRequest{Cell: args[0], Reset: reset}
			if c.Flags().Changed("min") {
				q.Min = &least
			}
			if c.Flags().Changed("max") {
				q.Max = &most
			}
			switch {
			case reset && (q.Min != nil || q.Max != nil):
				return usage(c, "--reset goes without --min and --max")
			case q.Min != nil && (least < 0 || least > maxPopulation):
				return usage(c, "--min lies between 0 and %d", maxPopulation)
			case q.Max != nil && (most < 1 || most > maxPopulation):
				e := usage(c, "--max lies between 1 and %d", maxPopulation)
				if most == 0 {
					e.Hint = "to end the cell: cell stop " + clean(args[0])
				}
				return e
			case q.Min != nil && q.Max != nil && least > most:
				return usage(c, "--min %d is above --max %d", least, most)
			case q.Min == nil && q.Max == nil && !reset:
				return a.bounds(c, args[0])
			}
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			s, err := client.Scale(c.Context(), q)
			if err != nil {
				return err
			}
			what := "has " + population(s)
			if reset {
				what += " as its Cell.toml says"
			}
			if s.Stopped {
				what += " once it lives again: it is stopped"
			}
			return a.scaled(args[0], what, s)
		},
		ValidArgsFunction: a.completeKnown,
	}
	c.Flags().IntVar(&least, "min", 0, "replicas at least")
	c.Flags().IntVar(&most, "max", 0, "replicas at most")
	c.Flags().BoolVar(&reset, "reset", false, "go back to the bounds of Cell.toml")
	a.jsonFlag(c, "print one cell a line as JSON, or what was set")
	return c
}

// bounds prints how many replicas a cell has and may have.
func (a *app) bounds(c *cobra.Command, text string) error {
	meant, err := a.which(text)
	if err != nil {
		return err
	}
	client, err := a.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	list, err := cells(c.Context(), client, meant)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return unknownCell(text)
	}
	rows := make([][]string, len(list))
	for i, s := range list {
		if a.json {
			type bounds struct {
				Cell    string `json:"cell"`
				Want    int    `json:"want"`
				Live    int    `json:"live"`
				Min     int    `json:"min"`
				Max     int    `json:"max"`
				Stopped bool   `json:"stopped,omitempty"`
				Bounds  string `json:"bounds"`
			}
			if err := a.term.json(bounds{s.Cell, s.Want, s.Live, s.Min, s.Max, s.Stopped, s.Bounds}); err != nil {
				return err
			}
		}
		from := s.Bounds
		if s.Stopped {
			from = "stopped, " + from
		}
		rows[i] = []string{shortCell(s.Cell), strconv.Itoa(s.Want), strconv.Itoa(s.Live), strconv.Itoa(s.Min), strconv.Itoa(s.Max), from}
	}
	if !a.json {
		a.term.table("CELL WANT LIVE MIN MAX FROM", rows)
	}
	return nil
}

// scaled says what holds after a word on a cell, and how far the word reaches.
func (a *app) scaled(text, what string, s node.Scaled) error {
	if a.json {
		return a.term.json(s)
	}
	if s.Everywhere {
		a.term.say("%s %s, on all hosts", clean(text), what)
		return nil
	}
	a.term.say("%s %s, on this host only", clean(text), what)
	a.term.say("to tell all hosts, say so where the key of its author or of your colony is")
	return nil
}

// population is how many replicas a cell may have.
func population(s node.Scaled) string {
	switch {
	case s.Max == 0: // nobody here has its Cell.toml
		return "as many replicas"
	case s.Min < s.Max:
		return fmt.Sprintf("%d to %d replicas", s.Min, s.Max)
	case s.Max == 1:
		return "1 replica"
	}
	return fmt.Sprintf("%d replicas", s.Max)
}
