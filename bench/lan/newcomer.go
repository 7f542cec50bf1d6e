package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"cell.network/cell/bench/report"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/pheromone"
	"cell.network/cell/internal/record"
)

// patience is how long a newcomer tries; between newcomers there is rest, so
// that each meets a network that does not speak of the one before.
const (
	patience = 10 * time.Second
	rest     = 150 * time.Millisecond
)

// newcomers measures how soon a neighbour finds a newcomer, and a newcomer the
// neighbour, from the moment at which the newcomer opens its sockets.
func (b *bench) newcomers(ctx context.Context) {
	n := pick(b.short, 20, 101)
	ours, theirs := newSite(b.seed, 0), new(stockSite)
	ours.open()
	defer ours.close()
	theirs.open()
	defer theirs.close()

	cs := []report.Contender{ours.contender(ours.isFound), theirs.contender(theirs.isFound)}
	sides := report.Times(ctx, n, b.rand, cs)
	const found = "newcomer found by a neighbour"
	b.report.Add(report.Compare(found, report.Time, sides[0], mdnsName, sides[1], 1))
	b.within(found, sides[0], 50*time.Millisecond, 150*time.Millisecond, true)
	b.within(found, sides[0], 20*time.Millisecond, 60*time.Millisecond, false)

	cs = []report.Contender{ours.contender(ours.finds), theirs.contender(theirs.finds)}
	sides = report.Times(ctx, n, b.rand, cs)
	const finds = "newcomer finds a neighbour"
	b.report.Add(report.Compare(finds, report.Time, sides[0], mdnsName, sides[1], 1))
	b.within(finds, sides[0], 20*time.Millisecond, 60*time.Millisecond, false)
}

// losses is the same for ours where one packet in ten is lost on its way to
// either of them, with all its copies by other interfaces and families. The
// sockets of the peer are out of reach for that.
func (b *bench) losses(ctx context.Context) {
	n := pick(b.short, 40, 301)
	ours := newSite(b.seed, 0.1)
	ours.open()
	defer ours.close()
	for _, x := range []struct {
		work string
		op   func(context.Context) (time.Duration, error)
	}{
		{"newcomer found by a neighbour, 10 % loss", ours.isFound},
		{"newcomer finds a neighbour, 10 % loss", ours.finds},
	} {
		s := report.Times(ctx, n, b.rand, []report.Contender{ours.contender(x.op)})[0]
		b.within(x.work, s, 20*time.Millisecond, 300*time.Millisecond, false)
	}
}

// site is a local network with a neighbour who serves a cell and listens.
type site struct {
	issuer
	port  int
	loss  float64
	err   error
	index int
	heard chan record.Lease // by the neighbour
	stop  func()
}

func newSite(seed uint64, loss float64) *site {
	s := &site{issuer: issuer{seed: seed, granted: time.Now()}, loss: loss}
	s.port, s.err = freePort()
	return s
}

func (s *site) contender(op func(context.Context) (time.Duration, error)) report.Contender {
	return report.Contender{Name: "cell", Op: op, CPU: usedCPU, Err: s.err}
}

func usedCPU() (time.Duration, error) { return report.CPU(), nil }

func (s *site) open() {
	s.stop = func() {}
	if s.err != nil {
		return
	}
	var l *pheromone.LAN
	if l, s.heard, s.stop, s.err = s.start(0); s.err != nil {
		s.stop = func() {}
		return
	}
	l.Announce(s.offer(0))
	time.Sleep(2 * time.Second) // until its news is none any more
}

func (s *site) close() { s.stop() }

// start opens the sockets of a node and lets it run.
func (s *site) start(i int) (l *pheromone.LAN, heard chan record.Lease, stop func(), err error) {
	udp, err := pheromone.ListenUDP(pheromone.UDPConfig{Port: uint16(s.port)})
	if err != nil {
		return nil, nil, nil, err
	}
	var bus pheromone.Bus = udp
	if s.loss > 0 {
		bus = newLossy(udp, s.loss, s.seed+uint64(i))
	}
	heard = make(chan record.Lease, 64)
	l = pheromone.New(pheromone.Config{Network: network, Key: nodeKey(s.seed, i), Bus: bus, OnLease: func(l record.Lease) {
		select {
		case heard <- l:
		default:
		}
	}})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = l.Run(ctx) }()
	return l, heard, func() { cancel(); <-ended }, nil
}

// offer is a lease of node i for its only cell.
func (s *site) offer(i int) record.Lease {
	return s.lease(i, identity.Name(fmt.Sprint("cell-", i)), time.Now())
}

// isFound is the time until the neighbour has heard of a newcomer's cell.
func (s *site) isFound(ctx context.Context) (time.Duration, error) {
	s.index++
	offer := s.offer(s.index)
	time.Sleep(rest)
	begin := time.Now()
	l, _, stop, err := s.start(s.index)
	if err != nil {
		return 0, err
	}
	defer stop()
	l.Announce(offer)
	err = await(ctx, s.heard, offer.Signer)
	took := time.Since(begin)
	l.Withdraw(s.tombstone(s.index, offer))
	return took, err
}

// finds is the time until a newcomer who asks for the neighbour's cell has its lease.
func (s *site) finds(ctx context.Context) (time.Duration, error) {
	s.index++
	cell := s.offer(0).Cell
	time.Sleep(rest)
	begin := time.Now()
	l, heard, stop, err := s.start(s.index)
	if err != nil {
		return 0, err
	}
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	asked := make(chan struct{})
	go func() { defer close(asked); l.Query(ctx, cell.Key(network.ID())) }()
	err = await(ctx, heard, nodeKey(s.seed, 0).Public())
	took := time.Since(begin)
	cancel()
	<-asked
	return took, err
}

func await(ctx context.Context, heard chan record.Lease, from identity.Key) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		select {
		case l := <-heard:
			if l.Signer == from && !l.Tombstone() {
				return nil
			}
		case <-ctx.Done():
			return errors.New("not heard")
		}
	}
}

// freePort returns a UDP port that nobody has now.
func freePort() (int, error) {
	c, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port, nil
}
