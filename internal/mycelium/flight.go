package mycelium

import (
	"context"
	"errors"
	"sync"
)

// flights lets callers who want the same release share one fetch. The zero
// flights is ready to use.
type flights struct {
	mu  sync.Mutex         // guards what follows, and callers of each
	all map[string]*flight // those that may still be joined
}

type flight struct {
	cancel  context.CancelCauseFunc
	callers int

	telling sync.Mutex // guards steps, and is held while they are called
	steps   map[*func(Step)]struct{}

	done    chan struct{} // closed after what follows is set
	release Release
	err     error
}

// errAbandoned ends a fetch that nobody waits for any more.
var errAbandoned = errors.New("nobody waits for this fetch any more")

// do runs f once for all who call with the same key while it runs. f's context
// ends when the last caller has gone; that one waits for f.
func (s *flights) do(ctx context.Context, key string, progress func(Step), f func(context.Context, func(Step)) (Release, error)) (Release, error) {
	if progress == nil {
		progress = func(Step) {}
	}
	s.mu.Lock()
	fl := s.all[key]
	if fl == nil {
		own, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		// Whoever begins it hears its first step.
		fl = &flight{cancel: cancel, done: make(chan struct{}), steps: map[*func(Step)]struct{}{&progress: {}}}
		if s.all == nil {
			s.all = make(map[string]*flight)
		}
		s.all[key] = fl
		go func() {
			fl.release, fl.err = f(own, fl.report)
			cancel(nil)
			s.mu.Lock()
			s.forgetLocked(key, fl)
			s.mu.Unlock()
			close(fl.done)
		}()
	}
	fl.callers++
	s.mu.Unlock()
	fl.telling.Lock()
	fl.steps[&progress] = struct{}{}
	fl.telling.Unlock()

	var err error
	select {
	case <-fl.done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	fl.telling.Lock()
	delete(fl.steps, &progress)
	fl.telling.Unlock()
	s.mu.Lock()
	fl.callers--
	last := fl.callers == 0
	if last {
		s.forgetLocked(key, fl) // who comes now starts anew
	}
	s.mu.Unlock()
	if err != nil && last {
		fl.cancel(errAbandoned)
		<-fl.done
	}
	if err != nil {
		return Release{}, err
	}
	return fl.release, fl.err
}

func (s *flights) forgetLocked(key string, fl *flight) {
	if s.all[key] == fl {
		delete(s.all, key)
	}
}

// report tells all callers; none is told anything after its call has returned.
func (fl *flight) report(st Step) {
	fl.telling.Lock()
	defer fl.telling.Unlock()
	for f := range fl.steps {
		(*f)(st)
	}
}
