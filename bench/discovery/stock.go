package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/sim"
	"github.com/ipfs/go-cid"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	blankhost "github.com/libp2p/go-libp2p/p2p/host/blank"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
	mh "github.com/multiformats/go-multihash"
)

// stockHosts are hosts of libp2p with its stock DHT: no relays, no NAT, nothing
// that its lookups do not need. Tables are filled beforehand and nobody is
// connected.
type stockHosts struct {
	net   *sim.Network
	hosts []*stockHost
	index map[peer.ID]int
	asked atomic.Uint64
}

type stockHost struct {
	host    host.Host
	dht     *dht.IpfsDHT
	closers []io.Closer // last first
	once    sync.Once
}

func newStock(s setup, net *sim.Network, last ...identity.Private) (*stockHosts, error) {
	all := &stockHosts{net: net, index: make(map[peer.ID]int)}
	for i := range s.Nodes {
		h, err := all.add(i, hostKey(s, i, last))
		if err != nil {
			all.close()
			return nil, fmt.Errorf("make stock host: %w", err)
		}
		all.index[h.host.ID()] = i
		all.hosts = append(all.hosts, h)
	}
	ids := make([]peer.ID, len(all.hosts))
	addrs := make([][]ma.Multiaddr, len(all.hosts))
	for i, h := range all.hosts {
		ids[i], addrs[i] = h.host.ID(), h.host.Addrs()
	}
	tables(s, ids, func(i, j int) {
		h := all.hosts[i]
		h.host.Peerstore().AddAddrs(ids[j], addrs[j], peerstore.PermanentAddrTTL)
		_, _ = h.dht.RoutingTable().TryAddPeer(ids[j], true, true)
	})
	return all, nil
}

// add makes a host the way that libp2p's own simulations do.
func (all *stockHosts) add(i int, own identity.Private) (_ *stockHost, err error) {
	h := &stockHost{}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	key, err := crypto.UnmarshalEd25519PrivateKey(own.Raw())
	if err != nil {
		return nil, err
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	book, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, err
	}
	h.closers = append(h.closers, book)
	if err := errors.Join(book.AddPrivKey(id, key), book.AddPubKey(id, key.GetPublic())); err != nil {
		return nil, err
	}
	reuse, err := quicreuse.NewConnManager([32]byte{1, byte(i), byte(i >> 8)}, [32]byte{2, byte(i), byte(i >> 8)},
		quicreuse.OverrideListenUDP(all.net.Listen),
		quicreuse.OverrideSourceIPSelector(func() (quicreuse.SourceIPSelector, error) { return sourceIP(i), nil }))
	if err != nil {
		return nil, err
	}
	h.closers = append(h.closers, reuse)
	bus := eventbus.NewBus()
	net, err := swarm.NewSwarm(id, book, bus)
	if err != nil {
		return nil, err
	}
	h.closers = append(h.closers, net)
	quic, err := libp2pquic.NewTransport(key, reuse, nil, nil, &network.NullResourceManager{})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(net.AddTransport(quic), net.Listen(ma.StringCast(multiaddrOf(i)))); err != nil {
		return nil, err
	}
	manager, err := connmgr.NewConnManager(100, 200, connmgr.WithGracePeriod(10*time.Second))
	if err != nil {
		return nil, err
	}
	h.closers = append(h.closers, manager)
	h.host = blankhost.NewBlankHost(net, blankhost.WithEventBus(bus), blankhost.WithConnectionManager(manager))
	ids, err := identify.NewIDService(h.host)
	if err != nil {
		return nil, err
	}
	h.closers = append(h.closers, ids)
	ids.Start()
	h.dht, err = dht.New(h.host, dht.Mode(dht.ModeServer), dht.ProtocolPrefix("/bench"), dht.DisableAutoRefresh(),
		dht.OnRequestHook(func(context.Context, network.Stream, *pb.Message) { all.asked.Add(1) }))
	if err != nil {
		return nil, err
	}
	h.closers = append(h.closers, h.dht)
	return h, nil
}

// sourceIP is where host i's packets come from.
type sourceIP int

func (i sourceIP) PreferredSourceIPForDestination(*net.UDPAddr) (net.IP, error) {
	return addrOf(int(i)).AsSlice(), nil
}

func (h *stockHost) close() {
	h.once.Do(func() {
		for i := len(h.closers) - 1; i >= 0; i-- {
			_ = h.closers[i].Close()
		}
	})
}

func (all *stockHosts) size() int { return len(all.hosts) }

func cidOf(name string) cid.Cid {
	sum, err := mh.Sum([]byte(name), mh.SHA2_256, -1)
	if err != nil {
		panic(err) // only an unknown hash makes it fail
	}
	return cid.NewCidV1(cid.Raw, sum)
}

func (all *stockHosts) announce(ctx context.Context, i int, name string) error {
	return all.hosts[i].dht.Provide(ctx, cidOf(name), true)
}

func (all *stockHosts) find(ctx context.Context, i int, name string) search {
	began := time.Now()
	s := search{first: -1}
	for p := range all.hosts[i].dht.FindProvidersAsync(ctx, cidOf(name), 0) {
		if s.first < 0 {
			s.first = time.Since(began)
		}
		s.who = append(s.who, all.index[p.ID])
	}
	s.all = time.Since(began)
	return s
}

func (all *stockHosts) kill(hosts []int) {
	for _, i := range hosts {
		all.net.Kill(addrOf(i))
	}
	var gone sync.WaitGroup
	for _, i := range hosts {
		gone.Go(all.hosts[i].close)
	}
	gone.Wait()
}

func (all *stockHosts) requests() uint64 { return all.asked.Load() }

func (all *stockHosts) close() {
	var gone sync.WaitGroup
	for _, h := range all.hosts {
		gone.Go(h.close)
	}
	gone.Wait()
	all.net.Close()
}
