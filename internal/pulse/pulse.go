// Package pulse spreads signed rows among nodes that share cells, and tells how
// old each row is: a node whose row grows old is gone.
//
// Every node keeps one long-lived stream to each of its neighbours (protocol
// /cell/<network>/pulse/1, opened by the node with the lower key unless only the
// other one knows of the two). It sends its own row to all of them as soon as
// something has changed by more than a tenth, and every 2 s in any case. A row
// is passed on to neighbours that its node has no stream with, to three of them at
// random; whoever finds a row older than 4 s asks a neighbour for a newer one. On
// a new stream, and with a random neighbour every 10 s, both ends say all
// that they hold and each sends what the other one lacks.
//
// A message has at most [MaxMessage] bytes, after its length in 2 bytes, big
// endian, and is a CBOR array (definite lengths, no tags):
//
//	[ rows     [[age, row], …]         ≤ 32; age in ms since the row was signed
//	, splices  [[age, node, base, signature, [[copy, drop, put], …]], …]
//	                                   ≤ 32; a row as what it changes in base, an earlier row of
//	                                   the node that the receiver holds: going through the body of
//	                                   base, copy so many bytes, drop so many and put others there
//	                                   (≤ 64 times), then copy the rest
//	, holds    [[node, incarnation, sequence], …]
//	                                   ≤ 512; newest rows that the sender holds; 0, 0 is none
//	, all      bool                    holds is all that it holds
//	, linked   [node, …]               ≤ 96; neighbours of the sender
//	, told     bool                    linked is meant
//	]
//
// node is the first 8 bytes of a key, base the first 4 of the earlier row's
// signature. A splice for an unchanged row has about 110 bytes. Every row is
// verified as a whole before it is kept or passed on.
package pulse

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// Reasons for which something of a peer is refused, beside those of [record.Reason].
const (
	ReasonMessage  = "message"  // not a message at all; the stream is closed
	ReasonOrder    = "order"    // a row of a forgotten node that was newer then
	ReasonFull     = "full"     // too many nodes are known, or known from this peer
	ReasonUnwanted = "unwanted" // Config.Wanted said no
	ReasonSplice   = "splice"   // does not fit the rows held here; the whole row is asked for
	ReasonTwin     = "twin"     // a row with this node's key that this node has not signed
	ReasonSlow     = "slow"     // the peer does not read; the stream is closed
	ReasonLinks    = "links"    // too many peers, or a stranger
)

// Target is a node to exchange rows with.
type Target struct {
	Node  identity.Key
	Addrs [][]byte // binary multiaddrs without /p2p, fit to be dialled
}

// Config of a [Pulse]. Key and Row are required.
type Config struct {
	Network     identity.Network
	Key         identity.Private
	Incarnation uint64 // of this start of the node

	Interval time.Duration // between two looks at Row and Peers; default 500 ms, give or take a tenth
	Refresh  time.Duration // after which an unchanged row is signed anew; default 2 s
	TTL      time.Duration // of own rows; default 10 s

	// Row returns what the node has to say now; Order, Issued and TTL are filled
	// in here. It is called often and must not block.
	Row func() record.RowOffer

	// Peers returns the nodes to exchange rows with: hosts of shared cells and a
	// few others. The first MaxTargets count. Nil: only peers that come.
	Peers func() []Target

	// Wanted tells whether a row is of any use here. Rows that are not are neither
	// kept nor passed on, and nothing is told to a peer outside of Peers whose own
	// row is not. Calls come from several goroutines. Nil: every row is wanted.
	Wanted func(record.Row) bool

	// OnRow is told of every newest row of another node, goodbyes included. Calls
	// come from several goroutines, rarely out of order: compare Order. May be nil.
	OnRow func(record.Row)

	// OnRefused is told what was refused, and from whom; the zero key stands for
	// Hear. May be nil.
	OnRefused func(from identity.Key, reason string)

	Seed uint64 // of random choices; default a random one
}

// MaxTargets is how many of the nodes of Config.Peers count.
const MaxTargets = 32

// What a node sends by itself.
const (
	fanout   = 3                     // neighbours that a row is passed on to
	minGap   = 50 * time.Millisecond // between two rows of this node
	allEvery = 10 * time.Second      // between two comparisons of everything
	bye      = time.Second           // that a goodbye may take
	maxAsks  = 64                    // nodes asked about in one go
	deafness = 10 * time.Second      // for which an unwanted node is not asked about
	jitter   = 0.1                   // of Interval
	moved    = 0.1                   // change of a number that is told at once
)

// Pulse is a node's end of all streams. It is safe for concurrent use.
type Pulse struct {
	cfg   Config
	host  *host.Host
	id    identity.NetworkID
	self  identity.Key
	proto protocol.ID
	nudge chan struct{}

	mu      sync.Mutex // guards what follows
	table   *table
	own     entry           // its row is zero until the first one is signed
	spoke   time.Time       // when the last one was to be signed
	offer   record.RowOffer // what was said then
	links   map[identity.Key]*link
	told    bool // the neighbours know links
	targets map[identity.Key]*target
	deaf    map[tag]time.Time
	rng     *rand.Rand
	running bool
	leaving chan struct{}      // closed when Run ends
	live    context.Context    // of Run
	ctx     context.Context    // of streams: outlives that of Run by the goodbye
	stop    context.CancelFunc // ends ctx
	work    sync.WaitGroup
}

