package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cell.network/cell/internal/axon"
	"cell.network/cell/internal/capsid"
	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/home"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/kad"
	"cell.network/cell/internal/membrane"
	"cell.network/cell/internal/mesh"
	"cell.network/cell/internal/mycelium"
	"cell.network/cell/internal/pheromone"
	"cell.network/cell/internal/pulse"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/ribosome"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Config is what a node is made of. `cell up` fills it with the real world,
// simulations with fakes; the node cannot tell.
type Config struct {
	Key      identity.Private
	Author   identity.Key // whose secret is on this machine, or zero
	Home     home.Home    // its folders exist
	Settings Settings
	Certs    Certs  // who lets this node serve what
	Version  string // of the program, for Status

	// ListenPacket opens the packet end for QUIC; nil: a real UDP socket.
	ListenPacket func(network string, laddr *net.UDPAddr) (net.PacketConn, error)
	// NAT has a simulated host find out how strangers reach it, and help others
	// with that, as a real one of the public network does.
	NAT bool
	// Bus carries announcements on the local network; nil: there is none.
	Bus pheromone.Bus
	// Starter starts replicas, Builder makes their programs, Pair connects them.
	Starter capsid.Starter
	Builder ribosome.Builder
	Pair    membrane.Pairer
	// Meter measures replicas; nil: they are not measured.
	Meter Meter
	// Mirror copies releases from git repositories; nil: by git over https.
	Mirror mycelium.Mirror
	// Control accepts connections of the control API; nil: there is none.
	Control net.Listener
	// Rand decides what is left to chance; nil: seeded from the system.
	Rand *rand.Rand
	// Warn tells whoever started the node what is amiss meanwhile; nil: nobody.
	Warn func(text string)
	// Log receives what is of use to a developer only; nil: nothing.
	Log *slog.Logger
}

// Node is one host's daemon.
type Node struct {
	cfg     Config
	net     identity.Network
	self    identity.Key
	started time.Time

	journal *journal.Journal
	host    *host.Host
	kad     *kad.Kad
	lan     *pheromone.LAN // nil without a bus
	mesh    *mesh.Mesh
	axon    *axon.Axon
	store   *mycelium.Store
	pulse   *pulse.Pulse

	mu       sync.Mutex
	settings Settings // guarded by mu: replaced by Reload
	certs    Certs    // guarded by mu
	services map[identity.Cell]*service
	leaving  bool                          // no replica is started any more
	seeds    map[identity.Cell]*mesh.Lease // releases that this node hands out
	relays   map[*frame.Conn]relay         // connections of replicas that this node passes on
	nextID   uint64                        // of replicas; guarded by mu
	drained  bool                          // the operator wants nothing on this node
	machine  Machine                       // at the last look
	known    chan struct{}                 // closed and replaced when a cell is known that was not
	turn     int                           // whose turn it is at the front of the row

	partnersKnown map[identity.Key]partner // nodes to exchange rows with
	partnersKept  []byte                   // as they lie on disk; of know
	rand          *rand.Rand               // guarded by randMu
	randMu        sync.Mutex

	refused   refusals
	entrances entrances
	digest    digest
	silent    atomic.Pointer[map[identity.Key]time.Time] // hosts not heard of lately, and since when; written by scale
	balance   balancer                                   // of calls, among the replicas here and other nodes
	targets   targets                                    // of programs on this machine
	served    targets                                    // of other nodes, who name authors by key only
	keeping   sync.Mutex                                 // held while files of cells are written, before mu
	kicked    chan struct{}                              // one token: decide now
	soon      atomic.Bool                                // a kick is on its way
	moved     chan struct{}                              // one token: the addresses of this node may have changed
	built     chan struct{}                              // closed when all parts are there
	down      chan struct{}                              // closed by Down
	once      sync.Once
	quit      chan struct{}  // closed when the node begins to leave
	wg        sync.WaitGroup // replicas and their watchers
}

