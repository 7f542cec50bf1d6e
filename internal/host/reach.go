package host

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cell.network/cell/internal/identity"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/quic-go/quic-go"
)

// Whether strangers can open a connection to this node.
const (
	Yes     = "yes"
	No      = "no"
	Unknown = "unknown"
)

const (
	translatedAll  = "one port for all"
	translatedEach = "a port for each"
)

// Reach is what a host knows of how others reach it.
type Reach struct {
	Public string // Yes, No or Unknown
	Why    string // one clause

	Interfaces  []ma.Multiaddr // where it listens
	Mapped      []ma.Multiaddr // ports that the router gave it
	Router      bool           // one that gives ports was found
	Seen        []Seen         // where peers see it
	V1          string         // AutoNAT version 1: public, private or unknown
	Reachable   []ma.Multiaddr // AutoNAT version 2: peers dialled these
	Unreachable []ma.Multiaddr // and these in vain
	Translated  string         // the address translation that shows: "", "one port for all" or "a port for each"

	Places  []Place // at relays over which others reach it
	Serving Serving // what it relays for others
	Punches Punches
}

// Reach returns what the host knows of how others reach it.
func (h *Host) Reach() Reach {
	r := Reach{Public: Unknown, Why: "nothing was asked yet", V1: Unknown}
	r.Interfaces, _ = h.swarm.InterfaceListenAddresses()
	r.Interfaces = slices.DeleteFunc(r.Interfaces, func(a ma.Multiaddr) bool { return !isQUIC(a) })
	if h.volunteer != nil {
		r.Serving = h.volunteer.state()
	}
	if h.nat == nil {
		r.Why = "this node does not look whether there is an address translator"
		return r
	}
	r.Seen, r.Places, r.Punches = h.nat.seen.all(), h.nat.places.list(), h.nat.punches.get()
	if m := h.nat.mapper; m != nil {
		r.Router = m.HasDiscoveredNAT()
		for _, a := range h.swarm.ListenAddresses() {
			if to := m.GetMapping(a); to != nil {
				r.Mapped = append(r.Mapped, to)
			}
		}
	}
	if v1 := h.nat.probe.v1; v1 != nil {
		r.V1 = strings.ToLower(v1.Status().String())
	}
	r.Reachable, r.Unreachable, _ = h.nat.basic.ConfirmedAddrs()
	r.judge(h.network.Private(), h.nat.met)
	if h.nat.forced != Unknown {
		r.Public, r.Why = h.nat.forced, "the settings say so"
	}
	return r
}

// judge draws the conclusion. What peers dial back proves little where an
// address translator stands between: it lets those pass that the node talks
// to, and AutoNAT's peers are among them. So an address that is not the node's
// own counts only if the router gave it the port, or strangers came in.
func (r *Reach) judge(private bool, met *acquaintances) {
	own := slices.Concat(r.Interfaces, r.Mapped)
	ownIP := make(map[string]bool)
	for _, a := range own {
		ownIP[a[0].Value()] = true
	}
	seenAt := make(map[string]bool)
	foreign := 0
	for _, s := range r.Seen {
		if !ownIP[s.Addr[0].Value()] {
			foreign++
			seenAt[s.Addr[0].Value()] = true
		}
	}
	switch {
	case foreign > len(seenAt):
		r.Translated = translatedEach
	case foreign > 0:
		r.Translated = translatedAll
	}
	for _, a := range own {
		switch {
		case ma.Contains(r.Reachable, a):
			r.Public, r.Why = Yes, "peers dialled "+a.String()
			return
		case r.V1 == "public" && manet.IsPublicAddr(a) && !ma.Contains(r.Unreachable, a):
			r.Public, r.Why = Yes, "a peer dialled it back, and "+a.String()+" is its own"
			return
		}
	}
	strangers := met.strangers()
	switch {
	case strangers >= minStrangers && foreign > 0:
		r.Public, r.Why = Yes, fmt.Sprintf("%d machines that it never talked to came in", strangers)
	case private && foreign == 0 && len(r.Seen) > 0:
		r.Public, r.Why = Yes, "peers see it at its own address"
	case foreign > 0 && len(r.Reachable) > 0:
		r.Why = "peers that it talks to dial it back at " + r.Reachable[0].String() + "; whether others may is not known"
	case foreign > 0:
		r.Public, r.Why = No, "peers see it at "+r.Seen[0].Addr.String()+", which is not its own address, and no port is mapped"
	case r.V1 == "private" || len(r.Unreachable) > 0:
		r.Public, r.Why = No, "peers dialled it in vain: a firewall lets nobody in"
	case !private && len(publicAddrs(own)) == 0:
		r.Public, r.Why = No, "it has no public address"
	}
}

