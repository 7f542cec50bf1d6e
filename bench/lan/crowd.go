package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing/synctest"
	"time"

	"cell.network/cell/bench/report"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/pheromone"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/sim"
)

// crowds measures what 1,000 cells send to everybody, and how soon they all
// hear of one more.
func (b *bench) crowds(ctx context.Context) {
	c := crowd{Seed: b.seed, Nodes: b.nodes, Cells: cells / b.nodes, Rest: pick(b.short, time.Minute, 3*time.Minute), Newcomers: pick(b.short, 20, 30)}
	name := fmt.Sprintf("%d cells of %d nodes", c.Cells*c.Nodes, c.Nodes)
	o, err := perform(ctx, c)
	const most = 100 // packets to everybody in a second
	b.below(name+": all start at once, worst second", float64(o.Start), most, 1, err)
	b.below(name+": at rest, worst second", float64(o.Rest), most, 1, err)
	b.below(name+": at rest, mean", o.Mean, most, 1, err)
	b.below(name+": switch returns, worst second", float64(o.Switch), most, 1, err)
	b.within(name+": newcomer found", o.Found.side(err), 20*time.Millisecond, 60*time.Millisecond, true)
	b.within(name+": newcomer found, 10 % loss", o.Lossy.side(err), 20*time.Millisecond, 300*time.Millisecond, true)
	if err == nil {
		last := &b.report.Rows[len(b.report.Rows)-1]
		last.Note = fmt.Sprintf("everybody knew every cell %.0f s after all had started; after %.0f s at rest %.2f %% of leases had lapsed unheard; of %d chances to hear a newcomer in loss %d were missed for 5 s",
			o.Whole.Seconds(), c.Rest.Seconds(), 100*o.Lapsed, o.Lossy.Samples, o.Lossy.Missed)
	}
}

// storm lets as many nodes as there are cells start at one moment. They are in
// networks of their own, so that none has to check what it hears of another:
// that would take hours, and the air is the same.
func (b *bench) storm(ctx context.Context) {
	o, err := perform(ctx, crowd{Seed: b.seed, Nodes: cells, Cells: 1, Rest: pick(b.short, 5*time.Second, time.Minute), Apart: true})
	b.below(fmt.Sprintf("%d nodes with a cell each: all start at once, worst second", cells), float64(o.Start), 100, 1, err)
}

// cells is how many share a LAN.
const cells = 1000

// crowd is 1,000 cells on one LAN, and what happens to them.
type crowd struct {
	Nodes, Cells int
	Newcomers    int           // without loss, and as many with
	Rest         time.Duration // for which they are left alone
	Apart        bool          // in a network each: they share only the air, and nothing is measured but the start
	Seed         uint64
}

// outcome is what was counted.
type outcome struct {
	Start, Rest, Switch int           // packets to everybody in the worst second
	Mean                float64       // packets to everybody in a second, at rest
	Whole               time.Duration // until everybody had heard of every cell
	Lapsed              float64       // share of leases that have run out with others, since they were not renewed in time
	Found, Lossy        took
	Error               string
}

// took are the times until a newcomer was heard, by each of those who were there.
type took struct {
	P50, P99 time.Duration
	Samples  int
	Missed   int // had not heard it after 5 s
}

func (t took) side(err error) report.Side {
	if err == nil && t.Missed > 0 {
		err = fmt.Errorf("%d of %d have not heard of it", t.Missed, t.Missed+t.Samples)
	}
	return report.Side{P50: t.P50, P99: t.P99, Samples: t.Samples, Err: err}
}

// play plays it inside a bubble of virtual time.
func (c crowd) play() (o outcome) {
	p := &place{crowd: c, issuer: issuer{seed: c.Seed, granted: time.Now(), apart: c.Apart}, bus: sim.NewBus(sim.BusConfig{Seed: c.Seed}), rand: rand.New(rand.NewPCG(c.Seed, 1))}
	ctx, cancel := context.WithCancel(context.Background())
	defer func() {
		cancel()
		p.running.Wait()
	}()
	start := time.Now()
	for i := range c.Nodes {
		p.nodes = append(p.nodes, p.start(ctx, i))
	}
	for i, n := range p.nodes {
		for j := range c.Cells {
			p.running.Go(func() { n.serve(ctx, i, identity.Name(fmt.Sprint("cell-", j))) })
		}
	}
	if c.Apart {
		time.Sleep(c.Rest)
		o.Start = p.worst(start)
		return o
	}
	for o.Whole == 0 && time.Since(start) < 3*time.Minute {
		time.Sleep(time.Second)
		if p.know(0) == 1 {
			o.Whole = time.Since(start)
		}
	}
	if o.Whole == 0 {
		o.Error = fmt.Sprintf("after 3 minutes %.1f %% of leases are known", 100*p.know(0))
		return o
	}
	o.Start = p.worst(start)
	time.Sleep(time.Minute - time.Since(start)%time.Minute) // until news is none any more
	rest := time.Now()
	time.Sleep(c.Rest)
	o.Rest, o.Mean = p.worst(rest), float64(p.count(rest))/c.Rest.Seconds()
	o.Lapsed = 1 - p.know(leaseTTL)
	o.Found = p.newcomers(ctx, c.Nodes)
	p.bus.SetLoss(0.1)
	o.Lossy = p.newcomers(ctx, c.Nodes+c.Newcomers)
	p.bus.SetLoss(0)
	back := time.Now()
	for _, n := range p.nodes {
		n.changed <- struct{}{}
	}
	time.Sleep(time.Minute)
	o.Switch = p.worst(back)
	return o
}

