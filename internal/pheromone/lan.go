// Package pheromone announces on the local network which cells a node serves,
// and hears what others announce and ask, by signed UDP multicast.
//
// A packet is one datagram of at most [MaxPacket] bytes, integers little endian:
//
//	4 bytes   magic "CELL"
//	1 byte    version 1
//	1 byte    kind: 1 announce, 2 query, 3 answer, 4 goodbye
//	1 byte    number of records, at least 1
//	1 byte    reserved: sent 0, ignored
//	8 bytes   first bytes of the network's id
//	then for each record
//	2 bytes   its length n, at least 1
//	n bytes   the record, as package record has it
//
// The records of announce and answer are leases, those of goodbye tombstones,
// all of them signed by their node and carried byte for byte. A query has one
// record of domain "query" with the payload [name key bytes 32 or empty for
// any, nonce uint].
//
// Packets to everybody go to UDP port 9067 at 239.255.67.76 and ff12::6365:6c6c,
// with TTL 1, by every interface. They are sent from a port that is the node's
// own, to which answers go: the shared port belongs to all nodes of a host, and
// one unicast packet to it reaches only one of them.
//
// News (a new cell, another address, a tombstone) is sent at once and again
// after about 0.08, 0.2 and 1.2 s; a lease then every quarter of its TTL, but
// not below 2 s nor above 60 s. A node that starts, or meets a new interface,
// asks for anything, so that it need not wait for the next round. All delays
// have a jitter of a quarter.
//
// # The air
//
// All nodes of a LAN together send at most 30 packets a second to everybody in
// the long run, and 15 more after a silence, however many they are. Each
// node sees to that by itself: it counts what it hears, of any network, in a
// bucket that leaks at that rate, and waits while it is full. Rounds wait
// first, then repetitions and greetings; news and questions by name last. How
// long a round is, each node says by how many others it has heard in the last
// five minutes: all of them need 20 packets a second, so 1,000 nodes with a
// cell each take 50 s. A renewed lease goes with the round, and leases of a node
// share packets.
//
// Nodes that start at the same moment cannot have heard each other. Each draws
// its moment from 4 ms, and late ones with a probability that grows
// exponentially: of 1,000 nodes, half a dozen speak before the others hear them.
// A node that found the air full draws again from a window of twice the length.
// One that has been up for a second draws from 0.1 ms for each node it knows.
//
// A lease that others hear too late, since so many share the air, lapses with
// them, and whoever wants the cell asks for it: answers carry the newest lease.
// They go to the asker alone, and wait at random for 0.5 ms for each other node
// that may answer too, up to 0.5 s: not at all where nobody else is known.
package pheromone

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// Bus carries packets to everybody on the local network and to one of them. It
// is safe for concurrent use.
type Bus interface {
	// Send sends to one node, or with the zero address to everybody.
	Send(pkt []byte, to netip.AddrPort) error
	// Recv returns the next packet, which is the caller's to keep, and whom to
	// answer. Its error wraps net.ErrClosed after Close; any error is final.
	Recv() ([]byte, netip.AddrPort, error)
	Close() error
}

// Changer is a [Bus] that says when it may reach somebody whom it did not reach before.
type Changer interface {
	Changed() <-chan struct{}
}

// Config is what a [LAN] needs. Network, Key, Bus and OnLease are required.
type Config struct {
	Network identity.Network
	Key     identity.Private // of this node
	Bus     Bus              // closed by Run
	// OnLease is given every lease and tombstone that was verified and is not
	// below the floor, one at a time; it must not block. It may be given one
	// again, but not within a second.
	OnLease func(record.Lease)
	// OnRefused hears why a packet or a record was not acted on: a word of
	// [LAN.Stats]. It must not block, and bear to be called thousands of times
	// a second while somebody attacks. Default: nobody hears it.
	OnRefused func(reason string, from netip.AddrPort)
	Floor     *record.Floor // shared with whoever else receives leases; default: one of its own
	Rand      *rand.Rand    // for jitter and nonces, used by the LAN only; default: seeded by the system
}

// LAN announces, asks and answers on one bus. It is safe for concurrent use.
type LAN struct {
	config  Config
	network identity.NetworkID
	wake    chan struct{}

	mu      sync.Mutex // guards what follows
	rand    *rand.Rand
	own     map[identity.NameKey]*sending
	asked   map[identity.NameKey]*asking
	answers []answer
	greeted bucket // answers to greetings
	turn    turn
	air     bucket    // packets to everybody, this node's and those it has heard
	packets *recent   // the same packets, to count copies once
	started time.Time // when this node last had everything new to say
	crowd   *crowd
	stats   map[string]uint64

	// Used by the receiving goroutine only.
	recent   *recent  // records
	incoming *limiter // packets that are looked into, by source
	total    *limiter // the same, of all sources
	answered *limiter // answers, by the address that asked
}