// New builds a node and opens its ports. Close it, or Run it, which closes it.
func New(cfg Config) (_ *Node, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	n := &Node{
		cfg: cfg, net: cfg.Settings.Network, self: cfg.Key.Public(), started: time.Now(),
		settings: cfg.Settings, certs: cfg.Certs,
		services: make(map[identity.Cell]*service), seeds: make(map[identity.Cell]*mesh.Lease), relays: make(map[*frame.Conn]relay), rand: cfg.Rand,
		down: make(chan struct{}), quit: make(chan struct{}), kicked: make(chan struct{}, 1), known: make(chan struct{}),
		moved: make(chan struct{}, 1), built: make(chan struct{}),
		partnersKnown: make(map[identity.Key]partner),
	}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if n.journal, err = journal.Open(filepath.Join(cfg.Home.State, "journal"), n.self.String(), journal.Options{}); err != nil {
		return nil, err
	}
	incarnation, err := nextIncarnation(cfg.Home.State, n.started)
	if err != nil {
		return nil, err
	}
	if n.host, err = host.New(n.hostConfig()); err != nil {
		return nil, err
	}
	floor := new(record.Floor) // what one tier has seen holds for all
	if n.kad, err = kad.New(n.host, kad.Config{
		Network: n.net, Mode: cfg.Settings.dhtMode(), Bootstrap: cfg.Settings.Bootstrap,
		PeersFile: filepath.Join(cfg.Home.Cache, "peers."+string(n.net)),
		Floor:     floor, FloorFile: filepath.Join(cfg.Home.State, "floor."+string(n.net)),
		OnStored:  n.stored,
		OnRefused: func(reason string) { n.refuse(journal.LeaseRefused, "dht", reason) },
		OnEntry:   n.entered,
	}); err != nil {
		return nil, err
	}
	n.axon = axon.New(n.host, n.net, axon.Config{Handler: n.serveRemote})
	if n.store, err = mycelium.New(mycelium.Config{
		Dir: filepath.Join(cfg.Home.State, "releases"), Network: n.net, Host: n.host, Mirror: cfg.Mirror,
	}); err != nil {
		return nil, err
	}
	mc := mesh.Config{
		Network: n.net.ID(), Key: cfg.Key, Incarnation: incarnation, WAN: n.dht(),
		Addrs: n.host.LeaseAddrs, Dialable: n.host.DialableRaw, RTT: n.rtt, Floor: floor, Rand: n.chance, Event: n.meshEvent,
	}
	if cfg.Bus != nil {
		n.lan = pheromone.New(pheromone.Config{
			Network: n.net, Key: cfg.Key, Bus: cfg.Bus, Rand: rand.New(rand.NewPCG(cfg.Rand.Uint64(), cfg.Rand.Uint64())),
			OnLease:   n.heard,
			Floor:     floor,
			OnRefused: func(reason string, _ netip.AddrPort) { n.refuse(journal.PacketRefused, "lan", reason) },
		})
		mc.LAN = n.lan
	}
	n.mesh = mesh.New(mc)
	if n.pulse, err = pulse.New(n.host, pulse.Config{
		Network: n.net, Key: cfg.Key, Incarnation: incarnation, Seed: cfg.Rand.Uint64(),
		Row: n.row, Peers: n.partners, Wanted: n.wanted, OnRow: n.heardRow,
		Contact: n.contact, Entries: n.entries, Group: n.group, OnMember: n.member,
		OnRefused: func(_ identity.Key, reason string) { n.refuse(journal.LeaseRefused, "pulse", reason) },
	}); err != nil {
		return nil, err
	}
	close(n.built)
	return n, nil
}

