package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"cell.network/cell/bench/report"
	"cell.network/cell/internal/frame"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
)

// settle is how long an announcer has been there before newcomers come, so
// that they meet a network at rest and not its first announcement.
const settle = 2 * time.Second

// patience is how long a newcomer tries.
const patience = 10 * time.Second

var hello = []byte("hello")

// lan measures newcomers on the local network: a caller that knows nothing,
// from its first packet to its first answered call, and a callee, from its
// announcement to the first call of a neighbour that listens.
func (b *bench) lan(ctx context.Context) {
	ours, closeOurs := b.cellLAN()
	defer closeOurs()
	theirs, closeTheirs := mdnsLAN()
	defer closeTheirs()
	wait(ctx, settle)
	cs := []report.Contender{ours, theirs}
	sides := report.Times(ctx, pick(b, 5, 41), b.rand, cs)
	b.compare("new caller to its first call, LAN", report.Time, cs, sides, 1)

	neighbour, closeNeighbour := b.cellNeighbour()
	defer closeNeighbour()
	stock, closeStock := mdnsNeighbour()
	defer closeStock()
	cs = []report.Contender{neighbour, stock}
	sides = report.Times(ctx, pick(b, 5, 41), b.rand, cs)
	b.compare("new callee to its first call, LAN", report.Time, cs, sides, 1)
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// cellLAN is a node with a replica in another process, and newcomers in this
// one.
func (b *bench) cellLAN() (report.Contender, func()) {
	c := report.Contender{Name: "cell"}
	var port int
	if port, c.Err = freePort(); c.Err != nil {
		return c, func() {}
	}
	child, err := report.StartChild("node", nodeSpec{Root: filepath.Join(b.dir, "lan"), Seed: b.seed, Index: 10, LANPort: port, Cell: "echo"}, nil)
	if err != nil {
		c.Err = err
		return c, func() {}
	}
	index := 100
	c.CPU = func() (time.Duration, error) { return sum(child.CPU) }
	c.Op = func(ctx context.Context) (time.Duration, error) {
		index++
		return b.newcomer(ctx, nodeSpec{Seed: b.seed, Index: index, LANPort: port}, "echo")
	}
	return c, func() { _ = child.Close() }
}

// newcomer sets a node going that knows nothing, calls a cell at once, and
// returns how long that took.
func (b *bench) newcomer(ctx context.Context, s nodeSpec, cell string) (time.Duration, error) {
	s.Root = filepath.Join(b.dir, fmt.Sprintf("n%d", s.Index))
	defer os.RemoveAll(s.Root)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	n, err := s.build()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	stop := n.run()
	defer stop()
	_, err = n.node.Call(ctx, frame.Request{Target: target(s.Seed, cell, "echo"), Body: hello})
	return time.Since(begin), err
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

const mdnsName = "libp2p 0.51.0, mDNS"

// mdnsService is the name under which libp2p hosts look for each other.
const mdnsService = "_cellbench._udp"

// found hands on the peers that mDNS finds.
type found chan peer.AddrInfo

func (f found) HandlePeerFound(p peer.AddrInfo) {
	select {
	case f <- p:
	default:
	}
}

// newMDNS starts mDNS on a host; stop ends both.
func newMDNS(h host.Host) (found, func(), error) {
	f := make(found, 16)
	s := mdns.NewMdnsService(h, mdnsService, f)
	if err := s.Start(); err != nil {
		_ = h.Close()
		return nil, nil, err
	}
	return f, func() { _ = s.Close(); _ = h.Close() }, nil
}

// await waits until a peer is found, then calls it.
func (f found) await(ctx context.Context, h host.Host, id peer.ID) error {
	for {
		select {
		case p := <-f:
			if p.ID != id { // one of before, not yet forgotten
				continue
			}
			if err := h.Connect(ctx, p); err != nil {
				return err
			}
			_, err := libp2pCall(ctx, h, p.ID, hello)
			return err
		case <-ctx.Done():
			return errors.New("not found")
		}
	}
}

func mdnsPart([]byte) (any, func(), error) {
	h, err := newLibp2p(everywhere)
	if err != nil {
		return nil, nil, err
	}
	_, stop, err := newMDNS(h)
	return libp2pAddrOf(h), stop, err
}

// mdnsLAN is the same with a stock libp2p host and its mDNS.
func mdnsLAN() (report.Contender, func()) {
	c := report.Contender{Name: mdnsName}
	var addr libp2pAddr
	child, err := report.StartChild("libp2p-mdns", nil, &addr)
	if err != nil {
		c.Err = err
		return c, func() {}
	}
	callee, err := addr.info()
	c.Err = err
	c.CPU = func() (time.Duration, error) { return sum(child.CPU) }
	c.Op = func(ctx context.Context) (time.Duration, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		h, err := newLibp2p(everywhere)
		if err != nil {
			return 0, err
		}
		begin := time.Now()
		peers, stop, err := newMDNS(h)
		if err != nil {
			return 0, err
		}
		defer stop()
		err = peers.await(ctx, h, callee.ID)
		return time.Since(begin), err
	}
	return c, func() { _ = child.Close() }
}
