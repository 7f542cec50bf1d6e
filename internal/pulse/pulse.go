// Package pulse spreads signed rows among nodes that share cells, carries the
// messages by which [swim] tells who is alive, and drops what a dead node said.
//
// A node keeps one long-lived stream to each of its neighbours (protocol
// /cell/<network>/pulse/2): to nodes that it shares cells with and to those that
// membership asks for. Between two that share cells the one with the lower key
// opens it, unless only the other one knows of the two. Only with these rows are
// exchanged: a node sends them its own as soon as something has changed by more
// than a tenth, every 25 to 60 s in any case (the more rows it knows the less
// often), and every 2 s while one row does not hold all that it has to say. A row
// that says something new is passed on to three neighbours, at random, that its
// node has no stream with, and the others of these are told soon that it is there;
// one that says nothing new is passed on to two. Whoever finds a row older than
// half its TTL asks a neighbour for a newer one. On a new stream, and with a random
// neighbour every 30 s or less often, both ends say all that they hold and each
// sends what the other one lacks.
//
// Messages follow each other on a stream. Each end says something at once, be it
// nothing: before, nobody is taken to be there. A message starts with 2 bytes, big
// endian: in the highest bit whether it is of swim (1) or of rows (0), in the
// others its length. One of swim has at most [swim.MaxMessage] bytes; none say
// nothing. One of rows has at most [MaxMessage] bytes and is a CBOR array (definite
// lengths, no tags):
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
//	, linked   [node, …]               ≤ 96; neighbours that the sender exchanges rows with
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
	"sync/atomic"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/swim"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// Reasons for which something of a peer is refused, beside those of [record.Reason].
const (
	ReasonMessage  = "message"  // not a message at all; the stream is closed
	ReasonMember   = "member"   // not a message of swim, or more than an honest node says; the stream is closed
	ReasonOrder    = "order"    // a row of a forgotten node that was newer then
	ReasonFull     = "full"     // too many nodes are known, or known from this peer
	ReasonUnwanted = "unwanted" // Config.Wanted said no
	ReasonSplice   = "splice"   // does not fit the rows held here; the whole row is asked for
	ReasonTwin     = "twin"     // a row with this node's key that this node has not signed
	ReasonSlow     = "slow"     // the peer does not read; the stream is closed
	ReasonLinks    = "links"    // too many peers, or rows of one whose own is of no use here
)

// Target is a node and where it is.
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
	Refresh  time.Duration // after which an unchanged row is signed anew; default 25 s, without Contact 2 s; a third of TTL where many rows are known
	TTL      time.Duration // of own rows; default 3 min, without Contact 10 s

	// Row returns what the node has to say now; Order, Issued and TTL are filled
	// in here. It is called often and must not block.
	Row func() record.RowOffer

	// Peers returns the nodes to exchange rows with: hosts of shared cells and a
	// few others. The first MaxTargets count. Nil: only peers that come.
	Peers func() []Target

	// Contact returns where this node can be reached now and what it does for
	// others; Left, Order and Issued are filled in here. It is called often and
	// must not block. Nil: the node is no member of the network, and its rows are
	// the only sign of its life.
	Contact func() record.ContactOffer

	// Entries returns nodes through which the network can be met, such as those of
	// a routing table. A few are dialled while less than three streams are open.
	// Nil: none but Peers and what Learn brings.
	Entries func() []Target

	// Group is that of [swim.Config]. Nil: no limit.
	Group func(record.Contact) []string

	// Period is that of [swim.Config], between two probes; default 1 s.
	Period time.Duration

	// OnMember is told of every change of a member, one after the other and in
	// their order. It must not block. May be nil.
	OnMember func(swim.Change)

	// Wanted tells whether a row is of any use here. Rows that are not are neither
	// told of nor passed on, and nothing is told to a peer outside of Peers whose own
	// row is not; some are kept, and asked about again, as long as they last. Calls
	// come from several goroutines. Nil: every row is wanted.
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
	fanout     = 3                     // neighbours that a row is passed on to
	fanoutSame = 2                     // the same, where it says nothing new
	minGap     = 50 * time.Millisecond // between two rows of this node
	turn       = 2 * time.Second       // between rows that do not hold all there is to say
	allEvery   = 30 * time.Second      // between two comparisons of everything
	perRow     = 2 * time.Second       // for each row known: what takes longer than its least
	bye        = time.Second           // that a goodbye may take
	maxAsks    = 64                    // nodes asked about in one go
	maxAside   = 128                   // rows kept that are not wanted now
	rethink    = 2 * time.Second       // between two looks at these
	deafness   = 10 * time.Second      // for which an unwanted node is not asked about, and is not heard
	jitter     = 0.1                   // of Interval
	moved      = 0.1                   // change of a number that is told at once
)

// Pulse is a node's end of all streams. It is safe for concurrent use.
type Pulse struct {
	cfg   Config
	host  *host.Host
	id    identity.NetworkID
	self  identity.Key
	proto protocol.ID
	nudge chan struct{}
	stir  chan struct{} // membership has something to do
	sent  atomic.Uint64 // bytes written to streams

	mu      sync.Mutex // guards what follows
	table   *table
	own     entry           // its row is zero until the first one is signed
	spoke   time.Time       // when the last one was to be signed
	offer   record.RowOffer // what was said then
	cut     bool            // it did not find room in one row
	links   map[identity.Key]*link
	told    bool // the neighbours know who exchanges rows with this node
	targets map[identity.Key]*target
	deaf    map[tag]time.Time
	aside   map[identity.Key]aside // rows that are not wanted, for now
	rng     *rand.Rand
	members *swim.Detector
	contact record.Contact      // of this node; its Raw is nil before the first
	reach   record.ContactOffer // what it was made of
	knocked time.Time           // when entries are dialled again

	refusals []refusal
	running  bool
	leaving  chan struct{}      // closed when Run ends
	live     context.Context    // of Run
	ctx      context.Context    // of streams: outlives that of Run by the goodbye
	stop     context.CancelFunc // ends ctx
	work     sync.WaitGroup
}