// Run serves until ctx ends, Down is called or a part fails; it withdraws what
// it announced, drains the replicas and closes the node before it returns.
func (n *Node) Run(ctx context.Context) error {
	// The parts outlive ctx: neighbours are told before they end.
	running, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	n.event(journal.NodeUp, "", "", "node is up", map[string]any{"network": string(n.net), "listen": n.listen()})

	var parts sync.WaitGroup
	part := func(name string, run func(context.Context) error) {
		parts.Go(func() {
			if err := run(running); err != nil && running.Err() == nil {
				end(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	if !n.cfg.Settings.Only {
		n.store.Serve()
		n.seedAll()
		parts.Go(func() { n.restore(running) })
	}
	_, err := os.Stat(filepath.Join(n.cfg.Home.State, drainedFile))
	n.mu.Lock()
	n.drained = err == nil
	n.mu.Unlock()
	if err := n.loadPartners(); err != nil {
		n.cfg.Log.Warn("load partners", "err", err)
	}
	part("mesh", n.mesh.Run)
	part("pulse", n.pulse.Run)
	part("scale", n.scale)
	part("know", n.know)
	part("refresh", n.refresh)
	part("hints", n.hints)
	if n.lan != nil {
		part("lan", n.lan.Run)
	}
	if n.cfg.Control != nil {
		part("control", n.serveControl)
	}
	select {
	case <-ctx.Done():
	case <-n.down:
	case <-running.Done():
	}
	n.leave()
	failure := context.Cause(running)
	end(nil)
	parts.Wait()
	n.event(journal.NodeDown, "", "", "node is down", nil)
	n.close()
	return failure
}

// refresh announces anew what has become untrue as soon as this node is reached
// elsewhere, and what could not be announced as soon as the DHT has
// someone to tell.
func (n *Node) refresh(ctx context.Context) error {
	for {
		changed := n.kad.Changed()
		n.mesh.Refresh()
		select {
		case <-changed:
		case <-n.moved:
		case <-ctx.Done():
			return nil
		}
	}
}

// leaveTime bounds each of the things that a node does before it goes, beside
// the draining of replicas, which have their own time.
const leaveTime = 5 * time.Second

// leave withdraws and ends every service, all at once, and lets the answers to
// other nodes arrive.
func (n *Node) leave() {
	n.mu.Lock()
	n.leaving = true
	close(n.quit)
	for _, s := range n.services {
		for _, c := range s.claims {
			c.cancel()
		}
	}
	seeds := slices.Collect(maps.Values(n.seeds))
	n.mu.Unlock()
	n.pulse.Changed() // others may begin to take over
	for _, l := range seeds {
		n.recall(l)
	}
	var wg sync.WaitGroup
	for _, s := range n.allServices() {
		wg.Go(func() { n.endService(s, "node goes down") })
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	if err := n.axon.Drain(ctx); err != nil {
		n.cfg.Log.Info("drain lanes", "err", err)
	}
	n.mu.Lock()
	relays := slices.Collect(maps.Keys(n.relays))
	n.mu.Unlock()
	for _, c := range relays {
		_ = c.Close()
	}
	n.wg.Wait()
}

// Down asks a running node to end in good order. It returns at once.
func (n *Node) Down() { n.once.Do(func() { close(n.down) }) }

func (n *Node) close() {
	for _, c := range []io.Closer{closer(n.store), closer(n.axon), closer(n.kad), closer(n.host), closer(n.journal)} {
		if c != nil {
			_ = c.Close()
		}
	}
	if n.cfg.Bus != nil {
		_ = n.cfg.Bus.Close()
	}
}

// closer hides a nil pointer that an interface would not.
func closer[T any, P interface {
	*T
	io.Closer
}](p P) io.Closer {
	if p == nil {
		return nil
	}
	return p
}

// dht is the DHT as discovery sees it.
func (n *Node) dht() mesh.WAN {
	j := joining{Kad: n.kad}
	if len(n.cfg.Settings.Bootstrap) > 0 {
		j.until = n.started.Add(joinTime)
	}
	return j
}

// heard takes in a lease from the local network. Its node is a neighbour, so
// the DHT learns of it too: no bootstrap node is needed where there is a LAN.
func (n *Node) heard(l record.Lease) {
	n.mesh.Heard(l)
	if l.Tombstone() || l.Node() == n.self {
		return
	}
	info, err := n.host.Neighbour(l.Node(), l.Addrs)
	if err != nil {
		return
	}
	n.kad.AddPeers([]peer.AddrInfo{info})
}

// chance returns a number in [0, 1).
func (n *Node) chance() float64 {
	n.randMu.Lock()
	defer n.randMu.Unlock()
	return n.rand.Float64()
}

// Journal is the node's record of what happened.
func (n *Node) Journal() *journal.Journal { return n.journal }

// Key is the node's public key.
func (n *Node) Key() identity.Key { return n.self }

// event writes to the journal. A full disk must not stop the node: the failure
// is counted and shown by doctor, and the id is then empty.
func (n *Node) event(kind journal.Kind, cause, cell, text string, data map[string]any) string {
	id, err := n.journal.Append(kind, cause, cell, text, data)
	n.refused.journal(err)
	if err != nil {
		n.cfg.Log.Error("write journal", "kind", kind, "err", err)
	}
	return id
}

// Mesh returns the node's part in discovery. Like the three below it is meant
// for simulations and benchmarks that measure one part.
func (n *Node) Mesh() *mesh.Mesh { return n.mesh }

// Kad returns the node's part in the DHT.
func (n *Node) Kad() *kad.Kad { return n.kad }

// Pulse returns the node's part in gossip.
func (n *Node) Pulse() *pulse.Pulse { return n.pulse }

// Host returns the node's libp2p host.
func (n *Node) Host() *host.Host { return n.host }
