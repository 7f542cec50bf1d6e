package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/mesh"
	"cell.network/cell/internal/node"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/sim"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// ourHosts are nodes of the cell program: the constructor of `cell up`, with
// the simulated network for its sockets. Replicas are left out; who serves
// what is announced as the node would.
type ourHosts struct {
	setup  setup
	net    *sim.Network
	dir    string // of their homes
	author identity.Private
	grant  []byte // lets everybody serve the author's cells
	hosts  []*ourHost
	index  map[identity.Key]int
}

type ourHost struct {
	at   int
	key  identity.Private
	node *node.Node
	link *meter
	stop context.CancelFunc
	done chan struct{}
}

// cellnet is the public one, with all its rules for strangers.
const cellnet = identity.Public

// joinBy says whom host i knows at its start; nil: nobody.
type joinBy func(i int) []int

// newOurs makes the hosts and sets them going. They know nobody but those that
// join says, and what is preseeded.
func newOurs(s setup, wires *sim.Network, join joinBy, last ...identity.Private) (*ourHosts, error) {
	dir, err := os.MkdirTemp("", "cellbench")
	if err != nil {
		return nil, err
	}
	all := &ourHosts{
		setup: s, net: wires, dir: dir, author: keyOf(s.Seed, "author", 0), index: make(map[identity.Key]int),
	}
	grant, err := record.SignGrant(all.author, cellnet.ID(), "", []record.Subject{{Kind: record.SubjectAny}}, time.Now(), 300*24*time.Hour)
	if err != nil {
		all.close()
		return nil, err
	}
	all.grant = grant.Raw
	for i := range s.Nodes {
		h := &ourHost{at: i, key: hostKey(s, i, last)}
		all.hosts = append(all.hosts, h)
		all.index[h.key.Public()] = i
	}
	for _, h := range all.hosts {
		if err := all.start(h, join); err != nil {
			all.close()
			return nil, fmt.Errorf("start node %d: %w", h.at, err)
		}
	}
	phase(s, "nodes are up")
	return all, nil
}

// start sets a host going, with the disk that it left behind if it ran before.
func (all *ourHosts) start(h *ourHost, join joinBy) error {
	place, err := home.At(filepath.Join(all.dir, fmt.Sprint(h.at)))
	if err != nil {
		return err
	}
	if err := place.Make(); err != nil {
		return err
	}
	settings := node.DefaultSettings()
	settings.Network, settings.Mode, settings.Author = cellnet, node.ModeServer, all.author.Public()
	settings.Listen, settings.Bootstrap = []string{multiaddrOf(h.at)}, nil
	if join != nil {
		for _, j := range join(h.at) {
			id, err := host.PeerID(all.hosts[j].key.Public())
			if err != nil {
				return err
			}
			settings.Bootstrap = append(settings.Bootstrap, fmt.Sprintf("%s/p2p/%s", multiaddrOf(j), id))
		}
	}
	h.link = &meter{}
	if h.node, err = node.New(node.Config{
		Key: h.key, Home: place, Settings: settings, Version: "bench",
		ListenPacket: func(network string, laddr *net.UDPAddr) (net.PacketConn, error) {
			c, err := all.net.Listen(network, laddr)
			if err != nil {
				return nil, err
			}
			return h.link.wrap(c), nil
		},
	}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.stop, h.done = cancel, make(chan struct{})
	go func(n *node.Node, done chan<- struct{}) {
		defer close(done)
		if err := n.Run(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "node:", err)
		}
	}(h.node, h.done)
	return nil
}

// end stops a host and waits for it.
func (h *ourHost) end() {
	if h.stop == nil {
		return
	}
	h.stop()
	h.stop = nil
	<-h.done
}

// cell is what a name of a scene stands for.
func (all *ourHosts) cell(name string) identity.Cell {
	return identity.Cell{Author: all.author.Public(), Name: identity.Name(name)}
}

func (all *ourHosts) size() int { return len(all.hosts) }

func (all *ourHosts) announce(ctx context.Context, i int, name string) error {
	l := all.hosts[i].node.Mesh().Announce(all.cell(name), all.grant, nil)
	for {
		updated := l.Updated()
		if l.State().Phase == mesh.Held {
			return nil
		}
		select {
		case <-updated:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), l.State().Err)
		}
	}
}

func (all *ourHosts) find(ctx context.Context, i int, name string) search {
	began := time.Now()
	s := search{first: -1}
	for e, err := range all.hosts[i].node.Mesh().Discover(ctx, all.cell(name)) {
		if err != nil {
			break
		}
		if s.first < 0 {
			s.first = time.Since(began)
		}
		s.who = append(s.who, all.index[e.Node])
	}
	s.all = time.Since(began)
	return s
}

func (all *ourHosts) kill(hosts []int) {
	for _, i := range hosts {
		all.net.Kill(addrOf(i))
	}
	var gone sync.WaitGroup
	for _, i := range hosts {
		gone.Go(all.hosts[i].end)
	}
	gone.Wait()
}

func (all *ourHosts) requests() (n uint64) {
	for _, h := range all.hosts {
		n += h.node.Kad().Asked()
	}
	return n
}

func (all *ourHosts) close() {
	var gone sync.WaitGroup
	for _, h := range all.hosts {
		gone.Go(h.end)
	}
	gone.Wait()
	all.net.Close()
	_ = os.RemoveAll(all.dir)
}

// peerOf returns what it takes to dial host i.
func (all *ourHosts) peerOf(i int) (peer.AddrInfo, error) {
	id, err := host.PeerID(all.hosts[i].key.Public())
	return peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{ma.StringCast(multiaddrOf(i))}}, err
}
