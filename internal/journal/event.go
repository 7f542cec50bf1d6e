package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits on one event, in bytes.
const (
	MaxLine = 16 << 10
	MaxText = 1024
)

// idNode is how many characters of a node's key go into an event's id.
const idNode = 6

// ErrTorn says that a line is not a whole event: cut off by a crash, or damaged.
var ErrTorn = errors.New("torn line")

// Event is one thing that happened. Its fields are explained in the package comment.
type Event struct {
	Node  string         `json:"node"`
	Seq   uint64         `json:"seq"`
	Time  string         `json:"time"`
	Kind  Kind           `json:"kind"`
	Cause string         `json:"cause,omitempty"`
	Cell  string         `json:"cell,omitempty"`
	Text  string         `json:"text,omitempty"`
	Data  map[string]any `json:"data,omitempty"`
}

// ID names the event among those of all nodes: end of the node's key, hyphen, sequence.
func (e Event) ID() string {
	return e.Node[max(0, len(e.Node)-idNode):] + "-" + strconv.FormatUint(e.Seq, 10)
}

// line returns the event as one line, newline included.
func (e Event) line() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	return b.Bytes(), nil
}

// Parse reads one line, with or without its newline. Errors wrap [ErrTorn]. An
// unregistered kind is accepted: a newer node may have written the line.
func Parse(line []byte) (Event, error) {
	if len(line) > MaxLine {
		return Event{}, fmt.Errorf("%w: %d bytes, %d are allowed", ErrTorn, len(line), MaxLine)
	}
	var e Event
	if err := json.Unmarshal(line, &e); err != nil {
		return Event{}, fmt.Errorf("%w: %v", ErrTorn, err)
	}
	if e.Node == "" || e.Seq == 0 || e.Kind == "" {
		return Event{}, fmt.Errorf("%w: an event has a node, a sequence number and a kind", ErrTorn)
	}
	if _, err := ParseStamp(e.Time); err != nil {
		return Event{}, fmt.Errorf("%w: %v", ErrTorn, err)
	}
	if len(e.Data) == 0 {
		e.Data = nil // an empty object says as much as none
	}
	return e, nil
}

// clip shortens a text for people to MaxText bytes of valid UTF-8.
func clip(s string) string {
	const dots = "…"
	if len(s) > MaxText {
		cut := MaxText - len(dots)
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + dots
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
