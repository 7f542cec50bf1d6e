package main

import (
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"cell.network/cell/internal/sim"
	"github.com/hashicorp/memberlist"
)

// memberHosts run memberlist, over a transport of our own: a packet takes the
// same time as elsewhere and may be lost, a connection takes a round trip to be
// made and loses nothing.
type memberHosts struct {
	setup   setup
	latency func(from, to netip.Addr) time.Duration
	hosts   []*memberHost
	at      map[string]*memberHost // by address

	mu   sync.Mutex // guards what follows
	rng  *rand.Rand
	loss float64
	side map[*memberHost]int // of a partition

	bytes, packets atomic.Uint64
	alarms         atomic.Uint64 // how often a host gave up another
}

type memberHost struct {
	all     *memberHosts
	index   int
	addr    string
	list    *memberlist.Memberlist
	packets chan *memberlist.Packet
	streams chan net.Conn
	gone    atomic.Bool

	mu   sync.Mutex
	left map[int]time.Time // when this host gave up others; a return removes it
}

// newMembers makes hosts that have all met.
func newMembers(s setup, conf func() *memberlist.Config, latency func(from, to netip.Addr) time.Duration) (*memberHosts, error) {
	all := &memberHosts{
		setup: s, latency: latency, at: make(map[string]*memberHost),
		rng: rand.New(rand.NewPCG(s.Seed, 11)), side: make(map[*memberHost]int),
	}
	for i := range s.Nodes { // all of them before the first speaks
		h := &memberHost{
			all: all, index: i, addr: fmt.Sprintf("%s:%d", addrOf(i), port), left: make(map[int]time.Time),
			packets: make(chan *memberlist.Packet, 1024), streams: make(chan net.Conn, 64),
		}
		all.at[h.addr] = h
		all.hosts = append(all.hosts, h)
	}
	doors := rand.New(rand.NewPCG(s.Seed, 12))
	for i, h := range all.hosts {
		c := conf()
		c.Name, c.AdvertiseAddr, c.AdvertisePort = fmt.Sprint(i), addrOf(i).String(), port
		c.Transport, c.Events, c.Logger = h, h, log.New(io.Discard, "", 0)
		var err error
		if h.list, err = memberlist.Create(c); err != nil {
			all.close()
			return nil, fmt.Errorf("make member: %w", err)
		}
		if i > 0 { // through any of those that are there, as operators do
			via := all.hosts[doors.IntN(i)]
			if _, err := h.list.Join([]string{via.addr}); err != nil {
				all.close()
				return nil, fmt.Errorf("join: %w", err)
			}
		}
	}
	for range 600 {
		if all.complete() {
			return all, nil
		}
		time.Sleep(time.Second)
	}
	all.close()
	return nil, fmt.Errorf("%d members have not all met within ten minutes", s.Nodes)
}

func (all *memberHosts) complete() bool {
	for _, h := range all.hosts {
		if h.list.NumMembers() != len(all.hosts) {
			return false
		}
	}
	return true
}

// passes decides the fate of one packet.
func (all *memberHosts) passes(from, to *memberHost, lossy bool) bool {
	all.mu.Lock()
	defer all.mu.Unlock()
	if to == nil || from.gone.Load() || to.gone.Load() {
		return false
	}
	if a, b := all.side[from], all.side[to]; a != b && a != 0 && b != 0 {
		return false
	}
	return !lossy || all.loss == 0 || all.rng.Float64() >= all.loss
}

func (all *memberHosts) setLoss(share float64) {
	all.mu.Lock()
	defer all.mu.Unlock()
	all.loss = share
}

// partition cuts the hosts in two; nil heals.
func (all *memberHosts) partition(sides func(i int) int) {
	all.mu.Lock()
	defer all.mu.Unlock()
	clear(all.side)
	for i, h := range all.hosts {
		if sides != nil {
			all.side[h] = sides(i) + 1
		}
	}
}

func (all *memberHosts) kill(i int) {
	all.hosts[i].gone.Store(true)
	_ = all.hosts[i].list.Shutdown()
}

func (all *memberHosts) close() {
	var gone sync.WaitGroup
	for _, h := range all.hosts {
		if h.list != nil {
			gone.Go(func() { _ = h.list.Shutdown() })
		}
	}
	gone.Wait()
	time.Sleep(time.Minute) // what was under way ends with its time limit
}

// NotifyJoin implements [memberlist.EventDelegate].
func (h *memberHost) NotifyJoin(n *memberlist.Node) { h.note(n, false) }

// NotifyLeave implements [memberlist.EventDelegate].
func (h *memberHost) NotifyLeave(n *memberlist.Node) { h.note(n, true) }

// NotifyUpdate implements [memberlist.EventDelegate].
func (h *memberHost) NotifyUpdate(*memberlist.Node) {}

func (h *memberHost) note(n *memberlist.Node, left bool) {
	var i int
	if _, err := fmt.Sscan(n.Name, &i); err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if left {
		h.all.alarms.Add(1)
		h.left[i] = time.Now()
	} else {
		delete(h.left, i)
	}
}

// gaveUp returns when this host last gave up host i, and whether it has.
func (h *memberHost) gaveUp(i int) (time.Time, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, ok := h.left[i]
	return t, ok
}

// FinalAdvertiseAddr implements [memberlist.Transport].
func (h *memberHost) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return addrOf(h.index).AsSlice(), port, nil
}

// WriteTo implements [memberlist.Transport].
func (h *memberHost) WriteTo(b []byte, addr string) (time.Time, error) {
	now, to := time.Now(), h.all.at[addr]
	h.all.bytes.Add(uint64(len(b)))
	h.all.packets.Add(1)
	if !h.all.passes(h, to, true) {
		return now, nil
	}
	p := &memberlist.Packet{Buf: append([]byte(nil), b...), From: &net.UDPAddr{IP: addrOf(h.index).AsSlice(), Port: port}}
	time.AfterFunc(h.all.delay(h, to), func() {
		p.Timestamp = time.Now()
		select {
		case to.packets <- p:
		default: // a full queue loses packets, as sockets do
		}
	})
	return now, nil
}

func (all *memberHosts) delay(from, to *memberHost) time.Duration {
	return all.latency(addrOf(from.index), addrOf(to.index))
}

// PacketCh implements [memberlist.Transport].
func (h *memberHost) PacketCh() <-chan *memberlist.Packet { return h.packets }

// StreamCh implements [memberlist.Transport].
func (h *memberHost) StreamCh() <-chan net.Conn { return h.streams }

// DialTimeout implements [memberlist.Transport].
func (h *memberHost) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to := h.all.at[addr]
	if !h.all.passes(h, to, false) {
		time.Sleep(timeout)
		return nil, fmt.Errorf("dial %s: nobody answers", addr)
	}
	time.Sleep(2 * h.all.delay(h, to))
	ours, theirs := sim.Pipe()
	select {
	case to.streams <- meteredStream{theirs, h.all}:
		return meteredStream{ours, h.all}, nil
	default:
		return nil, fmt.Errorf("dial %s: busy", addr)
	}
}

// Shutdown implements [memberlist.Transport].
func (h *memberHost) Shutdown() error { return nil }

// meteredStream counts what is written, headers of TCP left out.
type meteredStream struct {
	net.Conn
	all *memberHosts
}

func (s meteredStream) Write(b []byte) (int, error) {
	s.all.bytes.Add(uint64(len(b)))
	return s.Conn.Write(b)
}
