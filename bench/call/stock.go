package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"
	kaddht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/host"
	mh "github.com/multiformats/go-multihash"
)

// stockNode is a stock libp2p host with the stock DHT.
type stockNode struct {
	host host.Host
	dht  *kaddht.IpfsDHT
	stop func()
}

// newStockNode makes h part of a DHT, which it joins by one address; the zero
// address is of nobody. It returns when the routing table holds a peer.
func newStockNode(ctx context.Context, h host.Host, first libp2pAddr) (*stockNode, error) {
	d, err := kaddht.New(h, kaddht.ProtocolPrefix("/bench"), kaddht.Mode(kaddht.ModeServer))
	if err != nil {
		_ = h.Close()
		return nil, err
	}
	n := &stockNode{h, d, func() { _ = d.Close(); _ = h.Close() }}
	if first.ID == "" {
		return n, nil
	}
	if err := n.join(ctx, first); err != nil {
		n.stop()
		return nil, err
	}
	return n, nil
}

func (n *stockNode) join(ctx context.Context, first libp2pAddr) error {
	to, err := first.info()
	if err != nil {
		return err
	}
	if err := n.host.Connect(ctx, to); err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for n.dht.RoutingTable().Size() == 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("the routing table stays empty")
		}
	}
	return n.dht.Bootstrap(ctx) // goes on in the background
}

// call finds the first provider of a name and calls it.
func (n *stockNode) call(ctx context.Context, name string) error {
	c, err := nameCID(name)
	if err != nil {
		return err
	}
	search, cancel := context.WithCancel(ctx)
	defer cancel()
	p, ok := <-n.dht.FindProvidersAsync(search, c, 1)
	if !ok {
		return fmt.Errorf("nobody provides %s", name)
	}
	if err := n.host.Connect(ctx, p); err != nil {
		return err
	}
	_, err = libp2pCall(ctx, n.host, p.ID, hello)
	return err
}

func nameCID(name string) (cid.Cid, error) {
	sum, err := mh.Sum([]byte(name), mh.SHA2_256, -1)
	return cid.NewCidV1(cid.Raw, sum), err
}

// dhtPart is a stock DHT. Its last node provides the names; ready is the
// address of its first.
func dhtPart(arg []byte) (any, func(), error) {
	var s swarmSpec
	if err := json.Unmarshal(arg, &s); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	var nodes []*stockNode
	stop := func() {
		for _, n := range nodes {
			n.stop()
		}
	}
	var first libp2pAddr
	for i := range s.Nodes {
		h, err := newLibp2p(loopback[0])
		if err != nil {
			stop()
			return nil, nil, err
		}
		n, err := newStockNode(ctx, h, first)
		if err != nil {
			stop()
			return nil, nil, err
		}
		if nodes = append(nodes, n); i == 0 {
			first = libp2pAddrOf(n.host)
		}
	}
	err := joined(ctx, s.Nodes, func(i int) int { return nodes[i].dht.RoutingTable().Size() })
	if err == nil {
		err = each(s.Names, func(i int) error {
			c, err := nameCID(cellName(i))
			if err != nil {
				return err
			}
			return nodes[s.Nodes-1].dht.Provide(ctx, c, true)
		})
	}
	if err != nil {
		stop()
		return nil, nil, err
	}
	return first, stop, nil
}
