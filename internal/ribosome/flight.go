package ribosome

import (
	"context"
	"errors"
	"io"
	"sync"
)

// flights lets callers who want the same build share one.
type flights struct {
	mu  sync.Mutex
	all map[string]*flight // by key; those that may still be joined
}

// flight is one build under way.
type flight struct {
	cancel   context.CancelCauseFunc
	progress fanout
	callers  int           // guarded by flights.mu
	done     chan struct{} // closed after what follows is set
	artefact Artefact
	err      error
}

// errAbandoned ends a build that nobody waits for any more.
var errAbandoned = errors.New("nobody waits for this build any more")

// do runs f once for all who call with the same key while it runs. f's context
// ends when the last caller has gone; that one waits for f.
func (s *flights) do(ctx context.Context, key string, progress io.Writer, f func(context.Context, io.Writer) (Artefact, error)) (Artefact, error) {
	s.mu.Lock()
	fl := s.all[key]
	if fl == nil {
		own, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		fl = &flight{cancel: cancel, done: make(chan struct{})}
		if s.all == nil {
			s.all = make(map[string]*flight)
		}
		s.all[key] = fl
		go func() {
			fl.artefact, fl.err = f(own, &fl.progress)
			cancel(nil)
			s.mu.Lock()
			s.forgetLocked(key, fl)
			s.mu.Unlock()
			close(fl.done)
		}()
	}
	fl.callers++
	s.mu.Unlock()
	leave := fl.progress.join(progress)
	defer leave()

	select {
	case <-fl.done:
		return fl.artefact, fl.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	fl.callers--
	last := fl.callers == 0
	if last {
		s.forgetLocked(key, fl) // who comes now starts anew
	}
	s.mu.Unlock()
	if last {
		fl.cancel(errAbandoned)
		<-fl.done
	}
	return Artefact{}, context.Cause(ctx)
}

func (s *flights) forgetLocked(key string, fl *flight) {
	if s.all[key] == fl {
		delete(s.all, key)
	}
}

// fanout writes to all who have joined; whoever fails is not asked again.
type fanout struct {
	mu sync.Mutex
	to map[*io.Writer]struct{}
}

// join adds a writer, which is not used any more once leave has returned.
func (f *fanout) join(w io.Writer) (leave func()) {
	if w == nil {
		return func() {}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.to == nil {
		f.to = make(map[*io.Writer]struct{})
	}
	f.to[&w] = struct{}{}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.to, &w)
	}
}

// Write never fails: a build does not end because somebody stopped listening.
func (f *fanout) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.to {
		if _, err := (*w).Write(b); err != nil {
			delete(f.to, w)
		}
	}
	return len(b), nil
}
