package main

import (
	"fmt"
	"reflect"
	"unsafe"

	"cell.network/cell/internal/kad"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
)

// preseed fills the routing tables as if the network had been up for long, the
// same as those of the stock hosts, and what membership tells the DHT.
func (all *ourHosts) preseed() error {
	infos := make([]peer.AddrInfo, len(all.hosts))
	ids := make([]peer.ID, len(all.hosts))
	for i := range all.hosts {
		info, err := all.peerOf(i)
		if err != nil {
			return err
		}
		infos[i], ids[i] = info, info.ID
	}
	routers := make([]*dht.IpfsDHT, len(all.hosts))
	for i, h := range all.hosts {
		r, err := router(h.node.Kad())
		if err != nil {
			return err
		}
		routers[i] = r
	}
	tables(all.setup, ids, func(i, j int) {
		all.hosts[i].node.Host().Peerstore().AddAddrs(ids[j], infos[j].Addrs, peerstore.PermanentAddrTTL)
		_, _ = routers[i].RoutingTable().TryAddPeer(ids[j], true, true)
	})
	for i, h := range all.hosts {
		for j := range all.hosts {
			if i != j {
				h.node.Kad().Known(all.hosts[j].key.Public(), [][]byte{infos[j].Addrs[0].Bytes()}, true, true)
			}
		}
	}
	return nil
}

// router reaches into a Kad for its routing table: no program but a simulation
// has a reason to fill it other than by talking to peers.
func router(k *kad.Kad) (*dht.IpfsDHT, error) {
	f := reflect.ValueOf(k).Elem().FieldByName("dht")
	if !f.IsValid() || f.Type() != reflect.TypeFor[*dht.IpfsDHT]() {
		return nil, fmt.Errorf("preseed: package kad keeps its routing table elsewhere")
	}
	return *(**dht.IpfsDHT)(unsafe.Pointer(f.UnsafeAddr())), nil
}

// requests is not counted by our nodes yet.
func (all *ourHosts) requests() uint64 { return 0 }
