package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

// topEvery is the pause between two pictures.
const topEvery = time.Second

func (a *app) topCmd() *cobra.Command {
	var once bool
	c := &cobra.Command{
		Use:   "top",
		Short: "Watch cells, their replicas and hosts",
		Long: `Shows every cell that this host's node knows, as it sees it: how many replicas are
wanted and live, what stands decided, and below that the replicas and the hosts that
have the cell or room for it. RPS are requests a second that came, SHED those of them
that were refused for load, BUSY those in flight; P99 is the slowest replica's.

On a terminal it is drawn anew each second, until Ctrl-C; otherwise, or with --once,
it is printed once.`,
		Args: takes(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			if a.term.outTTY && a.getenv("TERM") != "dumb" && !once && !a.json {
				return a.watch(c.Context(), client)
			}
			list, err := cells(c.Context(), client, func(string) bool { return true })
			if err != nil {
				return err
			}
			if a.json {
				for _, s := range list {
					if err := a.term.json(s); err != nil {
						return err
					}
				}
				return nil
			}
			if len(list) == 0 {
				a.term.say("no cell is known here; start one with: cell run DIR")
				return nil
			}
			for _, l := range picture(list) {
				a.term.print("%s\n", l.text)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&once, "once", false, "print it once, on a terminal too")
	a.jsonFlag(c, "print one cell a line as JSON, once")
	return c
}

// watch draws the cells again and again.
func (a *app) watch(ctx context.Context, client *node.Client) error {
	tick := time.NewTicker(topEvery)
	defer tick.Stop()
	a.term.print("\x1b[2J")
	defer a.term.print("\x1b[?7h") // Ctrl-C may have made the terminal drop that of the last picture
	for {
		list, err := cells(ctx, client, func(string) bool { return true })
		if err != nil {
			return err
		}
		lines := picture(list)
		if len(list) == 0 {
			lines = []line{{text: "no cell is known here; start one with: cell run DIR"}}
		}
		width, height := a.term.size()
		a.term.print("%s", repaint(lines, width, height, wantsColour(a.getenv)))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// repaint is what repaints a screen with lines: from its upper left corner, line
// by line up to where the line before ended, all at once. Lines that are too
// long are cut, and so is the end, which is said.
func repaint(lines []line, width, height int, colour bool) string {
	if over := len(lines) - (height - 1); over > 0 && height > 1 { // the last line stays free for the cursor
		lines = append(lines[:height-2:height-2], line{text: fmt.Sprintf("… and %d more lines", over+1)})
	}
	var b strings.Builder
	b.WriteString("\x1b[?7l\x1b[H") // no wrapping meanwhile: some characters are wider than one
	for _, l := range lines {
		text := l.text
		if utf8.RuneCountInString(text) > width {
			text = string([]rune(text)[:max(width-1, 0)]) + "…"
		}
		if colour && l.colour != "" {
			text = l.colour + text + "\x1b[0m"
		}
		b.WriteString(text + "\x1b[K\r\n")
	}
	b.WriteString("\x1b[J\x1b[?7h")
	return b.String()
}

// line is one of a picture.
type line struct {
	text   string
	colour string // escape sequence before it, or ""
}

// Colours of lines.
const (
	bold   = "\x1b[1m"
	yellow = "\x1b[33m"
	red    = "\x1b[31m"
)

// stateColours are those of replicas that are not simply alive.
var stateColours = map[string]string{
	node.ReplicaStarting: yellow, node.ReplicaDraining: yellow, "dead": red, "failed": red,
}

// picture puts cells into lines: one a cell under a common header, then what
// was decided, its replicas under the same header, and hosts as sentences.
func picture(list []node.CellStatus) []line {
	rows := [][]string{{"CELL / REPLICA ON", "GEN", "STATE", "RPS", "SHED", "BUSY", "P99", "CPU", "MEMORY"}}
	lines := []line{{colour: bold}}
	row := func(colour string, columns ...string) {
		rows = append(rows, columns)
		lines = append(lines, line{colour: colour})
	}
	for _, c := range list {
		var memory int64
		for _, r := range c.Replicas {
			memory += r.Memory
		}
		row(bold, shortCell(c.Cell), "", lives(c), rate(c.Offered), rate(c.Shed), rate(c.Inflight), latency(c.P99MS), percent(c.CPU), mebibytes(memory))
		row("", "  now: "+decision(c))
		for _, r := range c.Replicas {
			row(stateColours[r.State], "  "+place(r.Node.Short(), r.Self)+" #"+strconv.FormatUint(r.ID, 10), strconv.FormatUint(r.Generation, 10), r.State,
				rate(r.Offered), rate(r.Shed), rate(r.Inflight), latency(r.P99MS), percent(r.CPU), mebibytes(r.Memory))
		}
		for _, h := range c.Hosts {
			row("", "  "+hostLine(h))
		}
	}
	for i, text := range columns(rows) {
		lines[i].text = text
	}
	return lines
}

// columns aligns rows; one of a single column is a sentence and stands by itself.
func columns(rows [][]string) []string {
	var widths []int
	for _, row := range rows {
		for i := range row {
			if row[i] = clean(row[i]); len(row) == 1 {
				break
			}
			if row[i] == "" {
				row[i] = "-"
			}
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	out := make([]string, len(rows))
	for i, row := range rows {
		for j, text := range row {
			if out[i] += text; j < len(row)-1 {
				out[i] += strings.Repeat(" ", widths[j]-utf8.RuneCountInString(text)+2)
			}
		}
	}
	return out
}

// lives is how many replicas of a cell live of those that are wanted, and its bounds.
func lives(c node.CellStatus) string {
	if c.Stopped {
		return fmt.Sprintf("%d live, stopped", c.Live)
	}
	return fmt.Sprintf("%d live of %d (%d-%d)", c.Live, c.Want, c.Min, c.Max)
}

func decision(c node.CellStatus) string {
	text := c.Decision
	if text == "" {
		text = "nothing decided yet"
	}
	if c.Drained {
		text += " (drained on this host)"
	}
	return text
}

func hostLine(h node.HostLoad) string {
	code := "has the code"
	if !h.Code {
		code = "without the code"
	}
	text := fmt.Sprintf("host %s: %s, room for %d, %s CPU free", place(h.Node.Short(), h.Self), code, h.Room, percent(h.CPUFree))
	if !h.Self {
		text += ", heard " + duration(millis(h.AgeMS)) + " ago"
	}
	return text
}

func place(node string, self bool) string {
	if self {
		return node + " (here)"
	}
	return node
}

func rate(v float64) string {
	switch {
	case v <= 0:
		return ""
	case v < 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

func percent(share float64) string { return strconv.FormatFloat(100*share, 'f', 0, 64) + " %" }

func latency(ms float64) string {
	if ms <= 0 {
		return ""
	}
	return duration(millis(ms))
}

func mebibytes(b int64) string {
	if b == 0 {
		return ""
	}
	return fmt.Sprintf("%d MiB", b>>20)
}
