// Package kad finds and stores leases on the nodes closest to a cell's places in
// the key space of a Kademlia network over libp2p.
//
// The routing table and its upkeep are those of go-libp2p-kad-dht under the
// prefix /cell/<16 hex of the network id>; lookups and leases are ours. A node's
// place is SHA-256 of its peer id, distance is XOR. The leases of a cell lie at
// [Keys] places, r = 0, 1, 2, of its [identity.NameKey]
//
//	SHA-256("cell/lease/1" ‖ name key ‖ byte r)
//
// on the [Holders] closest nodes each. Whom membership told of ([Kad.Known]) is
// asked directly; where this node knows too few, answers name closer ones.
//
// Protocol /cell/<16 hex>/lease/2: one request and one answer a stream, each
//
//	4 bytes   length of what follows, big endian
//	n bytes   one CBOR map with small integers as keys; unknown keys are ignored
//
//	request, at most [MaxRequest] bytes
//	  1  uint      op: 1 near, 2 get, 3 put, 4 watch
//	  2  bytes 32  near: a place; else the name key
//	  3  bytes     put: the lease's record, at most record.MaxLeaseSize
//	  4  uint      get and put: bit r asks for the peers closest to place r
//	answer, at most [MaxAnswer] bytes
//	  1  uint      0 ok · 1 refused, 5 says why · 2 busy, ask another
//	  2  [bytes]   get and watch: leases and tombstones of the name, at most [MaxLeases]
//	  3  [{1: bytes 32, 2: [bytes]}]  node key and binary multiaddrs of the closest
//	               peers known, 12 for each place asked for, at most [MaxCloser] in
//	               all, each with at most [MaxCloserAddrs] addresses
//	  5  text      why a put was refused, one word of record.Reason or of this package
//
// Protocol /cell/<16 hex>/watch/1: one request with op watch, then answers until
// either end closes the stream: the first says what is held, each other one what
// came since, or nothing every 20 seconds.
//
// A holder verifies what it stores and a finder what it is told: nobody's word
// is taken for a lease. A holder counts a lease's TTL from receipt and keeps
// tombstones for as long as what they withdraw could be replayed.
package kad

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	madns "github.com/multiformats/go-multiaddr-dns"
)

var (
	// ErrNoPeers says that the node knows nobody to ask.
	ErrNoPeers = errors.New("no peers")
	// ErrUnreachable says that none of the peers known answered.
	ErrUnreachable = errors.New("no peer answered")
	// ErrRefused says that the closest peers answered and none of them stored the lease.
	ErrRefused = errors.New("lease refused")
)

// Mode is whether a node holds leases and answers for others.
type Mode string

// The modes of a node. Auto is server on private networks; on the public one
// it is server while peers can reach the node, as AutoNAT finds.
const (
	ModeAuto   Mode = "auto"
	ModeServer Mode = "server"
	ModeClient Mode = "client"
)

// Config is how a node takes part. Only Network is required.
type Config struct {
	Network identity.Network

	Mode Mode // default: ModeAuto

	// Bootstrap are multiaddrs with /p2p of nodes to begin with, or /dnsaddr
	// names to look such up under. They are dialled in the background, and again
	// with back-off for as long as the routing table is small.
	Bootstrap []string

	// OnEntry is told after every attempt to enter the network through one of
	// Bootstrap. It must not block. Default: nobody is told; see Entries.
	OnEntry func(Entry)

	// PeersFile keeps peers from one run to the next. Default: none.
	PeersFile string

	// Floor is the memory of the highest orders seen, shared with whoever else
	// receives leases. Default: one of its own.
	Floor *record.Floor

	// FloorFile keeps the floor from one run to the next: it is read by New and
	// written now and then and by Close. Default: none.
	FloorFile string

	// Resolve looks up /dnsaddr names. Default: the system's DNS.
	Resolve func(context.Context, ma.Multiaddr) ([]ma.Multiaddr, error)

	// OnStored is told of every lease and tombstone that this node comes to hold,
	// its own included. It must not block. Default: nobody is told.
	OnStored func(record.Lease)

	// OnRefused is told a word for everything that is refused: leases, requests,
	// answers. It must not block. Default: nobody is told; see Stats.
	OnRefused func(reason string)

	Log *slog.Logger // default: silent

	still bool // tests: the routing table is left alone
	weak  weak // tests: what an attack needs to succeed
}

