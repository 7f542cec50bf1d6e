// Package journal keeps the events of one node, one line of JSON each, in
// append-only files that rotate.
//
// A file is named journal-N.ndjson, N being the sequence number of its first
// event in 20 digits. A line is one event, at most [MaxLine] bytes with its
// newline, written by one write(2):
//
//	{"node":"z6Mk…"                      who says so: a node's key
//	,"seq":17                            1, 2, 3, …: no number is used twice or left out
//	,"time":"2026-08-22T10:11:12.123456789Z_00000"
//	,"kind":"spawn"                      one of [Kinds]
//	,"cause":"ta2doK-16"                 id of the event that led to this one; absent: none
//	,"cell":"greeter@z6Mk…"              the cell concerned; absent: none
//	,"text":"started replica 1"          for people, at most [MaxText] bytes
//	,"data":{"pid":4711}}                for programs; absent: none
//
// An event's id is the last 6 characters of its node's key, a hyphen and seq.
// Readers ignore members that they do not know.
//
// The time is a hybrid logical clock: the highest wall clock seen so far, UTC
// with 9 decimals, an underscore, and in 5 digits a counter of the events at
// that very time. Stamps have a fixed length, so they sort as text; an event
// that follows from another node's, whose stamp was given to [Journal.Observe],
// sorts after it.
//
// A process that dies while it writes leaves at most one line without an end:
// [Open] cuts it off and says so in an event, [Read] reports it. Lines damaged
// otherwise are skipped: [Read] reports each, [Journal.Follow] the gap that
// they leave.
package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// What [Journal.Append] promises to report.
var (
	ErrKind   = errors.New("unregistered kind of event")
	ErrLong   = errors.New("event too long")
	ErrClosed = errors.New("journal is closed")
)

// Options bound what a journal takes of the disk: MaxFile × MaxFiles.
type Options struct {
	MaxFile  int64 // bytes of one file; default 8 MiB
	MaxFiles int   // files kept, at least 2; default 8
}

func (o Options) withDefaults() (Options, error) {
	if o.MaxFile == 0 {
		o.MaxFile = 8 << 20
	}
	if o.MaxFiles == 0 {
		o.MaxFiles = 8
	}
	if o.MaxFile < 0 || o.MaxFiles < 2 {
		return o, fmt.Errorf("%d files of %d bytes: a journal needs two files", o.MaxFiles, o.MaxFile)
	}
	return o, nil
}

// Journal appends to the files of one folder; one process at a time may. It is
// safe for concurrent use.
type Journal struct {
	dir, node string
	options   Options
	open      func(path string) (file, error) // for appending

	mu      sync.Mutex // guards what follows
	clock   clock
	seq     uint64        // of the last event
	files   []uint64      // their first events, ascending
	out     file          // the last of files; nil: none, or it could not be made
	size    int64         // bytes of the last of files that hold whole events
	ragged  bool          // the last of files holds bytes after size
	changed chan struct{} // closed at the next append, or at Close; nil: nobody waits
	closed  bool
}

// file is what the journal needs of an [os.File] opened with O_APPEND.
type file interface {
	Write(p []byte) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

func openFile(path string) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}

// Open continues the journal of node (its key's text form) in dir, or starts
// one. What a crash left after the last whole event is cut off, which is an
// event of kind [Cut].
func Open(dir, node string, o Options) (*Journal, error) { return open(dir, node, o, openFile) }

