package frame

import (
	"errors"
	"io"
	"runtime"
	"sync"
)

// Bounds of what waits to be written.
const (
	maxQueue   = 256 << 10 // bytes from which on a new frame waits for room
	maxRefused = 4096      // refusals that a peer may leave unread
	keepBuffer = 64 << 10  // bytes of a buffer that an idle connection may keep
	poolBuffer = 512 << 10 // bytes of a larger buffer, which connections share
)

var errFlood = errors.New("peer floods requests and does not read the answers")

// large holds buffers of poolBuffer bytes for the batches that need more than keepBuffer.
var large = sync.Pool{New: func() any { b := make([]byte, 0, poolBuffer); return &b }}

// queue collects frames and writes all that have come together in one go.
type queue struct {
	wake sync.Cond // on mu: something to write, or closed

	mu      sync.Mutex    // guards all below
	buf     []byte        // frames of the next batch
	spare   []byte        // a buffer for the batch after that
	frames  int           // in buf
	refused int           // refusals in buf
	batch   uint64        // number of the next batch
	busy    bool          // a batch is being written
	room    chan struct{} // closed when a batch has been written; nil while nobody waits
	closed  bool
}

func (q *queue) init() { q.wake.L = &q.mu }

// put queues a frame and returns the number of its batch. It waits while the
// queue is full, until done; ok is false when it gave up or the queue was closed.
func (q *queue) put(done <-chan struct{}, h header, meta string, body []byte) (batch uint64, ok bool) {
	q.mu.Lock()
	for len(q.buf) >= maxQueue && !q.closed {
		room := q.roomLocked()
		q.mu.Unlock()
		select {
		case <-room:
		case <-done:
			return 0, false
		}
		q.mu.Lock()
	}
	if q.closed {
		q.mu.Unlock()
		return 0, false
	}
	q.addLocked(h, meta, body)
	batch = q.batch
	q.mu.Unlock()
	return batch, true
}

// post queues a small frame without ever waiting.
func (q *queue) post(h header) {
	q.mu.Lock()
	if !q.closed {
		q.addLocked(h, "", nil)
	}
	q.mu.Unlock()
}

// refuse queues an error response without ever waiting. It fails when the
// peer left too many of them unread.
func (q *queue) refuse(call uint64, e *Error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.refused++; q.refused > maxRefused {
		return errFlood
	}
	if !q.closed {
		h, message, hint := errorFrame(call, e)
		q.addLocked(h, hint, message)
	}
	return nil
}

func (q *queue) addLocked(h header, meta string, body []byte) {
	h.meta = uint16(len(meta))
	h.length = uint32(len(meta) + len(body))
	if need := len(q.buf) + HeaderSize + int(h.length); need > cap(q.buf) && need > keepBuffer && need <= poolBuffer {
		q.buf = append((*large.Get().(*[]byte))[:0], q.buf...)
	}
	q.buf = h.append(q.buf)
	q.buf = append(q.buf, meta...)
	q.buf = append(q.buf, body...)
	q.frames++
	if !q.busy && q.frames == 1 {
		q.wake.Signal()
	}
}

func (q *queue) roomLocked() <-chan struct{} {
	if q.room == nil {
		q.room = make(chan struct{})
	}
	return q.room
}

// written reports whether a batch, or part of it, may have reached the connection.
func (q *queue) written(batch uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return batch < q.batch
}

// flush waits until all that is queued has been written, the queue is closed or done.
func (q *queue) flush(done <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for (q.busy || len(q.buf) > 0) && !q.closed {
		room := q.roomLocked()
		q.mu.Unlock()
		select {
		case <-room:
			q.mu.Lock()
		case <-done:
			q.mu.Lock()
			return
		}
	}
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake.Signal()
	q.releaseLocked()
}

func (q *queue) releaseLocked() {
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
}

// run writes batches until the queue is closed or a write fails.
func (q *queue) run(w io.Writer) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		for len(q.buf) == 0 && !q.closed {
			q.wake.Wait()
		}
		if q.closed {
			return nil
		}
		for n := 0; n < q.frames && len(q.buf) < maxQueue; { // let who is ready join this batch
			n = q.frames
			q.mu.Unlock()
			runtime.Gosched()
			q.mu.Lock()
		}
		b := q.buf
		q.buf, q.frames, q.refused, q.busy = q.spare[:0], 0, 0, true
		q.batch++
		q.mu.Unlock()
		_, err := w.Write(b)
		q.mu.Lock()
		q.busy, q.spare = false, nil
		switch {
		case cap(b) <= keepBuffer:
			q.spare = b[:0]
		case cap(b) == poolBuffer:
			shared := b // so that only here a header is allocated
			large.Put(&shared)
		}
		q.releaseLocked()
		if err != nil {
			return err
		}
	}
}
