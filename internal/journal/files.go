package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	filePrefix = "journal-"
	fileSuffix = ".ndjson"
	seqDigits  = 20
)

func fileName(first uint64) string {
	return fmt.Sprintf("%s%0*d%s", filePrefix, seqDigits, first, fileSuffix)
}

// list returns the first sequence numbers of the journal files in dir, ascending.
func list(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, e := range entries {
		digits := strings.TrimSuffix(strings.TrimPrefix(e.Name(), filePrefix), fileSuffix)
		first, err := strconv.ParseUint(digits, 10, 64)
		if err == nil && first > 0 && e.Name() == fileName(first) {
			firsts = append(firsts, first)
		}
	}
	slices.Sort(firsts)
	return firsts, nil
}

// lastEvent finds the last whole event of a file, where it ends, and how many
// bytes come after. The event is zero where there is none.
func lastEvent(path string) (e Event, end, rest int64, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Event{}, 0, 0, err
	}
	size := int64(len(b))
	for len(b) > 0 {
		b = b[:bytes.LastIndexByte(b, '\n')+1] // what has no newline is torn
		if len(b) == 0 {
			break
		}
		start := bytes.LastIndexByte(b[:len(b)-1], '\n') + 1
		if e, err := Parse(b[start:]); err == nil {
			return e, int64(len(b)), size - int64(len(b)), nil
		}
		b = b[:start]
	}
	return Event{}, 0, size, nil
}

// scan yields the lines of r without keeping more than one. The error of a line
// wraps [ErrTorn] where it has no newline or is too long to be an event; any
// other error is r's, and the last.
func scan(r io.Reader) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		in := bufio.NewReaderSize(r, MaxLine)
		for {
			line, err := in.ReadSlice('\n')
			if errors.Is(err, bufio.ErrBufferFull) {
				for errors.Is(err, bufio.ErrBufferFull) {
					_, err = in.ReadSlice('\n')
				}
				line = nil
				if err == nil || err == io.EOF { // the end is met again at the next turn
					err = fmt.Errorf("%w: longer than %d bytes", ErrTorn, MaxLine)
				}
			}
			if err == io.EOF && len(line) > 0 {
				if !yield(nil, fmt.Errorf("%w: %d bytes without a newline", ErrTorn, len(line))) {
					return
				}
			}
			if err == io.EOF || !yield(line, err) || err != nil && !errors.Is(err, ErrTorn) {
				return
			}
		}
	}
}

// Read yields the events in dir, oldest first, for when the node is not running.
// An error that wraps [ErrTorn] names a line that was skipped; any other ends
// the sequence. A folder without a journal yields nothing.
func Read(dir string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		firsts, err := list(dir)
		if errors.Is(err, os.ErrNotExist) {
			return
		}
		if err != nil {
			yield(Event{}, fmt.Errorf("read journal: %w", err))
			return
		}
		for _, first := range firsts {
			if !readFile(filepath.Join(dir, fileName(first)), yield) {
				return
			}
		}
	}
}

func readFile(path string, yield func(Event, error) bool) (more bool) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) { // rotated away meanwhile
		return true
	}
	if err != nil {
		yield(Event{}, fmt.Errorf("read journal: %w", err))
		return false
	}
	defer f.Close()
	n := 0
	for line, err := range scan(f) {
		n++
		var e Event
		if err == nil {
			e, err = Parse(line)
		}
		if err != nil {
			err = fmt.Errorf("read journal: %s line %d: %w", filepath.Base(path), n, err)
		}
		if !yield(e, err) || err != nil && !errors.Is(err, ErrTorn) {
			return false
		}
	}
	return true
}
