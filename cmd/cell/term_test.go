package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/node"
)

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"hello":                   "hello",
		"tab\tand end\r\n":        "tab and end",
		"\x1b[2Jgone":             "\ufffd[2Jgone",
		"two\nlines":              "two\ufffdlines",
		"\u202egpj.exe\u200b":     "\ufffdgpj.exe\ufffd", // turns the direction of writing; takes no room
		"bell\a del\x7f c1\u009b": "bell\ufffd del\ufffd c1\ufffd",
		"grüße, 世界 ✓":             "grüße, 世界 ✓",
		"bad utf8 \xff":           "bad utf8 \ufffd",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// TestAnswerIsClean lets a cell answer with what would repaint the terminal.
func TestAnswerIsClean(t *testing.T) {
	for _, codec := range []frame.Codec{frame.Raw, frame.CBOR, frame.JSON, 99} {
		for _, tty := range []bool{true, false} {
			var buf bytes.Buffer
			a := &app{term: &terminal{out: &buf, outTTY: tty}}
			if err := a.answer(frame.Response{Codec: codec, Body: []byte("\x1b]0;gone\a")}); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(buf.String(), "\x1b") == tty {
				t.Errorf("%v, terminal %v: %q", codec, tty, buf.String())
			}
		}
	}
}

func TestDuration(t *testing.T) {
	for in, want := range map[time.Duration]string{
		0: "0 µs", 85 * time.Microsecond: "85 µs", 1500 * time.Microsecond: "1.5 ms", 120 * time.Millisecond: "120 ms",
		1900 * time.Millisecond: "1.9 s", 250 * time.Second: "4m10s", 72 * time.Hour: "3 days",
	} {
		if got := duration(in); got != want {
			t.Errorf("%v: got %q, want %q", in, got, want)
		}
	}
}

// Colour and cleaning depend on who reads; what is said does not.
func TestTerminal(t *testing.T) {
	e := node.NewError(node.CodeFailed, "first\nsecond \x1b[31m", "do this\nand that")
	const plain = "cell: error: first\n  second \ufffd[31m\ncell: hint: do this\n  and that\n"
	var buf bytes.Buffer
	(&terminal{err: &buf}).fail(e)
	if buf.String() != plain {
		t.Errorf("plain: got %q, want %q", buf.String(), plain)
	}
	buf.Reset()
	(&terminal{err: &buf, colour: true}).fail(e)
	if got := buf.String(); !strings.Contains(got, "cell: \x1b[31merror:\x1b[0m first") || strings.Contains(got, "\x1b[31m\n") {
		t.Errorf("coloured: got %q", got)
	}

	for _, c := range []struct {
		tty  bool
		want string
	}{{false, "a\x1b[1mb\nend"}, {true, "a\ufffd[1mb\nend"}} {
		buf.Reset()
		if err := (&terminal{out: &buf, outTTY: c.tty}).copy(strings.NewReader("a\x1b[1mb\nend")); err != nil || buf.String() != c.want {
			t.Errorf("copy, terminal %v: got %q, %v; want %q", c.tty, buf.String(), err, c.want)
		}
	}
	// A line without an end is passed on in pieces.
	buf.Reset()
	long := strings.Repeat("x", 1<<20)
	if err := (&terminal{out: &buf, outTTY: true}).copy(strings.NewReader(long)); err != nil || buf.String() != long {
		t.Errorf("long line: %d bytes, %v", buf.Len(), err)
	}
}

func TestWantsColour(t *testing.T) {
	for _, c := range []struct {
		noColor, term string
		want          bool
	}{{"", "xterm", true}, {"1", "xterm", false}, {"", "dumb", false}, {"", "", true}} {
		getenv := func(name string) string { return map[string]string{"NO_COLOR": c.noColor, "TERM": c.term}[name] }
		if got := wantsColour(getenv); got != c.want {
			t.Errorf("NO_COLOR=%s TERM=%s: %v, want %v", c.noColor, c.term, got, c.want)
		}
	}
	if newTerminal(&bytes.Buffer{}, &bytes.Buffer{}, func(string) string { return "" }).colour {
		t.Error("colour though nobody looks")
	}
}

func TestNearest(t *testing.T) {
	commands := []string{"init", "up", "down", "new", "run", "ps", "call", "events", "lookup", "peers", "ping"}
	for in, want := range map[string]string{
		"rnu": "run", "pign": "ping", "Events": "events", "look": "lookup", "peer": "peers", "xyzzy": "", "": "", "donw": "down",
	} {
		if got := nearest(in, commands); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
