package main

import (
	"fmt"
	"reflect"
	"time"
	"unsafe"

	"cell.network/cell/internal/record"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p-kbucket/peerdiversity"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"
)

// preseed fills the routing tables as if the network had been up for long, the
// same as those of the stock hosts, and what membership tells the DHT.
func (all *ourHosts) preseed() error {
	// Every node looks around once at its start: with a full table each would
	// then be connected to half of the others before the first question.
	time.Sleep(time.Second)
	infos := make([]peer.AddrInfo, len(all.hosts))
	ids := make([]peer.ID, len(all.hosts))
	for i := range all.hosts {
		info, err := all.peerOf(i)
		if err != nil {
			return err
		}
		infos[i], ids[i] = info, info.ID
	}
	routers := make([]*kb.RoutingTable, len(all.hosts))
	for i, h := range all.hosts {
		router, err := field[*dht.IpfsDHT](h.node.Kad(), "dht")
		if err != nil {
			return err
		}
		routers[i] = (*router).RoutingTable()
		// The filter of whom a table takes asks where a peer is connected from.
		filter, err := field[*peerdiversity.Filter](routers[i], "df")
		if err != nil {
			return err
		}
		was := *filter
		*filter = nil
		defer func() { *filter = was }()
	}
	tables(all.setup, ids, func(i, j int) {
		all.hosts[i].node.Host().Peerstore().AddAddrs(ids[j], infos[j].Addrs, peerstore.PermanentAddrTTL)
		_, _ = routers[i].TryAddPeer(ids[j], true, true)
	})
	return all.introduce()
}

// introduce has every host know of all others by membership, as it does after a
// while in any network of some thousands. By now each has said where it is.
func (all *ourHosts) introduce() error {
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

// field reaches into a struct: no program but a simulation has a reason to fill
// a routing table other than by talking to peers.
func field[T, S any](of *S, name string) (*T, error) {
	f := reflect.ValueOf(of).Elem().FieldByName(name)
	if !f.IsValid() || f.Type() != reflect.TypeFor[T]() {
		return nil, fmt.Errorf("preseed: %T keeps what it knows elsewhere", of)
	}
	return (*T)(unsafe.Pointer(f.UnsafeAddr())), nil
}