// New makes a Pulse; [Pulse.Run] starts it.
func New(h *host.Host, c Config) (*Pulse, error) {
	if c.Key.IsZero() || c.Row == nil {
		return nil, errors.New("make pulse: no key or no row")
	}
	if c.Interval <= 0 {
		c.Interval = 500 * time.Millisecond
	}
	if c.Refresh <= 0 {
		c.Refresh = 2 * time.Second
	}
	if c.TTL <= 0 {
		c.TTL = 10 * time.Second
	}
	if c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	if c.Wanted == nil {
		c.Wanted = func(record.Row) bool { return true }
	}
	if c.OnRow == nil {
		c.OnRow = func(record.Row) {}
	}
	if c.OnRefused == nil {
		c.OnRefused = func(identity.Key, string) {}
	}
	p := &Pulse{
		cfg: c, host: h, id: c.Network.ID(), self: c.Key.Public(), proto: host.Protocol(c.Network, "pulse/1"),
		nudge: make(chan struct{}, 1), table: newTable(), links: make(map[identity.Key]*link), targets: make(map[identity.Key]*target),
		deaf: make(map[tag]time.Time), rng: rand.New(rand.NewPCG(c.Seed, 0)), leaving: make(chan struct{}),
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p, nil
}

// Changed has Row looked at now instead of at the next interval.
func (p *Pulse) Changed() {
	select {
	case p.nudge <- struct{}{}:
	default:
	}
}

// Seen is the newest row of a node.
type Seen struct {
	Row record.Row
	Age time.Duration // since the node signed it, by this clock; what neighbours claim may make it too old
}

// Rows returns the newest row of every other node that has not said goodbye.
func (p *Pulse) Rows() []Seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	all := make([]Seen, 0, len(p.table.nodes))
	for _, e := range p.table.nodes {
		if !e.row.Goodbye() && now.Before(e.expires()) {
			all = append(all, Seen{e.row, max(0, now.Sub(e.signed))})
		}
	}
	return all
}

// Own returns the newest row of this node, for other carriers; its Raw is nil
// before the first.
func (p *Pulse) Own() record.Row {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.own.row
}

// Links returns the nodes that streams lead to.
func (p *Pulse) Links() []identity.Key {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]identity.Key, 0, len(p.links))
	for k := range p.links {
		all = append(all, k)
	}
	return all
}

// Hear takes a row that came another way, such as by multicast.
func (p *Pulse) Hear(raw []byte) { p.admit(raw, 0, nil) }

// Run exchanges rows until ctx ends; then it says goodbye, closes its streams
// and waits for its goroutines. It runs once.
func (p *Pulse) Run(ctx context.Context) error {
	p.mu.Lock()
	if p.running {
		p.mu.Unlock()
		return errors.New("run pulse: it has run before")
	}
	p.running, p.live = true, ctx
	p.mu.Unlock()
	p.host.SetStreamHandler(p.proto, p.accept)
	p.loop(ctx)
	p.host.RemoveStreamHandler(p.proto)
	p.sign(p.cfg.Row(), 0)
	p.mu.Lock()
	close(p.leaving)
	p.mu.Unlock()
	timer := time.AfterFunc(bye, p.stop)
	p.work.Wait()
	timer.Stop()
	p.stop()
	return nil
}

// loop does what is done by the clock.
func (p *Pulse) loop(ctx context.Context) {
	var look, all time.Time // when the next one is due
	owed := false           // what has changed waits for minGap
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		nudged := false
		select {
		case <-timer.C:
		case <-p.nudge:
			nudged = true
		case <-ctx.Done():
			return
		}
		now := time.Now()
		var again time.Time
		again, owed = p.speak(now, owed || nudged || !now.Before(look))
		if !now.Before(look) {
			p.tend(now, !now.Before(all))
			if !now.Before(all) {
				all = now.Add(p.vary(allEvery))
			}
			look = now.Add(p.vary(p.cfg.Interval))
		}
		if look.Before(again) {
			again = look
		}
		timer.Reset(again.Sub(now))
	}
}

// vary returns d, give or take a tenth.
func (p *Pulse) vary(d time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return d + time.Duration((2*p.rng.Float64()-1)*jitter*float64(d))
}

// tend looks after what is held and after the streams.
func (p *Pulse) tend(now time.Time, all bool) {
	var targets []Target
	if p.cfg.Peers != nil {
		targets = p.cfg.Peers()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.table.expire(now) {
		for _, l := range p.links {
			delete(l.has, k)
			delete(l.due, k)
		}
	}
	for t, until := range p.deaf {
		if now.After(until) {
			delete(p.deaf, t)
		}
	}
	if !p.told {
		p.told = true
		for _, l := range p.links {
			l.tell = true
			l.rouse()
		}
	}
	p.askLocked(now)
	if l := p.anyLocked(); all && l != nil {
		l.all = true
		l.rouse()
	}
	p.dialLocked(targets, now)
}

// askLocked asks a neighbour about the nodes that were not heard of for two refreshes.
func (p *Pulse) askLocked(now time.Time) {
	asked := 0
	for k, e := range p.table.nodes {
		if e.row.Goodbye() || now.Sub(e.signed) <= 2*p.cfg.Refresh {
			continue
		}
		if l := p.anyLocked(); l != nil && l.key != k {
			l.asks[tagOf(k)] = e.row.Order
			l.rouse()
		}
		if asked++; asked == maxAsks {
			return
		}
	}
}

// anyLocked returns a random neighbour, or nil.
func (p *Pulse) anyLocked() *link {
	if all := p.toldLocked(); len(all) > 0 {
		return all[p.rng.IntN(len(all))]
	}
	return nil
}
