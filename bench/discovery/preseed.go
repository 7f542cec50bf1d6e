package main

import (
	"fmt"
	"reflect"
	"time"
	"unsafe"

	"cell.network/cell/internal/kad"
	"cell.network/cell/internal/record"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"
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
	return all.introduce()
}

// introduce has every host know of all others by membership, as it does after
// a while in any network of some thousands.
func (all *ourHosts) introduce() error {
	time.Sleep(time.Second) // until each has said where it is
	contacts := make([]record.Contact, len(all.hosts))
	for i, h := range all.hosts {
		if contacts[i] = h.node.Pulse().OwnContact(); contacts[i].Raw != nil {
			continue
		}
		// The node does not take part in membership: it is told what that would say.
		for j, other := range all.hosts {
			if i != j {
				h.node.Kad().Known(other.key.Public(), [][]byte{ma.StringCast(multiaddrOf(j)).Bytes()}, true, true)
			}
		}
	}
	for i, h := range all.hosts {
		for j, c := range contacts {
			if i != j && c.Raw != nil {
				h.node.Pulse().Learn(c)
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
