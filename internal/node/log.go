package node

import (
	"bytes"
	"context"
	"iter"
	"sync"
)

// maxLog bounds what is kept of the output of a cell's replicas, in bytes.
const maxLog = 256 << 10

// replicaLog keeps the last output of a cell's replicas in memory, whole lines,
// and hands it to followers. It is safe for concurrent use.
type replicaLog struct {
	mu      sync.Mutex
	text    []byte        // guarded by mu: whole lines and a last, unfinished one
	start   int64         // offset of text[0] since the beginning; guarded by mu
	changed chan struct{} // closed and replaced at every write; guarded by mu
}

func newReplicaLog() *replicaLog { return &replicaLog{changed: make(chan struct{})} }

// Write implements [io.Writer] and never fails.
func (l *replicaLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if over := len(l.text) - maxLog; over > 0 {
		if nl := bytes.IndexByte(l.text[over:], '\n'); nl >= 0 {
			over += nl + 1
		}
		l.text = append(l.text[:0:0], l.text[over:]...)
		l.start += int64(over)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return len(p), nil
}

// maxTail bounds what an error shows of a log, in bytes.
const maxTail = 1024

// tail returns the last lines.
func (l *replicaLog) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.text
	if len(t) > maxTail {
		t = t[len(t)-maxTail:]
		if nl := bytes.IndexByte(t, '\n'); nl >= 0 {
			t = t[nl+1:]
		}
	}
	return string(bytes.TrimSpace(t))
}

// follow yields what is kept and then, if asked, what comes, until ctx ends.
func (l *replicaLog) follow(ctx context.Context, more bool) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for at := int64(0); ; {
			l.mu.Lock()
			at = max(at, l.start)
			chunk := bytes.Clone(l.text[at-l.start:])
			changed := l.changed
			l.mu.Unlock()
			at += int64(len(chunk))
			if len(chunk) > 0 && !yield(chunk) {
				return
			}
			if !more {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}