// Rates of what a node does for others, per second; bursts are explained at their use.
const (
	maxFromOne = 256  // records looked into, from one address
	maxFromAll = 2048 // records looked into
	maxAnswers = 16   // queries answered, of one address
)

// New returns a LAN that is silent until [LAN.Run].
func New(c Config) *LAN {
	if c.Floor == nil {
		c.Floor = new(record.Floor)
	}
	if c.Rand == nil {
		c.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if c.OnRefused == nil {
		c.OnRefused = func(string, netip.AddrPort) {}
	}
	return &LAN{
		config: c, network: c.Network.ID(), wake: make(chan struct{}, 1),
		rand:     c.Rand,
		own:      make(map[identity.NameKey]*sending),
		asked:    make(map[identity.NameKey]*asking),
		stats:    make(map[string]uint64),
		packets:  newRecent(),
		crowd:    newCrowd(),
		recent:   newRecent(),
		incoming: newLimiter(maxFromOne, 2*maxFromOne),
		total:    newLimiter(maxFromAll, 2*maxFromAll),
		answered: newLimiter(maxAnswers, 4*maxAnswers), // several nodes may start at one address
	}
}

// Run announces, receives and answers until ctx ends, sends the tombstones that
// have not been sent yet, and closes the bus. Its error is nil where ctx ended
// it, else the bus's. It runs once.
func (l *LAN) Run(ctx context.Context) error {
	received := make(chan error, 1)
	go func() { received <- l.receive() }()
	err := l.send(ctx, received)
	closed := l.config.Bus.Close()
	if err == nil { // ctx ended it: receive still runs, and ends now that the bus is closed
		<-received
		err = closed
	}
	if err != nil {
		return fmt.Errorf("run lan: %w", err)
	}
	return nil
}

// send does what is due until ctx or receiving ends. The error is that of receiving.
func (l *LAN) send(ctx context.Context, received <-chan error) error {
	var changed <-chan struct{}
	if c, ok := l.config.Bus.(Changer); ok {
		changed = c.Changed()
	}
	var hello sync.WaitGroup
	defer hello.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	greet := func() { hello.Go(func() { l.query(ctx, anything, greetingPatience) }) }
	l.renewAll(time.Now())
	greet()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			l.flushGoodbyes()
			return nil
		case err := <-received:
			return err
		case <-changed:
			l.renewAll(time.Now())
			greet()
		case <-l.wake:
		case <-timer.C:
		}
		now := time.Now()
		l.sendDue(now)
		if next, ok := l.nextDue(now); ok {
			timer.Reset(next.Sub(now))
		}
	}
}

func (l *LAN) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// transmit sends one packet and counts it.
func (l *LAN) transmit(p Packet, to netip.AddrPort) {
	p.Network = tagOf(l.network)
	pkt := p.Append(nil)
	if !to.IsValid() {
		l.spoken(pkt, time.Now())
	}
	if err := l.config.Bus.Send(pkt, to); err != nil {
		l.count("unsent")
		return
	}
	l.count("sent")
}

func (l *LAN) count(word string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats[word]++
}

// Stats returns counters since the start.
//
//	sent, unsent    packets that the bus took, or did not take
//	heard           leases and tombstones handed to OnLease
//	answered        queries answered
//	waited          turns not taken, since the air was full
//	own, repeated   records of this node, or met a moment ago by another way
//
// and why packets and records were not acted on:
//
//	oversize, malformed, version    not understood
//	foreign         of another network
//	forged          bad signature
//	expired, clock  too old, or from the future
//	replayed        older than what has been seen of the same cell and node
//	grant           the node may not serve the cell
//	ratelimited     too many from one address, or from all
//	offlink         from an address that is not on a local network
//	overrun         came faster than they were looked at
//
// The last two are the bus's own, where it is a [UDPBus].
func (l *LAN) Stats() map[string]uint64 {
	l.mu.Lock()
	out := maps.Clone(l.stats)
	l.mu.Unlock()
	if b, ok := l.config.Bus.(interface{ Stats() map[string]uint64 }); ok {
		for word, n := range b.Stats() {
			out[word] += n
		}
	}
	return out
}

// reason turns a refusal into a word of Stats.
func reason(err error) string {
	switch {
	case errors.Is(err, ErrOversize), errors.Is(err, record.ErrSize):
		return "oversize"
	case errors.Is(err, ErrVersion), errors.Is(err, record.ErrSchema):
		return "version"
	case errors.Is(err, record.ErrNetwork):
		return "foreign"
	case errors.Is(err, record.ErrSignature):
		return "forged"
	case errors.Is(err, record.ErrGrant): // before its causes, which it wraps too
		return "grant"
	case errors.Is(err, record.ErrStale):
		return "expired"
	case errors.Is(err, record.ErrClock):
		return "clock"
	case errors.Is(err, record.ErrOrder):
		return "replayed"
	}
	return "malformed"
}
