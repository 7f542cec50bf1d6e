package sim

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// busQueue is how many packets wait at an end of a bus; later ones are lost.
const busQueue = 1024

// BusConfig is what a bus is like. The zero BusConfig loses nothing.
type BusConfig struct {
	Seed  uint64
	Loss  float64       // share of packets that vanish, drawn for every receiver
	Delay time.Duration // of every packet; default 200 µs, and up to as much again by chance
}

// Bus is a set of LANs whose members hear each other's multicasts. It is safe
// for concurrent use.
type Bus struct {
	conf BusConfig

	mu   sync.Mutex // guards what follows
	loss float64
	rng  map[pair]*rand.PCG
	ends map[netip.AddrPort]*BusEnd
	side map[netip.AddrPort]int
}

// NewBus makes LANs without members.
func NewBus(c BusConfig) *Bus {
	if c.Delay == 0 {
		c.Delay = 200 * time.Microsecond
	}
	return &Bus{conf: c, loss: c.Loss, rng: make(map[pair]*rand.PCG),
		ends: make(map[netip.AddrPort]*BusEnd), side: make(map[netip.AddrPort]int)}
}

// Join adds a member to a LAN: only members of the same segment hear each
// other. It replaces a former member with the same address.
func (b *Bus) Join(segment string, at netip.AddrPort) *BusEnd {
	b.mu.Lock()
	defer b.mu.Unlock()
	if old := b.ends[at]; old != nil {
		old.leaveLocked()
	}
	e := &BusEnd{bus: b, at: at, segment: segment, in: make(chan packet, busQueue), gone: make(chan struct{})}
	b.ends[at] = e
	return e
}

// Partition cuts segments: members of different groups do not hear each other.
// A member in no group hears all of its segment. It replaces an earlier partition.
func (b *Bus) Partition(groups ...[]netip.AddrPort) {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.side)
	for i, g := range groups {
		for _, at := range g {
			b.side[at] = i + 1
		}
	}
}

// Heal ends a partition.
func (b *Bus) Heal() { b.Partition() }

// SetLoss changes the share of packets that vanish.
func (b *Bus) SetLoss(share float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.loss = share
}

type packet struct {
	data []byte
	from netip.AddrPort
}

// BusEnd is one member's socket on a [Bus].
type BusEnd struct {
	bus     *Bus
	at      netip.AddrPort
	segment string
	in      chan packet
	gone    chan struct{} // closed by leaveLocked, under bus.mu
}

// Addr returns the member's address.
func (e *BusEnd) Addr() netip.AddrPort { return e.at }

// Send sends a packet to one member or, with the zero address, to all members
// of the segment, the sender included, as multicast does.
func (e *BusEnd) Send(pkt []byte, to netip.AddrPort) error {
	b := e.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.goneLocked() {
		return net.ErrClosed
	}
	p := packet{append([]byte(nil), pkt...), e.at}
	if to.IsValid() {
		if dst := b.ends[to]; dst != nil {
			b.carryLocked(p, e, dst)
		}
		return nil
	}
	for _, dst := range b.ends {
		b.carryLocked(p, e, dst)
	}
	return nil
}

func (b *Bus) carryLocked(p packet, src, dst *BusEnd) {
	x, y := b.side[src.at], b.side[dst.at]
	between := pair{src.at.Addr(), dst.at.Addr()}
	if src.segment != dst.segment || x != y && x != 0 && y != 0 ||
		b.loss > 0 && src != dst && draw(b.rng, b.conf.Seed, between) < b.loss {
		return
	}
	delay := b.conf.Delay + time.Duration(draw(b.rng, b.conf.Seed, between)*float64(b.conf.Delay))
	time.AfterFunc(delay, func() {
		select {
		case <-dst.gone:
			return
		default:
		}
		select {
		case dst.in <- packet{append([]byte(nil), p.data...), p.from}:
		default: // a full queue loses packets, as sockets do
		}
	})
}

// Recv returns the next packet and its sender. After Close it fails with
// [net.ErrClosed].
func (e *BusEnd) Recv() ([]byte, netip.AddrPort, error) {
	select {
	case <-e.gone:
		return nil, netip.AddrPort{}, net.ErrClosed
	case p := <-e.in:
		return p.data, p.from, nil
	}
}

// Close leaves the bus. It is idempotent.
func (e *BusEnd) Close() error {
	e.bus.mu.Lock()
	defer e.bus.mu.Unlock()
	if !e.goneLocked() {
		e.leaveLocked()
	}
	return nil
}

func (e *BusEnd) goneLocked() bool {
	select {
	case <-e.gone:
		return true
	default:
		return false
	}
}

func (e *BusEnd) leaveLocked() {
	close(e.gone)
	delete(e.bus.ends, e.at)
}
