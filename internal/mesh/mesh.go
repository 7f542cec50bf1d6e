// Package mesh announces the cells that this node serves and discovers who
// serves others, over the local network and the DHT together.
//
// Discovery never serialises its tiers. What is known already, the LAN and the
// DHT are asked at the same moment; the first verified endpoint is handed on
// and the rest refines it:
//
//	self   cells that this node announces itself
//	cache  leases that were heard or found before the question
//	lan    leases heard on the local network since the question
//	dht    leases found in the DHT since the question
//
// What is known is ordered by distance: the measured round trip, and a guess
// where nothing was measured. A node that membership declares dead is hidden
// until it is back, or has signed a lease that it can only have made since. What
// it signed before its last start, or before it left, stays hidden.
//
// An announcement is one signed lease for each tier, both of the same order:
// the LAN's lists the addresses that neighbours can reach, the DHT's those that
// strangers may. Whoever hears both joins their addresses.
package mesh

import (
	"context"
	"errors"
	"iter"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// LAN makes leases known on the local network. Its methods return at once,
// except Query. What it hears goes to [Mesh.Heard].
type LAN interface {
	Announce(record.Lease)                   // now, and again until replaced or withdrawn
	Withdraw(tombstone record.Lease)         // now
	Query(context.Context, identity.NameKey) // now, and again until ctx ends; may return before
}

// WAN stores leases in the DHT. It is a [Finder], too, unless the node only
// announces.
type WAN interface {
	Put(context.Context, record.Lease) (holders int, err error)
}

// Finder finds leases in the DHT. Find hands on verified leases only,
// tombstones among them, and ends when the search has ended; an error is the
// reason why the search is incomplete.
type Finder interface {
	Find(context.Context, identity.Cell) iter.Seq2[Finding, error]
}

// Finding is a lease that was found in the DHT, and how.
type Finding struct {
	Lease  record.Lease
	Hops   int          // nodes asked one after the other, Holder the last of them; 0: this node held the lease itself
	Holder identity.Key // who handed the lease out; zero: this node
}

// Watcher is what a [WAN] may do besides: tell of a cell's new leases and
// tombstones as they reach their holders, until ctx ends. Leases are verified.
// An iteration that ends before is begun anew.
type Watcher interface {
	Watch(context.Context, identity.Cell) iter.Seq2[record.Lease, error]
}

// Config is what a [Mesh] needs. Durations left zero take their default.
type Config struct {
	Network     identity.NetworkID
	Key         identity.Private
	Incarnation uint64                  // rises with every start of the node
	LAN         LAN                     // nil: no LAN tier
	WAN         WAN                     // nil: no DHT tier
	Addrs       func(lan bool) [][]byte // binary multiaddrs for neighbours, or for strangers; best first
	Dialable    func(addr []byte) bool  // whether an address from the DHT may be dialled; default: every one
	Event       func(Event)             // nil: none. Called one at a time per lease or search; must not block
	Floor       *record.Floor           // of what was seen by others of this node, too; nil: one of its own

	// RTT returns the measured round trip to a node, for ranking; nil: none is
	// known. Called with the mesh's lock held: it must be quick and not call back.
	RTT func(identity.Key) (time.Duration, bool)

	Rand        func() float64 // for jitter, in [0,1); default math/rand/v2
	TTL         time.Duration  // of leases, 10 s to 2 h; default 2 m; renewed after a third of it
	AddrPoll    time.Duration  // between two looks at Addrs; default 5 s
	PutTimeout  time.Duration  // for one attempt to put a lease into the DHT; default 15 s
	RetryMin    time.Duration  // after the first failed put, doubled after each; default 250 ms
	RetryMax    time.Duration  // between two attempts at most; default 30 s
	Farewell    time.Duration  // for all attempts to put a tombstone; default 10 s
	LANWait     time.Duration  // for answers on the LAN; default 400 ms
	FindTimeout time.Duration  // for a search of the DHT; default 10 s
	Fresh       time.Duration  // after a successful search the cache alone answers for so long; default 10 s
	Negative    time.Duration  // after a vain search the answer is no for so long; default 3 s
	Unsure      time.Duration  // the same where somebody served the cell of late, or the DHT's answer is no plain no; default 500 ms
}

func (c *Config) fill() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.TTL, 2 * time.Minute}, {&c.AddrPoll, 5 * time.Second}, {&c.PutTimeout, 15 * time.Second},
		{&c.RetryMin, 250 * time.Millisecond}, {&c.RetryMax, 30 * time.Second}, {&c.Farewell, 10 * time.Second},
		{&c.LANWait, 400 * time.Millisecond}, {&c.FindTimeout, 10 * time.Second},
		{&c.Fresh, 10 * time.Second}, {&c.Negative, 3 * time.Second}, {&c.Unsure, 500 * time.Millisecond},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.Addrs == nil {
		c.Addrs = func(bool) [][]byte { return nil }
	}
	if c.Event == nil {
		c.Event = func(Event) {}
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
	if c.Floor == nil {
		c.Floor = new(record.Floor)
	}
	if c.RTT == nil {
		c.RTT = func(identity.Key) (time.Duration, bool) { return 0, false }
	}
}