// weak are defences that are left out.
type weak struct {
	onePlace  bool // names have one place only
	firstCome bool // who comes first under a name stays
	anywhere  bool // no name is too far to be held
	gullible  bool // who was only told of counts as a peer

	// excuse judges anew what was refused for a reason.
	excuse func(raw []byte, reason string) (record.Lease, string)
}

// Kad is a node's part in the network. It is safe for concurrent use.
type Kad struct {
	conf  Config
	host  *host.Host
	net   identity.NetworkID
	self  place // of this node
	dht   *dht.IpfsDHT
	table *table
	dir   *directory
	store *store
	book  *book
	rate  rates

	proto, watchProto protocol.ID
	watched           *watched
	asked             atomic.Uint64 // requests sent by lookups

	ctx      context.Context
	cancel   context.CancelFunc
	tasks    sync.WaitGroup
	kick     chan struct{}     // wakes the bootstrap loop
	meetings chan struct{}     // one taken for each AddPeers under way
	lost     atomic.Bool       // nobody in the table answered
	seeds    [][]peer.AddrInfo // that each of Config.Bootstrap led to; of keepPeers

	mu       sync.Mutex // guards what follows
	closed   bool
	refused  map[string]uint64
	deposits map[depositKey]*deposit
	entries  []Entry // one for each of Config.Bootstrap
}

// New joins a network: it starts to serve, to dial the bootstrap peers and to
// keep its routing table, and does not wait for any of it. Close it before h.
func New(h *host.Host, c Config) (*Kad, error) {
	mode, err := c.fill(h)
	if err != nil {
		return nil, err
	}
	k := &Kad{
		conf: c, host: h, net: c.Network.ID(), self: placeOf(h.ID()),
		proto: host.Protocol(c.Network, "lease/2"), watchProto: host.Protocol(c.Network, "watch/1"),
		table: newTable(h), dir: newDirectory(), store: newStore(!c.Network.Private()), watched: newWatched(),
		kick: make(chan struct{}, 1), meetings: make(chan struct{}, maxMeetings),
		refused: make(map[string]uint64), deposits: make(map[depositKey]*deposit),
	}
	for _, s := range c.Bootstrap {
		k.entries = append(k.entries, Entry{Addr: s})
	}
	k.seeds = make([][]peer.AddrInfo, len(c.Bootstrap))
	if c.FloorFile != "" {
		if err := c.Floor.Load(c.FloorFile); err != nil {
			c.Log.Warn("starting without the orders seen before", "err", err)
		}
	}
	if k.book, err = openBook(c.PeersFile); err != nil {
		c.Log.Info("starting without cached peers", "err", err)
	}
	opts := []dht.Option{
		dht.Mode(mode), dht.ProtocolPrefix(host.Prefix(c.Network)), dht.DisableProviders(), dht.DisableValues(),
		dht.AddressFilter(func(addrs []ma.Multiaddr) []ma.Multiaddr { return host.Publishable(c.Network, addrs) }),
	}
	if c.still {
		opts = append(opts, dht.DisableAutoRefresh())
	}
	if !c.Network.Private() {
		opts = append(opts, dht.RoutingTablePeerDiversityFilter(newDiversity(h.Network())))
	}
	if k.dht, err = dht.New(k.table, opts...); err != nil {
		return nil, fmt.Errorf("join network: %w", err)
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	if mode != dht.ModeClient {
		h.SetStreamHandler(k.proto, k.serve)
		h.SetStreamHandler(k.watchProto, k.serveWatch)
	}
	k.store.firstCome = c.weak.firstCome
	k.tasks.Go(k.keepStore)
	k.tasks.Go(k.keepDeposits)
	if !c.still {
		k.tasks.Go(k.keepPeers)
	}
	return k, nil
}

func (c *Config) fill(h *host.Host) (dht.ModeOpt, error) {
	if c.Network != h.NetworkName() {
		return 0, fmt.Errorf("join network: the host is of network %q, not %q", h.NetworkName(), c.Network)
	}
	for _, s := range c.Bootstrap {
		if _, err := parseSeed(s); err != nil {
			return 0, fmt.Errorf("join network: %w", err)
		}
	}
	if c.Floor == nil {
		c.Floor = new(record.Floor)
	}
	if c.Resolve == nil {
		c.Resolve = madns.DefaultResolver.Resolve
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Mode == ModeServer, (c.Mode == ModeAuto || c.Mode == "") && c.Network.Private():
		return dht.ModeServer, nil
	case c.Mode == ModeClient:
		return dht.ModeClient, nil
	case c.Mode == ModeAuto || c.Mode == "":
		return dht.ModeAuto, nil
	}
	return 0, fmt.Errorf("join network: unknown mode %q; it is one of auto, server, client", c.Mode)
}

// Size returns how many peers this node could ask, of its routing table or its
// directory, whichever knows more.
func (k *Kad) Size() int { return max(k.dht.RoutingTable().Size(), k.dir.size()) }

// Known says what membership knows of a node: its binary multiaddrs, whether it
// serves the DHT, and whether it is alive. A dead node is not asked, and its
// leases are neither handed out nor found until it is alive again, it puts one
// itself, or one appears that is newer than those that were there. Those of
// which Config.Floor knows that their node's life is over stay hidden.
func (k *Kad) Known(node identity.Key, addrs [][]byte, server, alive bool) {
	if node == k.host.Key() {
		return
	}
	alone := k.dir.size() == 0
	k.dir.know(node, addrs, server, alive, time.Now())
	if alone && k.dir.size() > 0 {
		k.table.tell()
	}
}

// Serving reports whether this node answers lookups of others now.
func (k *Kad) Serving() bool {
	return slices.Contains(k.host.Mux().Protocols(), host.Prefix(k.conf.Network)+"/kad/1.0.0")
}

// Held returns how many leases and tombstones of others and its own this node
// holds, and their size in bytes.
func (k *Kad) Held() (records, bytes int) { return k.store.size() }

// Asked returns how many requests lookups have sent so far.
func (k *Kad) Asked() uint64 { return k.asked.Load() }

// Stats returns how much was refused, by reason.
func (k *Kad) Stats() map[string]uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.refused)
}

