package main

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"cell.network/cell/internal/node"
)

func TestRepaint(t *testing.T) {
	var lines []line
	for i := range 9 {
		lines = append(lines, line{text: fmt.Sprintf("line %d …%s", i, strings.Repeat("x", i*5)), colour: red})
	}
	const begin, end = "\x1b[?7l\x1b[H", "\x1b[J\x1b[?7h"
	for _, c := range []struct{ width, height, shown int }{
		{80, 24, 9}, {80, 10, 9}, {80, 9, 7}, {20, 5, 3}, {1, 3, 1}, {80, 2, 0}, {80, 1, 9}, {0, 0, 9},
	} {
		got := repaint(lines, c.width, c.height, false)
		text, ok := strings.CutPrefix(got, begin)
		text, ok2 := strings.CutSuffix(text, end)
		if !ok || !ok2 || strings.Contains(text, red) {
			t.Fatalf("%d by %d: %q", c.width, c.height, got)
		}
		rows := strings.Split(strings.TrimSuffix(text, "\r\n"), "\r\n")
		if c.height > 1 && len(rows) > c.height-1 {
			t.Errorf("%d by %d: %d rows", c.width, c.height, len(rows))
		}
		for _, row := range rows {
			row, ok := strings.CutSuffix(row, "\x1b[K")
			if n := utf8.RuneCountInString(row); !ok || n > max(c.width, 1) {
				t.Errorf("%d by %d: a row of %d: %q", c.width, c.height, n, row)
			}
		}
		if shown := len(rows) - strings.Count(text, "more lines"); c.width >= 20 && shown != c.shown {
			t.Errorf("%d by %d: shows %d lines, want %d", c.width, c.height, shown, c.shown)
		}
	}
	if got := repaint(lines, 80, 9, false); !strings.Contains(got, "… and 2 more lines\x1b[K") {
		t.Errorf("what is left out is not said: %q", got)
	}
	if got := repaint(lines, 80, 24, true); strings.Count(got, red) != 9 || strings.Count(got, "\x1b[0m") != 9 {
		t.Errorf("coloured: %q", got)
	}
	if lines[8].text != "line 8 …"+strings.Repeat("x", 40) {
		t.Error("repaint changed its lines")
	}
}

// What other hosts say of their replicas cannot repaint the screen or break lines.
func TestPictureIsClean(t *testing.T) {
	c := node.CellStatus{Cell: "a\x1b[2J@b", Decision: "one\ntwo\r", Replicas: []node.ReplicaLoad{{State: "\x1b[31m"}}, Hosts: make([]node.HostLoad, 1)}
	lines := picture([]node.CellStatus{c, {}})
	if len(lines) != 7 {
		t.Errorf("%d lines", len(lines))
	}
	for _, l := range lines {
		if l.text == "" || strings.ContainsAny(l.text, "\x1b\r\n") {
			t.Errorf("a line is %q", l.text)
		}
	}
}
