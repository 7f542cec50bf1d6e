package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"cell.network/cell/internal/node"
	"golang.org/x/sys/unix"
)

// This file writes everything that a person or a script sees, by these rules:
//
//   - stdout is data and nothing else; stderr is everything else.
//   - With --json stdout is one JSON object, or one a line where things go on,
//     and an error is {"error":{"code","message","hint"}} on stderr.
//   - An error is one sentence, lower case, no full stop: "cell: error: …", then,
//     where there is something to do, "cell: hint: …". A code frame may follow the error.
//   - Colour only on a terminal, never with NO_COLOR or TERM=dumb; nothing moves
//     but cell top, on a terminal.
//   - What is missing is an error that names the flag. Only cell grow asks, whether
//     to trust an author, and only where a person sees the question and can answer.
//   - What other machines wrote is shown without control characters.

// terminal is where a command writes.
type terminal struct {
	out, err   io.Writer
	outTTY     bool // stdout is read by a person
	errTTY     bool
	colour     bool // on stderr
	jsonErrors bool
}

func newTerminal(out, err io.Writer, getenv func(string) string) *terminal {
	t := &terminal{out: out, err: err, outTTY: isTTY(out), errTTY: isTTY(err)}
	t.colour = t.errTTY && wantsColour(getenv)
	return t
}

func wantsColour(getenv func(string) string) bool {
	return getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
}

func isTTY(stream any) bool {
	_, ok := winsize(stream)
	return ok
}

func winsize(stream any) (*unix.Winsize, bool) {
	f, ok := stream.(*os.File)
	if !ok {
		return nil, false
	}
	w, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return w, err == nil
}

// size is that of the terminal on stdout, in characters; 80 by 24 where it does not say.
func (t *terminal) size() (width, height int) {
	w, ok := winsize(t.out)
	if !ok || w.Col == 0 || w.Row == 0 {
		return 80, 24
	}
	return int(w.Col), int(w.Row)
}

// print writes data.
func (t *terminal) print(format string, args ...any) { fmt.Fprintf(t.out, format, args...) }

// say writes progress.
func (t *terminal) say(format string, args ...any) { fmt.Fprintf(t.err, format+"\n", args...) }

// step writes a line of progress: a mark, what, and how long it took unless it goes on.
func (t *terminal) step(mark, name, text string, took time.Duration) {
	line := fmt.Sprintf("%s %-9s %s", t.paint(mark), name, clean(text))
	if took > 0 {
		line += "  " + duration(took)
	}
	t.say("%s", strings.TrimRight(line, " "))
}

var colours = map[string]string{
	"✓": "\x1b[32m", node.CheckOK: "\x1b[32m", node.CheckWarn: "\x1b[33m", node.CheckFail: "\x1b[31m",
	"error:": "\x1b[31m", "hint:": "\x1b[36m",
}

// paint colours a word that has a colour, for stderr.
func (t *terminal) paint(word string) string {
	if c, ok := colours[strings.TrimSpace(word)]; ok && t.colour {
		return c + word + "\x1b[0m"
	}
	return word
}

// json writes v as one line of data.
func (t *terminal) json(v any) error {
	e := json.NewEncoder(t.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table writes rows under a header, columns aligned.
func (t *terminal) table(header string, rows [][]string) {
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(strings.Fields(header), "\t"))
	for _, row := range rows {
		for i, cell := range row {
			if row[i] = clean(cell); row[i] == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	w.Flush()
}

// fail writes an error.
func (t *terminal) fail(e *node.APIError) {
	if t.jsonErrors {
		json.NewEncoder(t.err).Encode(map[string]any{"error": map[string]string{"code": e.Code, "message": e.Message, "hint": e.Hint}})
		return
	}
	t.block("error:", e.Message)
	if e.Hint != "" {
		t.block("hint:", e.Hint)
	}
}

// block writes a text whose further lines, if any, stand indented below the first.
func (t *terminal) block(label, text string) {
	first, rest, _ := strings.Cut(text, "\n")
	t.say("cell: %s %s", t.paint(label), clean(first))
	for line := range strings.Lines(rest) {
		t.say("  %s", strings.TrimRight(clean(line), " "))
	}
}

// clean replaces control and invisible formatting characters, which could
// repaint the screen or disguise text, by a visible mark. Tabs become spaces
// and a newline at the end is dropped.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r), r == '\u2028', r == '\u2029':
			return '\ufffd'
		}
		return r
	}, strings.TrimRight(s, "\r\n"))
}

// duration writes a span with about three digits: 12 ms, 1.9 s, 4m10s.
func duration(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 48*time.Hour:
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

func millis(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

// copy writes text of a cell to stdout, line by line and cleaned where stdout
// is a terminal, as it is otherwise.
func (t *terminal) copy(r io.Reader) error {
	if !t.outTTY {
		_, err := io.Copy(t.out, r)
		return err
	}
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			end := ""
			if line[len(line)-1] == '\n' {
				end = "\n"
			}
			t.print("%s%s", clean(string(line)), end)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}
