package main

import (
	"context"
	"errors"
	"time"

	"cell.network/cell/bench/report"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
)

const (
	mdnsName    = "libp2p 0.51.0, mDNS"
	mdnsService = "_cellbench._udp" // under which the hosts look for each other
)

// found hands on the peers that mDNS finds.
type found chan peer.ID

func (f found) HandlePeerFound(p peer.AddrInfo) {
	select {
	case f <- p.ID:
	default:
	}
}

// stockSite is a local network with a libp2p host whose mDNS is on.
type stockSite struct {
	host host.Host
	mdns mdns.Service
	seen found
	err  error
}

func newStockHost() (host.Host, error) {
	return libp2p.New(libp2p.ListenAddrStrings("/ip4/0.0.0.0/udp/0/quic-v1"))
}

func (s *stockSite) open() {
	if s.host, s.err = newStockHost(); s.err != nil {
		return
	}
	s.seen = make(found, 64)
	s.mdns = mdns.NewMdnsService(s.host, mdnsService, s.seen)
	s.err = s.mdns.Start()
}

func (s *stockSite) close() {
	if s.mdns != nil {
		_ = s.mdns.Close()
	}
	if s.host != nil {
		_ = s.host.Close()
	}
}

func (s *stockSite) contender(op func(context.Context) (time.Duration, error)) report.Contender {
	return report.Contender{Name: mdnsName, Op: op, CPU: usedCPU, Err: s.err}
}

func (s *stockSite) isFound(ctx context.Context) (time.Duration, error) {
	return s.newcomer(ctx, func(h host.Host, _ found) (found, peer.ID) { return s.seen, h.ID() })
}

func (s *stockSite) finds(ctx context.Context) (time.Duration, error) {
	return s.newcomer(ctx, func(_ host.Host, seen found) (found, peer.ID) { return seen, s.host.ID() })
}

// newcomer starts mDNS on a new host; which says who must see whom.
func (s *stockSite) newcomer(ctx context.Context, which func(host.Host, found) (found, peer.ID)) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	h, err := newStockHost()
	if err != nil {
		return 0, err
	}
	defer h.Close()
	seen := make(found, 64)
	m := mdns.NewMdnsService(h, mdnsService, seen)
	time.Sleep(rest)
	begin := time.Now()
	if err := m.Start(); err != nil {
		return 0, err
	}
	defer m.Close()
	who, whom := which(h, seen)
	for {
		select {
		case id := <-who:
			if id == whom {
				return time.Since(begin), nil
			}
		case <-ctx.Done():
			return 0, errors.New("not found")
		}
	}
}
