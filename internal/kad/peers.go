package kad

import "github.com/libp2p/go-libp2p/core/peer"

// Peers returns the peers of the routing table.
func (k *Kad) Peers() []peer.ID { return k.dht.RoutingTable().ListPeers() }

// Changed returns a channel that is closed when a peer next enters or leaves
// the routing table. Take it before looking, and no change is missed.
func (k *Kad) Changed() <-chan struct{} { return k.table.wait() }
