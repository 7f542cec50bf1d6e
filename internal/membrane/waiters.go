package membrane

import "sync"

// waiters matches answers to questions by number.
type waiters[T any] struct {
	limit int // questions at once

	mu   sync.Mutex // guards all below
	last uint64
	open map[uint64]chan T
}

// ask returns a new number and where its answer arrives; ok is false when too many wait.
func (w *waiters[T]) ask() (seq uint64, answer <-chan T, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.open) >= w.limit {
		return 0, nil, false
	}
	if w.open == nil {
		w.open = make(map[uint64]chan T)
	}
	w.last++
	c := make(chan T, 1)
	w.open[w.last] = c
	return w.last, c, true
}

// answer delivers v; it is false when nobody waits for that number.
func (w *waiters[T]) answer(seq uint64, v T) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.open[seq]
	if ok {
		delete(w.open, seq)
		c <- v
	}
	return ok
}

// forget gives a question up; it is false when the answer has arrived already.
func (w *waiters[T]) forget(seq uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.open[seq]
	delete(w.open, seq)
	return ok
}
