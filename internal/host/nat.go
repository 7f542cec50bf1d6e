package host

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	ma "github.com/multiformats/go-multiaddr"
)

// natCheck is how often the host looks at its reachability without a reason.
const natCheck = 30 * time.Second

// nat is what a host that may sit behind an address translator does about it.
type nat struct {
	host    *Host
	basic   *basichost.BasicHost
	probe   *probe
	seen    *sightings
	met     *acquaintances
	places  *places
	punches *punches
	mapper  basichost.NATManager // nil: no router is asked for ports
	forced  string               // Unknown: found out
	relay   Choice
	emitter event.Emitter // of the verdict, for libp2p's other parts
	ready   atomic.Bool   // the host is put together
	news    chan struct{} // one token: decide now

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex // guards what follows
	closed bool
	mapped []ma.Multiaddr // ports that the router gave, and addresses of the settings

	// of decide only
	verdict network.Reachability
	told    [][]byte // what LeaseAddrs said when Changed was last told
}

// spawn runs f beside the rest, unless the host closes. f ends with its context.
func (n *nat) spawn(f func(context.Context)) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.wg.Go(func() { f(n.ctx) })
	return true
}

// look makes the host look at its reachability soon.
func (n *nat) look() {
	select {
	case n.news <- struct{}{}:
	default:
	}
}

// start begins to watch.
func (n *nat) start() error {
	var err error
	if n.emitter, err = n.host.EventBus().Emitter(new(event.EvtLocalReachabilityChanged), eventbus.Stateful); err != nil {
		return err
	}
	sub, err := n.host.EventBus().Subscribe([]any{
		new(event.EvtPeerIdentificationCompleted), new(event.EvtLocalAddressesUpdated),
		new(event.EvtHostReachableAddrsChanged), new(event.EvtPeerProtocolsUpdated),
	}, eventbus.Name("reach"), eventbus.BufSize(64))
	if err != nil {
		return err
	}
	notes := &network.NotifyBundle{ConnectedF: n.connected, DisconnectedF: n.disconnected}
	n.host.Network().Notify(notes)
	n.host.SetStreamHandler(n.punches.protocol(), n.punches.answer)
	n.host.SetStreamHandler(n.seenProtocol(), n.tellSeen)
	n.spawn(n.places.run)
	n.spawn(n.watchSeen)
	n.spawn(n.decisions)
	n.spawn(func(ctx context.Context) {
		defer n.host.Network().StopNotify(notes)
		defer sub.Close()
		for {
			select {
			case e := <-sub.Out():
				if id, ok := e.(event.EvtPeerIdentificationCompleted); ok && id.ObservedAddr != nil {
					n.seen.add(id.Conn, id.ObservedAddr)
				}
				n.look()
			case <-ctx.Done():
				return
			}
		}
	})
	return nil
}

// decisions draws conclusions whenever there is news.
func (n *nat) decisions(ctx context.Context) {
	check := time.NewTicker(natCheck)
	defer check.Stop()
	defer n.emitter.Close()
	for {
		n.decide()
		select {
		case <-n.news:
		case <-check.C:
			n.prune()
		case <-ctx.Done():
			return
		}
	}
}

// decide says what the verdict is, and begins or ends to relay for others.
func (n *nat) decide() {
	if n.mapper != nil {
		mapped := slices.Clone(n.host.announce)
		for _, a := range n.host.swarm.ListenAddresses() {
			if to := n.mapper.GetMapping(a); to != nil && isQUIC(to) {
				mapped = append(mapped, to)
			}
		}
		n.mu.Lock()
		n.mapped = mapped
		n.mu.Unlock()
	}
	r := n.host.Reach()
	verdict := map[string]network.Reachability{Yes: network.ReachabilityPublic, No: network.ReachabilityPrivate}[r.Public]
	if verdict != n.verdict {
		n.verdict = verdict
		_ = n.emitter.Emit(event.EvtLocalReachabilityChanged{Reachability: verdict})
		n.host.log.Info("reachability", "public", r.Public, "why", r.Why)
	}
	n.places.need(r.Public == No || r.Public == Unknown && r.Translated != "")
	changed, err := n.host.volunteer.set(n.relay == On || n.relay == Auto && r.Public == Yes)
	if err != nil {
		n.host.log.Warn("relay for others", "err", err)
	}
	addrs := n.host.LeaseAddrs(false)
	if changed || !slices.EqualFunc(addrs, n.told, slices.Equal) {
		n.told = addrs
		n.host.changed()
	}
}

// mappings returns the addresses that are the node's own without being those of
// its interfaces.
func (n *nat) mappings() []ma.Multiaddr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.mapped)
}

func (n *nat) connected(_ network.Network, c network.Conn) {
	if isQUIC(c.RemoteMultiaddr()) {
		n.met.connected(c)
	} else if c.Stat().Direction == network.DirOutbound {
		n.spawn(func(ctx context.Context) { n.punches.begin(ctx, c) })
	}
}

func (n *nat) disconnected(net network.Network, c network.Conn) {
	n.seen.forget(c)
	n.met.disconnected(c)
	if net.Connectedness(c.RemotePeer()) != network.Connected {
		n.places.lost(c.RemotePeer())
		n.host.volunteer.gone(c.RemotePeer())
	}
}

// prune closes relayed connections that nothing uses and that direct ones replace.
func (n *nat) prune() {
	for _, c := range n.host.Network().Conns() {
		if n.host.Superseded(c) && len(c.GetStreams()) == 0 {
			_ = c.Close()
		}
	}
}

// addrs chooses what the host says of its addresses: of those at which peers
// see it only what strangers reach, and those at relays.
func (n *nat) addrs(all []ma.Multiaddr) []ma.Multiaddr {
	if !n.ready.Load() {
		return all
	}
	proven := n.forced == Yes || n.met.strangers() >= minStrangers
	reachable, _, _ := n.basic.ConfirmedAddrs()
	own := slices.Concat(n.host.interfaces(), n.mappings())
	var out []ma.Multiaddr
	for _, a := range slices.Concat(all, n.host.announce) {
		if isQUIC(a) && (proven || ma.Contains(own, a) || ma.Contains(reachable, a)) {
			out = append(out, a)
		}
	}
	return append(out, n.places.addrs()...)
}

// Close ends the watching.
func (n *nat) Close() error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.cancel()
	n.wg.Wait()
	return nil
}