// nat is what a host behind an address translator needs.
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
	ready   atomic.Bool // the host is put together

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex // guards closed
	closed bool
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

// shelterWanted reports whether the host should keep places at relays.
func (h *Host) shelterWanted() bool {
	r := h.Reach()
	switch {
	case r.Public != Unknown:
		return r.Public == No
	case r.Translated != "":
		return true
	}
	return false
}

// start begins to watch.
func (n *nat) start() error {
	sub, err := n.host.EventBus().Subscribe([]any{
		new(event.EvtPeerIdentificationCompleted), new(event.EvtLocalReachabilityChanged),
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
	n.spawn(func(ctx context.Context) {
		defer n.host.Network().StopNotify(notes)
		defer sub.Close()
		check := time.NewTicker(placeCheck)
		defer check.Stop()
		for {
			select {
			case e := <-sub.Out():
				if id, ok := e.(event.EvtPeerIdentificationCompleted); ok && id.ObservedAddr != nil {
					n.seen.add(id.Conn, id.ObservedAddr)
				}
				if _, ok := e.(event.EvtPeerIdentificationCompleted); !ok || n.places.count() < wantedPlaces {
					n.places.look()
				}
			case <-check.C:
				n.prune()
			case <-ctx.Done():
				return
			}
			n.decide()
		}
	})
	return nil
}

// decide begins or ends to relay for others.
func (n *nat) decide() {
	on := n.relay == On
	if n.relay == Auto {
		on = n.host.Reach().Public == Yes
	}
	changed, err := n.host.volunteer.set(on)
	if err != nil {
		n.host.log.Warn("relay for others", "err", err)
	}
	if changed {
		n.host.changed()
	}
}

func (n *nat) connected(_ network.Network, c network.Conn) {
	if isQUIC(c.RemoteMultiaddr()) {
		n.met.connected(c)
	} else if c.Stat().Direction == network.DirOutbound {
		n.spawn(func(ctx context.Context) { n.punches.begin(ctx, c) })
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

func (n *nat) disconnected(net network.Network, c network.Conn) {
	n.seen.forget(c)
	n.met.disconnected(c)
	if net.Connectedness(c.RemotePeer()) != network.Connected {
		n.places.lost(c.RemotePeer())
		n.host.volunteer.gone(c.RemotePeer())
	}
}

// addrs chooses what the host says of its addresses: of those at which peers
// see it only what strangers reach, and those at relays.
func (n *nat) addrs(all []ma.Multiaddr) []ma.Multiaddr {
	if !n.ready.Load() {
		return all
	}
	r := n.host.Reach()
	own := slices.Concat(r.Interfaces, r.Mapped)
	var out []ma.Multiaddr
	for _, a := range all {
		if isQUIC(a) && (ma.Contains(own, a) || ma.Contains(r.Reachable, a)) {
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

// Machines that came in without having been talked to prove that others may.
const (
	minStrangers = 3
	memory       = 15 * time.Minute // of machines that were dialled; translators forget sooner
	maxMet       = 4096             // machines; when there are more, nothing is proven
)

// acquaintances are the machines that this one sent packets to lately.
type acquaintances struct {
	mu    sync.Mutex // guards what follows
	met   map[netip.Addr]time.Time
	came  map[netip.Addr]time.Time // strangers that came in, and when
	blind time.Time                // until then somebody may be forgotten
}

func newAcquaintances() *acquaintances {
	return &acquaintances{met: make(map[netip.Addr]time.Time), came: make(map[netip.Addr]time.Time)}
}

// dialled notes that packets go to an address.
func (a *acquaintances) dialled(to ma.Multiaddr) {
	ip, ok := machineOf(to)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.meetLocked(ip)
}

func (a *acquaintances) meetLocked(ip netip.Addr) {
	now := time.Now()
	if len(a.met) >= maxMet {
		for old, at := range a.met {
			if now.Sub(at) > memory {
				delete(a.met, old)
			}
		}
		if len(a.met) >= maxMet {
			clear(a.met)
			a.blind = now.Add(memory)
		}
	}
	a.met[ip] = now
}

// connected notes who came in uninvited; from now on it is no stranger.
func (a *acquaintances) connected(c network.Conn) {
	ip, ok := machineOf(c.RemoteMultiaddr())
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	at, known := a.met[ip]
	if c.Stat().Direction == network.DirInbound && (!known || now.Sub(at) > memory) && now.After(a.blind) && len(a.came) < maxMet {
		a.came[ip] = now
	}
	a.meetLocked(ip)
}

// disconnected notes when packets last went to a machine.
func (a *acquaintances) disconnected(c network.Conn) {
	if isQUIC(c.RemoteMultiaddr()) {
		a.dialled(c.RemoteMultiaddr())
	}
}

// strangers returns how many machines came in uninvited within the last day.
func (a *acquaintances) strangers() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	for ip, at := range a.came {
		if time.Since(at) > 24*time.Hour {
			delete(a.came, ip)
		}
	}
	return len(a.came)
}

// Path returns how a node is reached at the moment, "direct" or "relayed via
// <relay>", and the smoothed round trip time of the connection. It is not ok
// where there is no connection.
func (h *Host) Path(node identity.Key) (via string, rtt time.Duration, ok bool) {
	id, err := PeerID(node)
	if err != nil {
		return "", 0, false
	}
	c := h.best(id)
	if c == nil {
		return "", 0, false
	}
	via = "direct"
	if _, relay, relayed := splitRelayed(c.RemoteMultiaddr()); relayed {
		via = "relayed via " + relay.String()
		if key, err := KeyOf(relay); err == nil {
			via = "relayed via " + key.Short()
		}
	}
	rtt, _ = rttOf(c)
	return via, rtt, true
}

// best returns the connection that streams to a peer would use: a direct one
// where there is one.
func (h *Host) best(id peer.ID) network.Conn {
	var best network.Conn
	for _, c := range h.Network().ConnsToPeer(id) {
		if !c.IsClosed() && (best == nil || best.Stat().Limited && !c.Stat().Limited) {
			best = c
		}
	}
	return best
}

// rttOf returns the smoothed round trip time of a connection.
func rttOf(c network.Conn) (time.Duration, bool) {
	var q *quic.Conn
	if !c.As(&q) {
		return 0, false
	}
	rtt := q.ConnectionStats().SmoothedRTT
	return rtt, rtt > 0
}

// Superseded reports whether a connection goes over a relay while there is a
// direct one to the same peer: new streams belong on that one.
func (h *Host) Superseded(c network.Conn) bool {
	if !c.Stat().Limited {
		return false
	}
	best := h.best(c.RemotePeer())
	return best != nil && !best.Stat().Limited
}

// Circuit is what a relay still passes on over a connection.
type Circuit struct {
	Relay identity.Key
	Left  int64     // bytes to the peer
	Until time.Time // then the relay ends it
}

// CircuitOf returns what is left of a relayed connection; it is not ok for a
// direct one.
func CircuitOf(c network.Conn) (Circuit, bool) {
	var conn *circuitConn
	_, relay, relayed := splitRelayed(c.RemoteMultiaddr())
	if !relayed || !c.As(&conn) {
		return Circuit{}, false
	}
	key, _ := KeyOf(relay)
	out := Circuit{Relay: key, Left: 1<<63 - 1}
	stat := c.Stat()
	if n, ok := stat.Extra[client.StatLimitData].(uint64); ok && n > 0 {
		out.Left = max(0, int64(n)-conn.circuit.sent.Load())
	}
	if d, ok := stat.Extra[client.StatLimitDuration].(time.Duration); ok && d > 0 {
		out.Until = stat.Opened.Add(d)
	}
	return out, true
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
