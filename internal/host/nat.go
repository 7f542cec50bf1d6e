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
	met     *acquaintances
	places  *places
	mapper  basichost.NATManager // nil: no router is asked for ports
	forced  string               // Unknown: found out
	relay   Choice
	emitter event.Emitter // of the verdict, for libp2p's other parts
	ready   atomic.Bool   // the host is put together
	news    chan struct{} // one token: decide now

	mu     sync.Mutex
	mapped []ma.Multiaddr // ports that the router gave, and addresses of the settings; guarded by mu

	// of decide only
	verdict network.Reachability
	told    [][]byte // what LeaseAddrs said when Changed was last told
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
		new(event.EvtLocalAddressesUpdated), new(event.EvtHostReachableAddrsChanged), new(event.EvtPeerProtocolsUpdated),
	}, eventbus.Name("reach"), eventbus.BufSize(64))
	if err != nil {
		return err
	}
	notes := &network.NotifyBundle{ConnectedF: n.connected, DisconnectedF: n.disconnected}
	n.host.Network().Notify(notes)
	n.host.SetStreamHandler(n.seenProtocol(), n.tellSeen)
	jobs := n.host.jobs
	jobs.spawn(n.places.run)
	jobs.spawn(n.watchSeen)
	jobs.spawn(n.decisions)
	jobs.spawn(func(ctx context.Context) {
		defer n.host.Network().StopNotify(notes)
		defer sub.Close()
		for {
			select {
			case <-sub.Out():
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
	}
}

func (n *nat) disconnected(net network.Network, c network.Conn) {
	n.met.disconnected(c)
	if net.Connectedness(c.RemotePeer()) != network.Connected {
		n.places.lost(c.RemotePeer())
		n.host.volunteer.gone(c.RemotePeer())
	}
}

// addrs chooses what the host says of its addresses: its own, but none that
// peers dialled in vain, of those at which peers see it what strangers reach,
// and those at relays.
func (n *nat) addrs(all []ma.Multiaddr) []ma.Multiaddr {
	if !n.ready.Load() {
		return all
	}
	reachable, vain, _ := n.basic.ConfirmedAddrs()
	if n.forced == Yes || n.met.strangers() >= minStrangers {
		reachable = append(reachable, n.host.seen.Addrs(minWitnesses)...)
	}
	own := slices.Concat(n.host.interfaces(), n.mappings())
	good := func(a ma.Multiaddr) bool {
		return ma.Contains(own, a) && !ma.Contains(vain, a) || ma.Contains(all, a) && ma.Contains(reachable, a)
	}
	out := slices.DeleteFunc(slices.Concat(all, own), func(a ma.Multiaddr) bool { return !isQUIC(a) || !good(a) })
	return append(outward(append(out, n.host.announce...)), n.places.addrs()...)
}
