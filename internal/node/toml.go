package node

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// FileError is what is wrong in a TOML file, and where.
type FileError struct {
	File    string
	Line    int // from 1
	Column  int // from 1
	Message string
	Frame   string // the lines around it with the offending text underlined
}

// Error returns file:line:column: message, then the lines themselves.
func (e *FileError) Error() string {
	s := fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
	if e.Frame != "" {
		s += "\n" + e.Frame
	}
	return s
}

// decodeTOML reads text into v and refuses keys that v does not have. Errors
// are a *FileError.
func decodeTOML[T any](file string, text []byte, v *T) error {
	decode := func(text []byte, v *T) error {
		d := toml.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		return d.Decode(v)
	}
	err := decode(text, v)
	var strict *toml.StrictMissingError
	var bad *toml.DecodeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &strict) && len(strict.Errors) > 0:
		first := strict.Errors[0]
		line, column := first.Position()
		return &FileError{file, line, column, "unknown key " + strings.Join(first.Key(), "."), inPlainWords(first.String())}
	case errors.As(err, &bad):
		line, column := bad.Position()
		return &FileError{file, line, column, inPlainWords(bad.Error()), inPlainWords(bad.String())}
	}
	// The decoder does not say where: find the first line with which the error comes.
	lines := bytes.SplitAfter(text, []byte("\n"))
	n := sort.Search(len(lines), func(i int) bool {
		e := decode(bytes.Join(lines[:i+1], nil), new(T))
		return e != nil && e.Error() == err.Error()
	})
	n = min(n, len(lines)-1)
	message := inPlainWords(err.Error())
	line := strings.TrimRight(string(lines[n]), "\r\n")
	return &FileError{file, n + 1, 1, message, fmt.Sprintf("%d| %s\n%*s| %s %s", n+1, line, len(fmt.Sprint(n+1)), "", strings.Repeat("~", max(1, len(line))), message)}
}

// plainWords replaces what the decoder says about Go types.
var plainWords = []struct {
	pattern *regexp.Regexp
	words   string
}{
	{regexp.MustCompile(`^toml: `), ""},
	{regexp.MustCompile(`(?m)(missing|unknown) (field|table)$`), "unknown key"},
	{regexp.MustCompile(`(?m)cannot (?:decode|store) (?:a )?(?:TOML )?(\w+) in(?:to)? .*$`), "a value of type $1 does not belong here"},
}

func inPlainWords(s string) string {
	for _, p := range plainWords {
		s = p.pattern.ReplaceAllString(s, p.words)
	}
	return s
}

// keyError makes a *FileError that points at the value of key (or at the line
// of its name) in a text that has been decoded without error.
func keyError(file string, text []byte, key []string, format string, args ...any) error {
	message := fmt.Sprintf(format, args...)
	at, length := locate(text, key)
	line := 1 + bytes.Count(text[:at], []byte("\n"))
	start := bytes.LastIndexByte(text[:at], '\n') + 1
	lines := strings.Split(string(text), "\n")
	var frame strings.Builder
	width := len(fmt.Sprint(line))
	for n := max(1, line-2); n <= line; n++ {
		fmt.Fprintf(&frame, "%*d| %s\n", width, n, lines[n-1])
	}
	fmt.Fprintf(&frame, "%*s| %s%s %s", width, "", strings.Repeat(" ", at-start), strings.Repeat("~", max(1, length)), message)
	return &FileError{file, line, at - start + 1, message, frame.String()}
}

// locate finds where the value of a key stands in a text; of an array or table
// only the key itself is known. An absent key is at the start.
func locate(text []byte, key []string) (at, length int) {
	var p unstable.Parser
	p.Reset(text)
	var table []string
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = keyOf(e)
			if slices.Equal(table, key) {
				first := e.Child().Raw
				return int(first.Offset), int(first.Length)
			}
		case unstable.KeyValue:
			full := slices.Concat(table, keyOf(e))
			if !slices.Equal(full, key) {
				continue
			}
			raw := e.Value().Raw
			if raw.Length == 0 || e.Value().Kind == unstable.Array || e.Value().Kind == unstable.InlineTable {
				it := e.Key()
				it.Next()
				raw = it.Node().Raw
			}
			return int(raw.Offset), int(raw.Length)
		}
	}
	return 0, 0
}

func keyOf(e *unstable.Node) []string {
	var key []string
	for it := e.Key(); it.Next(); {
		key = append(key, string(it.Node().Data))
	}
	return key
}