// Event is something that a mesh did, for the journal.
type Event struct {
	Kind string // "announce", "withdraw" or "discover"
	Cell identity.Cell
	Text string // one plain sentence
	Data map[string]any
}

// ErrStopped says that the mesh's Run has ended.
var ErrStopped = errors.New("discovery has stopped")

// sweepEvery is how often lapsed leases are cleared away; they are never
// handed out in the meantime.
const sweepEvery = 10 * time.Second

// Mesh is one node's part in discovery. Its methods are safe for concurrent use.
type Mesh struct {
	cfg      Config
	self     identity.Key
	sequence atomic.Uint64 // of the last lease that was signed
	ctx      context.Context
	stop     context.CancelFunc
	work     sync.WaitGroup

	mu       sync.Mutex // guards what follows; never taken while a Lease's own lock is held
	stopped  bool
	table    table
	leases   map[identity.Cell]*Lease
	searches map[identity.Cell]*search
	waiters  map[identity.Cell]map[*waiter]struct{}
	watches  map[identity.Cell]*watch
	watching int // watchers in watches
	counts   map[string]uint64
}

// New makes a mesh. Announcements and searches work at once and end with Run,
// which must therefore be called.
func New(c Config) *Mesh {
	c.fill()
	m := &Mesh{
		cfg: c, self: c.Key.Public(), table: newTable(c.Floor, c.RTT),
		leases: make(map[identity.Cell]*Lease), searches: make(map[identity.Cell]*search),
		waiters: make(map[identity.Cell]map[*waiter]struct{}), watches: make(map[identity.Cell]*watch), counts: make(map[string]uint64),
	}
	m.ctx, m.stop = context.WithCancel(context.Background())
	return m
}

// Run watches for changes of address and clears away what has lapsed, until
// ctx ends; then it stops every announcement and search, waits for them, and
// returns nil. It withdraws nothing: that is a decision of the caller.
func (m *Mesh) Run(ctx context.Context) error {
	poll, sweep := time.NewTicker(m.cfg.AddrPoll), time.NewTicker(sweepEvery)
	defer poll.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-poll.C:
			m.kick(false)
		case now := <-sweep.C:
			m.mu.Lock()
			m.table.sweep(now)
			m.mu.Unlock()
		case <-ctx.Done():
			m.mu.Lock()
			m.stopped = true
			m.mu.Unlock()
			m.stop()
			m.work.Wait()
			return nil
		}
	}
}

// Refresh looks at the addresses and retries failed puts now: call it when
// addresses or peers of this node have changed.
func (m *Mesh) Refresh() { m.kick(true) }

func (m *Mesh) kick(retry bool) {
	m.mu.Lock()
	all := make([]*Lease, 0, len(m.leases))
	for _, l := range m.leases {
		all = append(all, l)
	}
	m.mu.Unlock()
	for _, l := range all {
		poke(l.look)
		if retry {
			poke(l.retry)
		}
	}
}

// poke wakes whoever waits on c, which has room for one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// spawnLocked runs f as a part of the mesh unless that has stopped.
func (m *Mesh) spawnLocked(f func()) bool {
	if !m.stopped {
		m.work.Go(f)
	}
	return !m.stopped
}

// Stats counts leases by what became of them: "stored", or why they were not
// ("order", "foreign", "spent", "dead", "full", "quota"), and "searches".
func (m *Mesh) Stats() map[string]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.counts)
}

// Known returns every endpoint that is in the cache now.
func (m *Mesh) Known() []Endpoint {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Endpoint
	now := time.Now()
	for cell := range m.table.names {
		all = append(all, m.table.list(cell, now)...)
	}
	return all
}