func (k *Kad) refuse(reason string) {
	k.mu.Lock()
	k.refused[reason]++
	k.mu.Unlock()
	if k.conf.OnRefused != nil {
		k.conf.OnRefused(reason)
	}
}

// Reasons of this package; those of leases are the words of [record.Reason].
const (
	reasonRequest  = "request"  // a request that is none, or came too slowly
	reasonAnswer   = "answer"   // an answer that is none
	reasonRate     = "rate"     // too many requests from one source
	reasonKey      = "key"      // a lease under another cell's key
	reasonAddress  = "address"  // a lease without an address that may be dialled
	reasonFar      = "far"      // a lease for nodes much closer than this one
	reasonFull     = "full"     // no room under the key or at all
	reasonQuota    = "quota"    // no more room for this source, or for this author
	reasonGroup    = "group"    // enough leases of this name from these addresses
	reasonWatchers = "watchers" // enough who watch this name, or in all
)

func (k *Kad) dialable(raw []byte) bool {
	a, err := ma.NewMultiaddrBytes(raw)
	return err == nil && host.Dialable(k.conf.Network, a)
}

// nearest returns the peers in the routing table that are closest to p.
func (k *Kad) nearest(p place, n int) []peer.ID {
	return k.dht.RoutingTable().NearestPeers(kb.ID(p[:]), n)
}

// sweepEvery is how often expired leases are thrown away.
const sweepEvery = 30 * time.Second

func (k *Kad) keepStore() {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			k.store.sweep(time.Now())
			k.saveFloor()
		case <-k.ctx.Done():
			return
		}
	}
}

func (k *Kad) saveFloor() {
	if k.conf.FloorFile == "" {
		return
	}
	if err := k.conf.Floor.Save(k.conf.FloorFile); err != nil {
		k.conf.Log.Warn("the orders seen are not remembered", "err", err)
	}
}

// Close leaves the network, saves the peers file and waits for the goroutines.
func (k *Kad) Close() error {
	k.mu.Lock()
	again := k.closed
	k.closed = true
	k.mu.Unlock()
	if again {
		k.tasks.Wait()
		return nil
	}
	k.linger()
	k.host.RemoveStreamHandler(k.proto)
	k.host.RemoveStreamHandler(k.watchProto)
	if !k.conf.still {
		k.remember()
	}
	k.cancel()
	k.tasks.Wait()
	k.saveFloor()
	return errors.Join(k.dht.Close(), k.book.save())
}

// begin counts a task that Close waits for with tasks.Done at its end. It
// reports false where the node is closing.
func (k *Kad) begin() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.closed {
		k.tasks.Add(1)
	}
	return !k.closed
}
