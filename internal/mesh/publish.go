package mesh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cell.network/cell/internal/record"
)

// publish puts the newest lease into the DHT and retries until it is there, is
// replaced, or, if it is a tombstone, its time is up. It never holds the
// lease's lock while it waits, so that the LAN is told whatever the DHT does.
func (l *Lease) publish() {
	defer close(l.ended)
	wait := l.m.cfg.RetryMin
	for {
		failed := l.attempt()
		if l.over(failed, wait) {
			return
		}
		var again <-chan time.Time
		if failed {
			again = time.After(l.m.jitter(wait))
		}
		select {
		case <-again:
			wait = min(2*wait, l.m.cfg.RetryMax)
		case <-l.retry:
			wait = l.m.cfg.RetryMin
		case <-l.fresh:
			wait = l.m.cfg.RetryMin
		case <-l.m.ctx.Done():
			l.halt()
			return
		}
	}
}

// attempt puts what there is to put, once. It reports whether that failed and
// is to be tried again later.
func (l *Lease) attempt() (failed bool) {
	l.mu.Lock()
	select {
	case <-l.fresh: // it is about to be put
	default:
	}
	lease := l.next
	if lease.Raw == nil {
		l.mu.Unlock()
		return false
	}
	limit := time.Now().Add(l.m.cfg.PutTimeout)
	if l.state.Phase == Withdrawn && l.farewell.Before(limit) {
		limit = l.farewell
	}
	ctx, cancel := context.WithDeadline(l.m.ctx, limit)
	defer cancel()
	l.cancelPut, l.tried = cancel, true
	l.mu.Unlock()

	holders, err := l.m.cfg.WAN.Put(ctx, lease)

	l.mu.Lock()
	defer l.mu.Unlock()
	if holders > 0 || ctx.Err() != nil {
		l.doubt = true
	}
	if l.m.ctx.Err() != nil || l.next.Raw == nil || l.next.Order != lease.Order {
		return false // stopped, or there is a newer one
	}
	s := l.state
	s.Holders = holders
	switch {
	case err != nil:
		s.Err = err
	case holders == 0:
		s.Err = fmt.Errorf("put lease of %s: %w", l.cell.Short(), ErrNoHolders)
	default:
		s.Err = nil
	}
	if s.Phase == Withdrawn && !l.doubt {
		s.Err = nil // nobody holds what the tombstone would withdraw
	}
	if s.Err == nil {
		l.next = record.Lease{}
	}
	switch {
	case s.Phase == Withdrawn:
	case s.Err == nil:
		s.Phase = Held
	default:
		s.Phase = Failing
	}
	l.setLocked(s)
	return s.Err != nil
}

// over reports whether a withdrawn lease has nothing more to say, or no time to say it.
func (l *Lease) over(failed bool, wait time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.Phase == Withdrawn &&
		(l.next.Raw == nil || failed && time.Now().Add(wait).After(l.farewell))
}

// halt records that the mesh stopped before the announcement had ended.
func (l *Lease) halt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.state
	s.Err = errors.Join(ErrStopped, s.Err)
	if s.Phase != Withdrawn {
		s.Phase = Failing
	}
	l.shown.Store(nil)
	l.setLocked(s)
}
