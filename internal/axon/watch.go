package axon

import (
	"context"
	"time"

	"cell.network/cell/internal/frame"
)

// A node that loses its power tells nobody, and QUIC takes its idle time of 15 s
// to notice. While calls wait and nothing comes back, the node is probed on a
// stream of its own, which no large body can hold up.
const (
	silence   = time.Second     // without any answer, then a probe is sent
	probeTime = 2 * time.Second // for the answer to a probe
	maxProbes = 2               // unanswered ones in a row, then the connection is given up
)

// watchLocked sees to it that somebody watches while calls are in flight.
func (p *remote) watchLocked() {
	if p.watched {
		return
	}
	p.watched = true
	p.heard = time.Now()
	p.axon.work.Go(p.watch)
}

// watch ends when no call is in flight any more.
func (p *remote) watch() {
	tick := time.NewTicker(silence)
	defer tick.Stop()
	for missed := 0; ; {
		select {
		case <-tick.C:
		case <-p.axon.ctx.Done():
			return
		}
		p.mu.Lock()
		p.buryLocked()
		waiting := 0
		for _, l := range p.lanes {
			waiting += l.users
		}
		p.watched = waiting > 0
		quiet := time.Since(p.heard) >= silence
		p.mu.Unlock()
		switch {
		case waiting == 0:
			return
		case !quiet:
			missed = 0
			continue
		case p.probe():
			missed = 0
			p.mu.Lock()
			p.heard = time.Now()
			p.mu.Unlock()
			continue
		}
		if missed++; missed == maxProbes {
			missed = 0
			_ = p.axon.host.Network().ClosePeer(p.id)
		}
	}
}

// probe asks the node for a sign of life; a refusal is one, too.
func (p *remote) probe() bool {
	ctx, cancel := context.WithTimeout(p.axon.ctx, probeTime)
	defer cancel()
	if s, err := p.axon.host.Open(ctx, p.id, p.axon.proto); err == nil {
		c := frame.NewConn(&outward{Stream: s}, frame.Config{})
		defer c.Close()
		_, _ = c.Call(ctx, frame.Request{})
	}
	return ctx.Err() == nil
}
