package host

import (
	"context"
	"sync"
)

// jobs are what a host does in the background, until it closes.
type jobs struct {
	ctx    context.Context // ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool // guarded by mu
}

func newJobs() *jobs {
	j := &jobs{}
	j.ctx, j.cancel = context.WithCancel(context.Background())
	return j
}

// spawn runs f beside the rest, unless the host closes. f ends with its context.
func (j *jobs) spawn(f func(context.Context)) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return false
	}
	j.wg.Go(func() { f(j.ctx) })
	return true
}

// Close ends all and waits for them.
func (j *jobs) Close() error {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.cancel()
	j.wg.Wait()
	return nil
}
