package frame

import "time"

// Bounds of the goroutines that wait for the next call. A goroutine that has
// served one keeps its grown stack: growing one anew costs more than all else
// that is done for a call.
const (
	maxIdle   = 64               // per connection
	sweepIdle = 10 * time.Second // a goroutine that was not needed for so long ends
)

// workers keeps goroutines between calls. Its fields are guarded by server.mu.
type workers struct {
	work  chan *inbound // nil ends the one that receives it; made with the server
	idle  int           // that wait, or are about to
	low   int           // the lowest idle since the last sweep: these were not needed
	sweep *time.Timer   // nil while none is idle
}

// start serves a call on a goroutine that waits, or on a new one.
func (s *server) start(in *inbound) {
	s.mu.Lock()
	waits := s.pool.idle > 0
	if waits {
		s.pool.idle--
		s.pool.low = min(s.pool.low, s.pool.idle)
	}
	s.mu.Unlock()
	if waits {
		s.pool.work <- in
		return
	}
	go func() {
		for in != nil && in.run() {
			in = <-s.pool.work
		}
	}()
}

// keepLocked reports whether a goroutine that has served its call shall wait for the next one.
func (s *server) keepLocked() bool {
	if s.err != nil || s.pool.idle >= maxIdle {
		return false
	}
	s.pool.idle++
	if s.pool.sweep == nil {
		s.pool.low = 0
		s.pool.sweep = time.AfterFunc(sweepIdle, s.sweepIdle)
	}
	return true
}

// sweepIdle ends the goroutines that were not needed since the last time.
func (s *server) sweepIdle() {
	s.mu.Lock()
	n := s.pool.low
	s.pool.idle -= n
	s.pool.low = s.pool.idle
	if s.pool.idle > 0 && s.err == nil {
		s.pool.sweep.Reset(sweepIdle)
	} else {
		s.pool.sweep = nil
	}
	s.mu.Unlock()
	s.dismiss(n)
}

// dismissLocked takes all goroutines that wait out of the count; dismiss them after unlocking.
func (s *server) dismissLocked() (n int) {
	if s.pool.sweep != nil {
		s.pool.sweep.Stop()
	}
	n, s.pool.idle, s.pool.low = s.pool.idle, 0, 0
	return n
}

func (s *server) dismiss(n int) {
	for range n {
		s.pool.work <- nil
	}
}
