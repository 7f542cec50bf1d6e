package kad

import (
	"context"
	"sync"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Limits on those who watch names at this node.
const (
	maxWatchers     = 1024 // in all
	maxWatchersName = 256  // of one name
	maxWatchersPeer = 32   // of one peer
	maxPending      = MaxPerKey + maxTombsPerKey
	watchBeat       = 20 * time.Second         // a watcher hears something at least so often
	watchPause      = 50 * time.Millisecond    // between two messages: what comes meanwhile is sent together
	watchLife       = 15 * time.Minute         // of one stream; its reader opens another
	watchWrite      = 5 * time.Second          // for one message to leave
	watchSilence    = watchBeat*2 + watchWrite // after which a reader gives up a holder
)

// watched are the streams of those who watch names. It is safe for concurrent use.
type watched struct {
	mu    sync.Mutex // guards what follows
	names map[identity.NameKey]map[*watcher]struct{}
	peers map[peer.ID]int
	all   int
}

// watcher is one of them: what it must be told, the newest of every node.
type watcher struct {
	news chan struct{} // one token: there is something

	mu      sync.Mutex // guards pending
	pending map[identity.Key][]byte
}

func newWatched() *watched {
	return &watched{names: make(map[identity.NameKey]map[*watcher]struct{}), peers: make(map[peer.ID]int)}
}

// enter adds a watcher, or returns nil where there are too many.
func (w *watched) enter(key identity.NameKey, p peer.ID) *watcher {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all >= maxWatchers || len(w.names[key]) >= maxWatchersName || w.peers[p] >= maxWatchersPeer {
		return nil
	}
	if w.names[key] == nil {
		w.names[key] = make(map[*watcher]struct{})
	}
	one := &watcher{news: make(chan struct{}, 1), pending: make(map[identity.Key][]byte)}
	w.names[key][one] = struct{}{}
	w.peers[p]++
	w.all++
	return one
}

func (w *watched) leave(key identity.NameKey, p peer.ID, one *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.names[key], one)
	if len(w.names[key]) == 0 {
		delete(w.names, key)
	}
	if w.peers[p]--; w.peers[p] == 0 {
		delete(w.peers, p)
	}
	w.all--
}

// tell passes a lease on to those who watch its name.
func (w *watched) tell(key identity.NameKey, l record.Lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.names[key] {
		one.mu.Lock()
		if _, known := one.pending[l.Signer]; known || len(one.pending) < maxPending {
			one.pending[l.Signer] = l.Raw
		}
		one.mu.Unlock()
		select {
		case one.news <- struct{}{}:
		default:
		}
	}
}

// take returns what a watcher must be told.
func (one *watcher) take() (raws [][]byte) {
	one.mu.Lock()
	defer one.mu.Unlock()
	for _, raw := range one.pending {
		raws = append(raws, raw)
	}
	clear(one.pending)
	return raws
}

// serveWatch tells a peer what is held of a name, and then what comes.
func (k *Kad) serveWatch(s network.Stream) {
	if !k.begin() {
		_ = s.Reset()
		return
	}
	defer k.tasks.Done()
	defer func() { _ = s.Reset() }()
	ctx, cancel := context.WithTimeout(k.ctx, watchLife)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	_ = s.SetDeadline(time.Now().Add(serveTimeout))
	r, err := k.readRequest(s)
	if err != nil {
		return
	}
	p, key := s.Conn().RemotePeer(), identity.NameKey(r.Key)
	if r.Op != opWatch || !k.rate.allow(k.originOf(s).source, false, time.Now()) {
		k.refuse(reasonRate)
		_ = writeMessage(s, answer{Code: codeBusy})
		return
	}
	one := k.watched.enter(key, p)
	if one == nil {
		k.refuse(reasonWatchers)
		_ = writeMessage(s, answer{Code: codeBusy})
		return
	}
	defer k.watched.leave(key, p, one)
	_ = s.SetReadDeadline(time.Time{})
	gone := make(chan struct{})
	go func() { // the reader says nothing more: what ends this read is its leaving
		defer close(gone)
		_, _ = s.Read(make([]byte, 1))
		cancel()
	}()
	defer func() { _ = s.Reset(); <-gone }()
	a := answer{Leases: k.store.get(key, time.Now(), k.hidden)}
	beat := time.NewTicker(watchBeat)
	defer beat.Stop()
	for {
		_ = s.SetWriteDeadline(time.Now().Add(watchWrite))
		if writeMessage(s, a) != nil {
			return
		}
		select {
		case <-time.After(watchPause):
		case <-ctx.Done():
			return
		}
		select {
		case <-one.news:
		case <-beat.C:
		case <-ctx.Done():
			return
		}
		a = answer{Leases: one.take()}
	}
}
