package kad

import (
	"sync"

	"cell.network/cell/internal/host"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/peer"
)

// tableValue is what a place in the routing table is worth to the connection
// manager: kept before strangers, closed before what calls use.
const tableValue = 5

// table is the host as the routing table sees it: it listens to what the table
// tells the connection manager, which is the only sign of change it gives, and
// turns the table's wish to protect up to forty connections from being closed
// into a preference.
type table struct {
	*host.Host

	mu      sync.Mutex // guards what follows
	changed chan struct{}
}

// Peers returns the peers of the routing table.
func (k *Kad) Peers() []peer.ID { return k.dht.RoutingTable().ListPeers() }

// Changed returns a channel that is closed when a peer next enters or leaves
// the routing table, or the first one becomes known. Take it before looking, and
// no change is missed.
func (k *Kad) Changed() <-chan struct{} { return k.table.wait() }

func newTable(h *host.Host) *table { return &table{Host: h, changed: make(chan struct{})} }

// ConnManager implements [host.Host].
func (t *table) ConnManager() connmgr.ConnManager { return listener{t.Host.ConnManager(), t} }

// wait returns a channel that is closed when a peer enters or leaves the table.
func (t *table) wait() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

func (t *table) tell() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.changed)
	t.changed = make(chan struct{})
}

type listener struct {
	connmgr.ConnManager
	table *table
}

func (l listener) Protect(p peer.ID, tag string) { l.TagPeer(p, tag, 2*tableValue) }

func (l listener) TagPeer(p peer.ID, tag string, value int) {
	l.ConnManager.TagPeer(p, tag, value)
	l.table.tell()
}

func (l listener) UntagPeer(p peer.ID, tag string) {
	l.ConnManager.UntagPeer(p, tag)
	l.table.tell()
}
