package main

import (
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-msgio"
	"google.golang.org/protobuf/proto"
)

func attackStock(s setup, figures map[string]figure) error {
	names := siegeNames(s)
	var places []kb.ID
	for _, n := range names {
		places = append(places, kb.ConvertKey(string(cidOf(n).Hash())))
	}
	a, err := grind(s, places)
	if err != nil {
		return err
	}
	honest := s.Nodes
	s.Nodes += len(names) * attackers
	net, err := newStock(s, newWAN(s), a.flat()...)
	if err != nil {
		return err
	}
	defer net.close()
	var recruits []int
	for i := honest; i < s.Nodes; i++ {
		recruits = append(recruits, i)
	}
	for _, i := range recruits {
		var gang []peer.AddrInfo
		for _, j := range recruits[(i-honest)/attackers*attackers:][:attackers] {
			gang = append(gang, peer.AddrInfo{ID: net.hosts[j].host.ID(), Addrs: net.hosts[j].host.Addrs()})
		}
		h := net.hosts[i].host
		h.SetStreamHandler(protocol.ID("/bench/kad/1.0.0"), func(st network.Stream) { lieStock(h, st, gang) })
	}
	return besieged(s, net, names, recruits, figures)
}

// lieStock answers the requests of stock kad-dht on one stream.
func lieStock(h host.Host, st network.Stream, gang []peer.AddrInfo) {
	defer st.Close()
	r := msgio.NewVarintReaderSize(st, network.MessageSizeMax)
	w := msgio.NewVarintWriter(st)
	for {
		_ = st.SetDeadline(time.Now().Add(time.Minute))
		b, err := r.ReadMsg()
		if err != nil {
			return
		}
		var ask pb.Message
		err = proto.Unmarshal(b, &ask)
		r.ReleaseMsg(b)
		if err != nil {
			return
		}
		if ask.GetType() == pb.Message_ADD_PROVIDER { // is not answered
			continue
		}
		answer := pb.NewMessage(ask.GetType(), ask.GetKey(), 0)
		answer.CloserPeers = pb.PeerInfosToPBPeers(h.Network(), gang)
		text, err := proto.Marshal(answer)
		if err != nil || w.WriteMsg(text) != nil {
			return
		}
	}
}
