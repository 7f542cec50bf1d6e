package host

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
)

// sweepEvery is the time between two looks at relayed connections while there
// are superseded ones. One that has no stream at two looks in a row is closed:
// each end may have opened one that the other has not seen yet.
const sweepEvery = 5 * time.Second

// sweeper closes relayed connections that direct ones have replaced, once
// nothing is left on them: they would take relays' places, and keep-alives.
type sweeper struct {
	host *Host
	news chan struct{} // one token: there may be a superseded connection
}

func newSweeper(h *Host) *sweeper { return &sweeper{host: h, news: make(chan struct{}, 1)} }

// run sweeps until ctx ends. While nothing is superseded it does nothing.
func (s *sweeper) run(ctx context.Context) {
	for {
		select {
		case <-s.news:
		case <-ctx.Done():
			return
		}
		for idle := s.sweep(nil); idle != nil && ctx.Err() == nil; idle = s.sweep(idle) {
			rest(ctx, sweepEvery)
		}
	}
}

// sweep closes the superseded connections that are idle and were at the last
// look. It returns for those that are left whether they are idle; nil: there
// are none.
func (s *sweeper) sweep(was map[network.Conn]bool) map[network.Conn]bool {
	var left map[network.Conn]bool
	for _, c := range s.host.Network().Conns() {
		if !s.host.Superseded(c) {
			continue
		}
		idle := len(c.GetStreams()) == 0
		if idle && was[c] {
			_ = c.Close()
			continue
		}
		if left == nil {
			left = make(map[network.Conn]bool)
		}
		left[c] = idle
	}
	return left
}

// connected looks whether a new connection replaces others, or is replaced.
func (s *sweeper) connected(c network.Conn) {
	for _, o := range s.host.swarm.ConnsToPeer(c.RemotePeer()) {
		if o.Stat().Limited != c.Stat().Limited {
			select {
			case s.news <- struct{}{}:
			default:
			}
			return
		}
	}
}

// watchPeers notes where peers see this host, and makes relayed connections
// direct ones.
func (h *Host) watchPeers() error {
	sub, err := h.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted), eventbus.Name("peers"), eventbus.BufSize(64))
	if err != nil {
		return err
	}
	notes := &network.NotifyBundle{
		ConnectedF: func(_ network.Network, c network.Conn) {
			h.sweeper.connected(c)
			if c.Stat().Limited && c.Stat().Direction == network.DirOutbound {
				h.jobs.spawn(func(ctx context.Context) { h.punches.begin(ctx, c) })
			}
		},
		DisconnectedF: func(_ network.Network, c network.Conn) { h.seen.forget(c) },
	}
	h.Network().Notify(notes)
	h.SetStreamHandler(h.punches.protocol(), h.punches.answer)
	h.jobs.spawn(h.sweeper.run)
	h.jobs.spawn(func(ctx context.Context) {
		defer h.Network().StopNotify(notes)
		defer sub.Close()
		for {
			select {
			case e := <-sub.Out():
				if id := e.(event.EvtPeerIdentificationCompleted); id.ObservedAddr != nil {
					h.seen.add(id.Conn, id.ObservedAddr)
				}
				if h.nat != nil {
					h.nat.look()
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return nil
}