// New makes a Pulse; [Pulse.Run] starts it.
func New(h *host.Host, c Config) (*Pulse, error) {
	if c.Key.IsZero() || c.Row == nil {
		return nil, errors.New("make pulse: no key or no row")
	}
	if c.Interval <= 0 {
		c.Interval = 500 * time.Millisecond
	}
	refresh, ttl := 25*time.Second, record.MaxRowTTL
	if c.Contact == nil {
		refresh, ttl = 2*time.Second, 10*time.Second
	}
	if c.Refresh <= 0 {
		c.Refresh = refresh
	}
	if c.TTL <= 0 {
		c.TTL = ttl
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
	if c.OnMember == nil {
		c.OnMember = func(swim.Change) {}
	}
	p := &Pulse{
		cfg: c, host: h, id: c.Network.ID(), self: c.Key.Public(), proto: host.Protocol(c.Network, "pulse/2"),
		nudge: make(chan struct{}, 1), stir: make(chan struct{}, 1), table: newTable(), links: make(map[identity.Key]*link), targets: make(map[identity.Key]*target),
		deaf: make(map[tag]time.Time), aside: make(map[identity.Key]aside), rng: rand.New(rand.NewPCG(c.Seed, 0)), leaving: make(chan struct{}),
	}
	p.members = swim.New(swim.Config{Self: p.self, Network: p.id, Sign: c.Key.Sign, Rand: rand.New(rand.NewPCG(c.Seed, 1)),
		Period: c.Period, Group: c.Group})
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

	// Age is for how long the node has been under suspicion of having failed, and
	// 0 while it is not. Of a node that membership does not know it is how late its
	// next row is: a row is followed by another within a third of its TTL.
	Age time.Duration
}

// Rows returns the newest row of every other node, except of those that have died
// or said goodbye.
func (p *Pulse) Rows() []Seen { return p.seen(false) }

// Lost returns the newest row of every node that has died, as long as the row lasts.
func (p *Pulse) Lost() []Seen { return p.seen(true) }

func (p *Pulse) seen(dead bool) []Seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	all := make([]Seen, 0, len(p.table.nodes))
	for k, e := range p.table.nodes {
		if e.row.Goodbye() || !now.Before(e.expires()) {
			continue
		}
		switch state := p.members.State(k); {
		case state == swim.Left || (state == swim.Dead) != dead:
		case state == swim.Unknown:
			all = append(all, Seen{e.row, max(0, now.Sub(e.signed)-e.row.TTL/3)})
		default:
			all = append(all, Seen{e.row, p.members.Silence(k, now)})
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

// Sent returns how many bytes this node has handed to its streams, its own
// alone: what QUIC adds, repeats and says to keep connections is not in it.
func (p *Pulse) Sent() uint64 { return p.sent.Load() }

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
	var loops sync.WaitGroup
	loops.Go(func() { p.watch(ctx) })
	p.loop(ctx)
	loops.Wait()
	p.host.RemoveStreamHandler(p.proto)
	p.sign(p.cfg.Row(), 0)
	p.depart()
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
	var look, think, all time.Time // when the next one is due
	owed := false                  // what has changed waits for minGap
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
				all = now.Add(p.vary(p.allPeriod()))
			}
			if !now.Before(think) {
				p.reconsider(now)
				think = now.Add(rethink)
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

// allPeriod is how long to wait between two comparisons of everything: they take
// less than fifteen bytes a second.
func (p *Pulse) allPeriod() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(allEvery, time.Duration(len(p.table.nodes))*perRow)
}

// tend looks after what is held and after the streams.
func (p *Pulse) tend(now time.Time, all bool) {
	var targets, entries []Target
	if p.cfg.Peers != nil {
		targets = p.cfg.Peers()
	}
	if p.cfg.Entries != nil && p.lonely(now) {
		entries = p.cfg.Entries()
	}
	p.present(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.table.expire(now) {
		for _, l := range p.links {
			delete(l.has, k)
			delete(l.due, k)
			delete(l.late, k)
		}
	}
	for _, l := range p.links {
		p.remindLocked(l)
	}
	for t, until := range p.deaf {
		if now.After(until) {
			delete(p.deaf, t)
		}
	}
	if !p.told {
		p.told = true
		for _, l := range p.toldLocked() {
			l.tell = true
			l.rouse()
		}
	}
	p.askLocked(now)
	if l := p.anyLocked(); all && l != nil {
		l.all = true
		l.rouse()
	}
	p.aimLocked(targets, now)
	p.knockLocked(entries, now)
	p.dialLocked(now)
	p.moveLocked(now)
}

// askLocked asks a neighbour about the nodes that were not heard of for half of
// their row's life.
func (p *Pulse) askLocked(now time.Time) {
	asked := 0
	for k, e := range p.table.nodes {
		if e.row.Goodbye() || now.Sub(e.signed) <= e.row.TTL/2 || p.members.State(k).Gone() {
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
