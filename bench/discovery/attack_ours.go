package main

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"github.com/fxamacker/cbor/v2"
	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
)

// firstPlace is the first of the places at which our leases of a name lie. The
// attacker knows how it is made as well as everybody else.
func firstPlace(cell identity.Cell) kb.ID {
	key := cell.Key(cellnet.ID())
	sum := sha256.Sum256(append(append([]byte("cell/lease/1"), key[:]...), 0))
	return sum[:]
}

func attackOurs(s setup, figures map[string]figure) error {
	names := siegeNames(s)
	author := keyOf(s.Seed, "author", 0).Public()
	var places []kb.ID
	for _, n := range names {
		places = append(places, firstPlace(identity.Cell{Author: author, Name: identity.Name(n)}))
	}
	a, err := grind(s, places)
	if err != nil {
		return err
	}
	honest := s.Nodes
	s.Nodes += len(names) * attackers
	net, err := newOurs(s, newWAN(s), nil, a.flat()...)
	if err != nil {
		return err
	}
	defer net.close()
	var recruits []int
	for i := honest; i < s.Nodes; i++ {
		recruits = append(recruits, i)
	}
	for _, i := range recruits {
		gang := recruits[(i-honest)/attackers*attackers:][:attackers]
		var nodes []liarNode
		for _, j := range gang {
			key := net.hosts[j].key.Public()
			nodes = append(nodes, liarNode{key[:], [][]byte{ma.StringCast(multiaddrOf(j)).Bytes()}})
		}
		for _, version := range []string{"lease/1", "lease/2"} {
			net.hosts[i].node.Host().SetStreamHandler(host.Protocol(cellnet, version), func(st network.Stream) { lie(st, nodes) })
		}
	}
	if err := net.preseed(); err != nil {
		return err
	}
	return besieged(s, net, names, recruits, figures)
}

// liarAnswer is as package kad's answer on the wire: all is well, there are no
// leases, and these are closer.
type liarAnswer struct {
	Code   uint8      `cbor:"1,keyasint"`
	Closer []liarNode `cbor:"3,keyasint"`
}

type liarNode struct {
	Key   []byte   `cbor:"1,keyasint"`
	Addrs [][]byte `cbor:"2,keyasint"`
}

// lie answers one request of package kad.
func lie(st network.Stream, gang []liarNode) {
	defer st.Close()
	_ = st.SetDeadline(time.Now().Add(10 * time.Second))
	var head [4]byte
	if _, err := io.ReadFull(st, head[:]); err != nil {
		return
	}
	if _, err := io.CopyN(io.Discard, st, int64(binary.BigEndian.Uint32(head[:]))); err != nil {
		return
	}
	b, err := cbor.Marshal(liarAnswer{0, gang})
	if err != nil {
		return
	}
	_, _ = st.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
}
