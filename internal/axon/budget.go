package axon

import (
	"context"
	"sync"
)

// budget is an amount that several share.
type budget struct {
	mu   sync.Mutex // guards what follows
	free int
	came chan struct{} // closed when some came free; nil while nobody waits
}

// try takes n if they are free.
func (b *budget) try(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.free < n {
		return false
	}
	b.free -= n
	return true
}

// wait takes n, as soon as they are free or not at all.
func (b *budget) wait(ctx context.Context, n int) error {
	for {
		b.mu.Lock()
		if b.free >= n {
			b.free -= n
			b.mu.Unlock()
			return nil
		}
		if b.came == nil {
			b.came = make(chan struct{})
		}
		came := b.came
		b.mu.Unlock()
		select {
		case <-came:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// give returns n.
func (b *budget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	if b.came != nil {
		close(b.came)
		b.came = nil
	}
}
