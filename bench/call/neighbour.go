package main

import (
	"context"
	"errors"
	"time"

	"cell.network/cell/bench/report"
	"cell.network/cell/internal/axon"
	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/pheromone"
	"cell.network/cell/internal/record"
)

// neighbour is a node's parts for the local network.
type neighbour struct {
	key    identity.Private
	host   *host.Host
	axon   *axon.Axon
	lan    *pheromone.LAN
	leases chan record.Lease
	stop   func()
}

// newNeighbour opens ports; it is silent until run.
func newNeighbour(k identity.Private, port int) (*neighbour, error) {
	h, a, err := newAxon(k, nil)
	if err != nil {
		return nil, err
	}
	bus, err := pheromone.ListenUDP(pheromone.UDPConfig{Port: uint16(port)})
	if err != nil {
		_, _ = a.Close(), h.Close()
		return nil, err
	}
	n := &neighbour{key: k, host: h, axon: a, leases: make(chan record.Lease, 16)}
	n.lan = pheromone.New(pheromone.Config{Network: network, Key: k, Bus: bus, OnLease: func(l record.Lease) {
		select {
		case n.leases <- l:
		default:
		}
	}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	n.stop = func() {
		cancel()
		<-done
		_, _ = a.Close(), h.Close()
	}
	go func() {
		defer close(done)
		_ = n.lan.Run(ctx)
	}()
	return n, nil
}

// lease offers the cell echo.
func (n *neighbour) lease(author identity.Private) (record.Lease, error) {
	now := time.Now()
	grant, err := record.SignGrant(author, network.ID(), "echo", []record.Subject{{Kind: record.SubjectNode, Key: n.key.Public()}}, now, time.Hour)
	if err != nil {
		return record.Lease{}, err
	}
	return record.SignLease(n.key, network.ID(), record.Offer{
		Cell: identity.Cell{Author: author.Public(), Name: "echo"}, State: record.StateAlive, Addrs: n.host.LeaseAddrs(true),
		Grant: grant.Raw, Order: record.Order{Incarnation: 1, Sequence: 1}, Issued: now, TTL: time.Minute,
	})
}

// cellNeighbour is a neighbour that listens, and new ones that announce a cell,
// all in this process.
func (b *bench) cellNeighbour() (report.Contender, func()) {
	c := report.Contender{Name: "cell", CPU: func() (time.Duration, error) { return sum() }}
	port, err := freePort()
	if err != nil {
		c.Err = err
		return c, func() {}
	}
	listener, err := newNeighbour(key(b.seed, "neighbour", 0), port)
	if err != nil {
		c.Err = err
		return c, func() {}
	}
	index := 0
	c.Op = func(ctx context.Context) (time.Duration, error) {
		index++
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		n, err := newNeighbour(key(b.seed, "neighbour", index), port)
		if err != nil {
			return 0, err
		}
		defer n.stop()
		wait(ctx, 200*time.Millisecond) // both have asked who is there, and nobody was
		begin := time.Now()
		l, err := n.lease(key(b.seed, "author", 0))
		if err != nil {
			return 0, err
		}
		n.lan.Announce(l)
		for {
			select {
			case l := <-listener.leases:
				if l.Node() != n.key.Public() || l.Tombstone() {
					continue
				}
				_, err := listener.axon.Call(ctx, l.Node(), l.Addrs, frame.Request{Target: "echo", Body: hello})
				return time.Since(begin), err
			case <-ctx.Done():
				return 0, errors.New("not heard")
			}
		}
	}
	return c, listener.stop
}

// mdnsNeighbour is the same with stock libp2p hosts and their mDNS, which has
// no announcement but that of its start.
func mdnsNeighbour() (report.Contender, func()) {
	c := report.Contender{Name: mdnsName, CPU: func() (time.Duration, error) { return sum() }}
	listener, err := newLibp2p(everywhere)
	if err != nil {
		c.Err = err
		return c, func() {}
	}
	peers, stop, err := newMDNS(listener)
	if err != nil {
		c.Err = err
		return c, func() {}
	}
	c.Op = func(ctx context.Context) (time.Duration, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		h, err := newLibp2p(everywhere)
		if err != nil {
			return 0, err
		}
		begin := time.Now()
		_, stop, err := newMDNS(h)
		if err != nil {
			return 0, err
		}
		defer stop()
		err = peers.await(ctx, listener, h.ID())
		return time.Since(begin), err
	}
	return c, stop
}
