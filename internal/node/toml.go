package node

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strconv"
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

// setTOML gives key a value, already in TOML's form, and leaves the rest of a
// text that decodes without error as it is, comments included. An empty value
// removes the key.
func setTOML(text []byte, key []string, value string) []byte {
	table, name := key[:len(key)-1], key[len(key)-1]
	start, assigned, end, insert := span(text, table, key)
	switch {
	case start >= 0 && value == "":
		if rest := bytes.TrimLeft(text[end:], " \t\r"); len(rest) > 0 && rest[0] == '\n' {
			end = len(text) - len(rest) + 1
		}
		return slices.Concat(text[:start], text[end:])
	case value == "":
		return text
	case start >= 0:
		return slices.Concat(text[:assigned], []byte(value), text[end:])
	}
	line := bareKey(name) + " = " + value + "\n"
	if insert < 0 { // a table that is not there yet
		insert = len(text)
		line = "\n[" + strings.Join(table, ".") + "]\n" + line
	}
	if insert > 0 && text[insert-1] != '\n' {
		line = "\n" + line
	}
	return slices.Concat(text[:insert], []byte(line), text[insert:])
}

// span finds where "key = value" starts, where its value is assigned and where
// it ends, or -1; and where a new key of the table can be put: after its header
// or its last key, -1 without a header.
func span(text []byte, table, key []string) (start, assigned, end, insert int) {
	start, insert = -1, -1
	if len(table) == 0 {
		insert = 0
	}
	var p unstable.Parser
	p.Reset(text)
	var in []string
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind == unstable.Table || e.Kind == unstable.ArrayTable {
			in = keyOf(e)
		} else if e.Kind != unstable.KeyValue {
			continue
		}
		first := e.Key()
		first.Next()
		at := int(first.Node().Raw.Offset)
		stop := lineEnd(text, at)
		if e.Kind == unstable.KeyValue {
			for toml.Unmarshal(text[at:stop], new(map[string]any)) != nil && stop < len(text) {
				stop = lineEnd(text, stop+1) // a value of several lines
			}
			if slices.Equal(slices.Concat(in, keyOf(e)), key) {
				start, assigned, end = at, at, stop
				for it := e.Key(); it.Next(); {
					assigned = int(it.Node().Raw.Offset + it.Node().Raw.Length)
				}
				for assigned < stop && bytes.IndexByte([]byte(" \t="), text[assigned]) >= 0 {
					assigned++
				}
				if raw := e.Value().Raw; raw.Length > 0 && e.Value().Kind != unstable.Array && e.Value().Kind != unstable.InlineTable {
					end = int(raw.Offset + raw.Length) // keeps a comment behind it
				}
			}
		}
		if slices.Equal(in, table) {
			insert = min(stop+1, len(text))
		}
	}
	return start, assigned, end, insert
}

// hasKey reports whether a text that decodes without error sets key.
func hasKey(text []byte, key []string) bool {
	var at any
	if toml.Unmarshal(text, &at) != nil {
		return false
	}
	for _, k := range key {
		table, _ := at.(map[string]any)
		var ok bool
		if at, ok = table[k]; !ok {
			return false
		}
	}
	return true
}

func lineEnd(text []byte, at int) int {
	if n := bytes.IndexByte(text[min(at, len(text)):], '\n'); n >= 0 {
		return at + n
	}
	return len(text)
}

// bareKey quotes a key that TOML wants quoted.
func bareKey(name string) string {
	for _, c := range name {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return strconv.Quote(name)
		}
	}
	return name
}