func open(dir, node string, o Options, openFile func(string) (file, error)) (*Journal, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if node == "" {
		return nil, errors.New("open journal: it belongs to no node")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{dir: dir, node: node, options: o, open: openFile}
	cut, stepped, err := j.recover()
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if cut > 0 {
		_, err = j.Append(Cut, "", "", fmt.Sprintf("cut %d bytes that a crash left after event %d", cut, j.seq),
			map[string]any{"bytes": cut})
	}
	if stepped > 0 && err == nil {
		_, err = j.Append(Clock, "", "", fmt.Sprintf("the clock is %v behind the last event of the journal", stepped.Round(time.Second)),
			map[string]any{"behind_ms": stepped.Milliseconds()})
	}
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// recover finds where the journal left off. It returns how many bytes it cut,
// and by how much the last event is ahead of this clock where that is too much
// to go on from.
func (j *Journal) recover() (cut int64, stepped time.Duration, err error) {
	if j.files, err = list(j.dir); err != nil || len(j.files) == 0 {
		return 0, 0, err
	}
	if err := j.prune(j.options.MaxFiles); err != nil {
		return 0, 0, err
	}
	last := j.files[len(j.files)-1]
	j.seq = last - 1
	var tail Event
	for i := len(j.files) - 1; i >= 0; i-- {
		event, whole, rest, err := lastEvent(j.path(j.files[i]))
		if err != nil {
			return 0, 0, err
		}
		if j.files[i] == last {
			j.size, cut = whole, rest
		}
		if event.Seq > 0 {
			tail = event
			break
		}
	}
	j.seq = max(j.seq, tail.Seq)
	if s, err := ParseStamp(tail.Time); err == nil {
		if stepped = time.Until(s.wallTime()); stepped > MaxSkew {
			return cut, stepped, j.reopen(cut)
		}
		j.clock.last = s
	}
	return cut, 0, j.reopen(cut)
}

func (j *Journal) reopen(cut int64) (err error) {
	if j.out, err = j.open(j.path(j.files[len(j.files)-1])); err != nil || cut == 0 {
		return err
	}
	return j.out.Truncate(j.size)
}

// Append writes one event and returns its id. Text longer than [MaxText] is
// clipped. Errors wrap [ErrKind], [ErrLong] where data makes the line longer
// than [MaxLine], [ErrClosed], or the system's; after any of them the journal
// is as it was before, and a later call tries again.
func (j *Journal) Append(kind Kind, cause, cell, text string, data map[string]any) (id string, err error) {
	if !kind.Known() {
		return "", fmt.Errorf("append event: %w: %q", ErrKind, kind)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return "", fmt.Errorf("append event: %w", ErrClosed)
	}
	e := Event{
		Node: j.node, Seq: j.seq + 1, Time: j.clock.now(time.Now()).String(),
		Kind: kind, Cause: cause, Cell: cell, Text: clip(text), Data: data,
	}
	line, err := e.line()
	if err != nil {
		return "", fmt.Errorf("append event: %w", err)
	}
	if limit := min(MaxLine, j.options.MaxFile); int64(len(line)) > limit {
		return "", fmt.Errorf("append event: %w: %d bytes, %d are allowed", ErrLong, len(line), limit)
	}
	if err := j.writeLocked(line); errors.Is(err, syscall.ENOSPC) {
		return "", fmt.Errorf("append event: the disk that holds %s is full: %w", j.dir, err)
	} else if err != nil {
		return "", fmt.Errorf("append event: %w", err)
	}
	j.seq++
	j.wakeLocked()
	return e.ID(), nil
}

func (j *Journal) writeLocked(line []byte) error {
	if j.out == nil || j.size > 0 && j.size+int64(len(line)) > j.options.MaxFile {
		if err := j.rotateLocked(); err != nil {
			return err
		}
	}
	if j.ragged {
		if err := j.out.Truncate(j.size); err != nil {
			return err
		}
		j.ragged = false
	}
	if n, err := j.out.Write(line); err != nil {
		j.ragged = n > 0 && j.out.Truncate(j.size) != nil
		return err
	}
	j.size += int64(len(line))
	return nil
}

// rotateLocked starts a new file. The oldest goes first, so that the bound on the disk always holds.
func (j *Journal) rotateLocked() error {
	if j.out != nil {
		if j.ragged {
			if err := j.out.Truncate(j.size); err != nil {
				return err
			}
			j.ragged = false
		}
		_ = j.out.Close() // what a write promised, it has kept
		j.out = nil
	}
	if err := j.prune(j.options.MaxFiles - 1); err != nil {
		return err
	}
	first := j.seq + 1
	out, err := j.open(j.path(first))
	if err != nil {
		return err
	}
	j.files = append(j.files, first)
	j.out, j.size = out, 0
	return nil
}

// prune removes the oldest files until keep are left. Locked by the caller.
func (j *Journal) prune(keep int) error {
	for len(j.files) > keep {
		if err := os.Remove(j.path(j.files[0])); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		j.files = slices.Delete(j.files, 0, 1)
	}
	return nil
}

func (j *Journal) path(first uint64) string { return filepath.Join(j.dir, fileName(first)) }

func (j *Journal) wakeLocked() {
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
}

// Last returns the sequence number of the last event, 0 before the first.
func (j *Journal) Last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.seq
}

// Now returns the stamp of something that happens now, for a message to another node.
func (j *Journal) Now() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.clock.now(time.Now()).String()
}

// Observe takes note of the stamp of another node's event: what is appended
// from now on has a later one. Errors wrap [ErrStamp]; a stamp more than
// [MaxSkew] ahead of this clock is refused, so that nobody can drag it along.
func (j *Journal) Observe(stamp string) error {
	s, err := ParseStamp(stamp)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.clock.observe(s, time.Now())
}

// Close makes the events durable and ends all followers once they have
// delivered what was appended before. It may be called twice.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil
	}
	j.closed = true
	j.wakeLocked()
	if j.out == nil {
		return nil
	}
	if err := errors.Join(j.out.Sync(), j.out.Close()); err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}
