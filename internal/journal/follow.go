package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
)

// Follow yields the events after sequence number after (0: from the oldest
// kept), then new ones as they are appended, until ctx ends or the journal is
// closed. It holds one line and one open file, however slow the consumer is.
// Where events have been removed with their file before they could be shown, or
// their lines are damaged, one event of kind [Gap], numbered like the last of
// them and stored nowhere, stands for them.
func (j *Journal) Follow(ctx context.Context, after uint64) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		f := follower{journal: j, seen: after}
		defer f.close()
		for ctx.Err() == nil {
			limit, final, changed, err := f.position()
			more := true
			if err == nil {
				more, err = f.deliver(limit, yield)
			}
			if err != nil {
				yield(j.gap(f.seen+1, f.seen+1, fmt.Sprintf("the journal cannot be read on: %v", err)))
				return
			}
			if !more {
				return
			}
			switch {
			case final:
				f.close()
			case changed == nil: // closed
				return
			default:
				select {
				case <-changed:
				case <-ctx.Done():
				}
			}
		}
	}
}

// Wait returns the first event that match accepts, of those kept or still to
// come. Errors are ctx's, or [ErrClosed]. Look for what happens from now on by
// comparing with [Journal.Last].
func (j *Journal) Wait(ctx context.Context, match func(Event) bool) (Event, error) {
	for e := range j.Follow(ctx, 0) {
		if match(e) {
			return e, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return Event{}, fmt.Errorf("wait for event: %w", context.Cause(ctx))
	}
	return Event{}, fmt.Errorf("wait for event: %w", ErrClosed)
}

// follower is one reader's place in the journal.
type follower struct {
	journal *Journal
	seen    uint64 // last event yielded
	file    *os.File
	first   uint64 // names file; 0 before the first
	offset  int64  // in file, of the next line
}

// position opens the file to read, if there is one, and says up to where it
// may be read, whether it will never grow, and what is closed when there is
// more; changed is nil where there never will be.
func (f *follower) position() (limit int64, final bool, changed <-chan struct{}, err error) {
	j := f.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	if f.file == nil {
		if err := f.openLocked(); err != nil {
			return 0, false, nil, err
		}
	}
	if f.file != nil && f.first != j.files[len(j.files)-1] {
		st, err := f.file.Stat()
		if err != nil {
			return 0, false, nil, err
		}
		return st.Size(), true, nil, nil
	}
	if f.file != nil {
		limit = j.size
	}
	if !j.closed {
		if j.changed == nil {
			j.changed = make(chan struct{})
		}
		changed = j.changed
	}
	return limit, false, changed, nil
}

// openLocked opens the file that holds the event after seen, or the next one
// kept. It leaves f.file nil where there is no file after the last one read.
func (f *follower) openLocked() error {
	for {
		next := uint64(0)
		for _, first := range f.journal.files {
			if first > f.first && (next == 0 || first <= f.seen+1) {
				next = first
			}
		}
		if next == 0 {
			return nil
		}
		file, err := os.Open(f.journal.path(next))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		f.first, f.offset = next, 0
		if err == nil { // else somebody else removed it: try the one after
			f.file = file
			return nil
		}
	}
}

// deliver yields the events between offset and limit; more is false once the
// consumer has had enough.
func (f *follower) deliver(limit int64, yield func(Event) bool) (more bool, err error) {
	if f.file == nil {
		return true, nil
	}
	for line, err := range scan(io.NewSectionReader(f.file, f.offset, limit-f.offset)) {
		if errors.Is(err, ErrTorn) {
			continue
		}
		if err != nil {
			return false, err
		}
		e, err := Parse(line)
		if err != nil || e.Seq <= f.seen {
			continue
		}
		if f.seen > 0 && e.Seq > f.seen+1 {
			lost := f.journal.gap(f.seen+1, e.Seq-1, fmt.Sprintf("%d events are lost", e.Seq-1-f.seen))
			if !yield(lost) {
				return false, nil
			}
		}
		f.seen = e.Seq
		if !yield(e) {
			return false, nil
		}
	}
	f.offset = limit
	return true, nil
}

func (f *follower) close() {
	if f.file != nil {
		_ = f.file.Close()
		f.file = nil
	}
}

func (j *Journal) gap(from, to uint64, text string) Event {
	return Event{
		Node: j.node, Seq: to, Time: j.Now(), Kind: Gap, Text: text,
		Data: map[string]any{"from": from, "to": to},
	}
}