// place is the LAN of a crowd.
type place struct {
	issuer
	crowd   crowd
	bus     *sim.Bus
	rand    *rand.Rand
	nodes   []*node
	running sync.WaitGroup

	mu   sync.Mutex // guards sent
	sent []time.Time
}

// node is one of a crowd.
type node struct {
	pheromone.Bus
	place   *place
	lan     *pheromone.LAN
	changed chan struct{}

	mu    sync.Mutex // guards known
	known map[cellOf]time.Time
}

type cellOf struct {
	node identity.Key
	name identity.Name
}

func (p *place) start(ctx context.Context, i int) *node {
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), pheromone.DefaultPort)
	n := &node{Bus: p.bus.Join("lan", at), place: p, changed: make(chan struct{}, 1), known: make(map[cellOf]time.Time)}
	n.lan = pheromone.New(pheromone.Config{
		Network: p.network(i), Key: nodeKey(p.crowd.Seed, i), Bus: n, OnLease: n.hear,
		Rand: rand.New(rand.NewPCG(p.crowd.Seed, uint64(i))),
	})
	p.running.Go(func() { _ = n.lan.Run(ctx) })
	return n
}

// Send counts packets to everybody.
func (n *node) Send(pkt []byte, to netip.AddrPort) error {
	if !to.IsValid() {
		n.place.mu.Lock()
		n.place.sent = append(n.place.sent, time.Now())
		n.place.mu.Unlock()
	}
	return n.Bus.Send(pkt, to)
}

func (n *node) Changed() <-chan struct{} { return n.changed }

func (n *node) hear(l record.Lease) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known[cellOf{l.Signer, l.Cell.Name}] = l.Issued
}

// serve announces a cell and renews its lease as a node does: after a third of
// its time, less up to a tenth.
func (n *node) serve(ctx context.Context, i int, name identity.Name) {
	for {
		n.lan.Announce(n.place.lease(i, name, time.Now()))
		n.place.mu.Lock()
		less := n.place.rand.Float64() / 10
		n.place.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration((1 - less) * float64(leaseTTL/3))):
		}
	}
}

// know is the share of leases that are known where they should be: any, or
// those issued within a time.
func (p *place) know(within time.Duration) float64 {
	n := 0
	for _, x := range p.nodes {
		x.mu.Lock()
		for _, issued := range x.known {
			if within == 0 || time.Since(issued) < within {
				n++
			}
		}
		x.mu.Unlock()
	}
	return float64(n) / float64(len(p.nodes)*(len(p.nodes)-1)*p.crowd.Cells)
}

// worst is how many packets were sent to everybody in the worst second since a moment.
func (p *place) worst(since time.Time) (most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	j := 0
	for i, at := range p.sent {
		if at.Before(since) {
			j = i + 1
			continue
		}
		for at.Sub(p.sent[j]) >= time.Second {
			j++
		}
		most = max(most, i-j+1)
	}
	return most
}

func (p *place) count(since time.Time) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range p.sent {
		if !at.Before(since) {
			n++
		}
	}
	return n
}

// newcomers lets nodes come one after the other, each with a cell, and returns
// how soon each of the others has heard of it.
func (p *place) newcomers(ctx context.Context, first int) (t took) {
	var h report.Histogram
	for i := range p.crowd.Newcomers {
		here, leave := context.WithCancel(ctx)
		begin := time.Now()
		n := p.start(here, first+i)
		l := p.lease(first+i, "newcomer", begin)
		n.lan.Announce(l)
		who := cellOf{l.Signer, l.Cell.Name}
		heard := make(map[*node]bool)
		for time.Since(begin) < 5*time.Second && len(heard) < len(p.nodes) {
			time.Sleep(250 * time.Microsecond)
			synctest.Wait()
			for _, x := range p.nodes {
				x.mu.Lock()
				if _, ok := x.known[who]; ok && !heard[x] {
					heard[x] = true
					h.Add(time.Since(begin))
				}
				x.mu.Unlock()
			}
		}
		for range len(p.nodes) - len(heard) {
			t.Missed++
			h.Add(time.Since(begin))
		}
		for _, x := range p.nodes {
			x.mu.Lock()
			delete(x.known, who)
			x.mu.Unlock()
		}
		leave()
		time.Sleep(time.Duration(float64(2*time.Second) * (1 + p.rand.Float64())))
	}
	t.P50, t.P99, t.Samples = h.Quantile(0.5), h.Quantile(0.99), h.Count()
	return t
}
