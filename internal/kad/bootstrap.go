package kad

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cell.network/cell/internal/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	madns "github.com/multiformats/go-multiaddr-dns"
)

// How peers are met.
const (
	fewPeers     = 8  // below, the bootstrap peers are dialled again and again
	meetMany     = 16 // peers taken of one call of AddPeers
	meetFew      = 2  // remembered peers that are dialled now and then: so that the halves of a cut network meet again
	meetWave     = 24 // remembered peers that are dialled at once where nobody is known: most may be dead
	waveEvery    = 300 * time.Millisecond
	meetAtOnce   = 8  // dials under way otherwise
	maxMeetings  = 32 // calls of AddPeers under way; what comes meanwhile is dropped
	meetTimeout  = 5 * time.Second
	waveTimeout  = 2 * time.Second
	backoffFirst = time.Second     // pause after the first attempt to fill the table
	backoffEmpty = 4 * time.Second // it doubles up to this while the table is empty
	backoffSmall = 2 * time.Minute // and up to this while it is not
	backoffAll   = time.Minute     // DNS is asked, and all remembered peers are dialled, ever more rarely up to this
	maxResolved  = 32              // addresses taken from one name
)

// parseSeed reads a bootstrap address: /ip4/…/udp/…/quic-v1/p2p/… or a name
// under which DNS has such.
func parseSeed(s string) (ma.Multiaddr, error) {
	a, err := ma.NewMultiaddr(s)
	if err != nil {
		return nil, fmt.Errorf("bootstrap address %q: %w", s, err)
	}
	if madns.Matches(a) {
		return a, nil
	}
	if _, err := peer.AddrInfoFromP2pAddr(a); err != nil {
		return nil, fmt.Errorf("bootstrap address %q must end with /p2p/ and the peer's id: %w", s, err)
	}
	return a, nil
}

// AddPeers tells the node of peers that others found, such as those on the LAN.
// They are dialled in the background and enter the routing table if they serve.
// Whoever says so may have made them up: while many are being dialled, further
// ones are forgotten, so that dials for other ends go on.
func (k *Kad) AddPeers(peers []peer.AddrInfo) {
	peers = slices.DeleteFunc(slices.Clone(peers), func(p peer.AddrInfo) bool { return len(p.Addrs) == 0 || k.linked(p.ID) })
	if len(peers) == 0 {
		return
	}
	if len(peers) > meetMany {
		peers = peers[:meetMany]
	}
	select {
	case k.meetings <- struct{}{}:
	default:
		return
	}
	if !k.begin() {
		<-k.meetings
		return
	}
	go func() {
		defer k.tasks.Done()
		defer func() { <-k.meetings }()
		_ = k.meet(peers, meetAtOnce, meetTimeout)
	}()
}

// Bootstrap waits until this node knows somebody to ask. The dialling goes on
// without it. When ctx ends first the error wraps [ErrNoPeers].
func (k *Kad) Bootstrap(ctx context.Context) error {
	k.wake()
	for {
		changed := k.table.wait()
		if k.Size() > 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("bootstrap: %w: %w", ErrNoPeers, context.Cause(ctx))
		case <-k.ctx.Done():
			return fmt.Errorf("bootstrap: %w: closed", ErrNoPeers)
		}
	}
}

// wake makes the loop below look at once.
func (k *Kad) wake() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// keepPeers fills the routing table while it is small, remembers who is in it,
// and now and then meets those who no longer are.
func (k *Kad) keepPeers() {
	backoff, all := backoffFirst, backoffFirst
	var next time.Time // when nothing is left out
	for {
		if lost := k.lost.Swap(false); lost || k.dht.RoutingTable().Size() < fewPeers {
			every := lost || !time.Now().Before(next)
			k.meetAll(every)
			if every {
				next = time.Now().Add(all)
				all = min(2*all, backoffAll)
			}
		} else {
			_ = k.meet(k.book.pick(meetFew, time.Now(), k.inTable), meetAtOnce, meetTimeout)
		}
		k.remember()
		full, most := k.Size() > 0, backoffEmpty
		if full {
			most = backoffSmall
		}
		wait := min(backoff, most)
		backoff = min(2*backoff, most)
		if !k.pause(wait+rand.N(wait/4), full) {
			return
		}
		if full && k.Size() == 0 {
			backoff, all, next = backoffFirst, backoffFirst, time.Time{}
		}
	}
}

func (k *Kad) inTable(p peer.ID) bool {
	return p == k.host.ID() || k.dht.RoutingTable().Find(p) != ""
}

// pause waits for the time, a call of wake or, where full says that the table
// was not empty, its getting so. It reports false when the node closes.
func (k *Kad) pause(wait time.Duration, full bool) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		changed := k.table.wait()
		if full && k.Size() == 0 {
			return true
		}
		select {
		case <-k.ctx.Done():
			return false
		case <-t.C:
			return true
		case <-k.kick:
			return true
		case <-changed:
		}
	}
}

// linked reports whether there is nothing to gain from dialling a peer.
func (k *Kad) linked(p peer.ID) bool {
	return p == k.host.ID() || k.host.Network().Connectedness(p) == network.Connected
}

// meetAll races all ways into the network: names, addresses, and remembered
// peers. Where not every one is wanted, what names led to the last time and a few
// of the remembered peers have to do.
func (k *Kad) meetAll(every bool) {
	var all sync.WaitGroup
	for i, s := range k.conf.Bootstrap {
		all.Go(func() {
			if every {
				seeds, err := k.seed(s)
				if k.seeds[i] = seeds; len(seeds) == 0 {
					k.entered(i, err)
				}
			}
			if len(k.seeds[i]) > 0 {
				k.entered(i, k.meet(k.seeds[i], meetAtOnce, meetTimeout))
			}
		})
	}
	if every {
		all.Go(k.meetOld)
	} else {
		all.Go(func() { _ = k.meet(k.book.pick(meetFew, time.Now(), k.linked), meetAtOnce, meetTimeout) })
	}
	all.Wait()
}

// meetOld dials remembered peers, a wave of them and another one soon after,
// until somebody is known: one dead peer must not keep this node from the next.
func (k *Kad) meetOld() {
	old := k.book.pick(maxBook, time.Now(), k.linked)
	var all sync.WaitGroup
	defer all.Wait()
	for wave := range slices.Chunk(old, meetWave) {
		all.Go(func() { _ = k.meet(wave, meetWave, waveTimeout) })
		select {
		case <-time.After(waveEvery):
		case <-k.ctx.Done():
			return
		}
		if k.Size() > 0 {
			return
		}
	}
}

// seed returns the peers behind a bootstrap address.
func (k *Kad) seed(s string) ([]peer.AddrInfo, error) {
	a, err := parseSeed(s)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(k.ctx, meetTimeout)
	defer cancel()
	found := []ma.Multiaddr{a}
	for range 2 { // a name may lead to one more
		var next []ma.Multiaddr
		for _, a := range found {
			if !madns.Matches(a) {
				next = append(next, a)
				continue
			}
			r, e := k.conf.Resolve(ctx, a)
			next, err = append(next, r...), errors.Join(err, e)
		}
		found = next[:min(len(next), maxResolved)]
	}
	var peers []ma.Multiaddr
	for _, a := range found {
		if _, e := peer.AddrInfoFromP2pAddr(a); e == nil && !madns.Matches(a) {
			peers = append(peers, a)
		}
	}
	infos, e := peer.AddrInfosFromP2pAddrs(peers...)
	if err = errors.Join(err, e); err == nil && len(infos) == 0 {
		err = errNoAddress
	}
	return infos, err
}

// meet dials peers, some at once, asks them who is close to this node, and
// returns when all have been tried. Who answers can be asked for more at once;
// into the routing table it comes once it has said what protocols it speaks.
// The error is why one of them was not met, nil where another one was.
func (k *Kad) meet(peers []peer.AddrInfo, atOnce int, limit time.Duration) error {
	var all sync.WaitGroup
	var met atomic.Bool
	var failure atomic.Pointer[error]
	slots := make(chan struct{}, atOnce)
	for _, p := range peers {
		if _, known := k.dir.about(p.ID); k.linked(p.ID) && (known || k.inTable(p.ID)) {
			met.Store(true)
			continue
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(k.ctx, limit)
			defer cancel()
			k.host.Redial(p.ID)
			start := time.Now()
			if _, err := k.ask(ctx, p, request{Op: opNear, Key: k.self[:]}); err != nil {
				k.conf.Log.Debug("peer does not answer", "peer", p.ID, "err", err)
				failure.Store(&err)
				return
			}
			met.Store(true)
			if len(host.Publishable(k.conf.Network, p.Addrs)) == 0 {
				return // a neighbour, who is none of a network of strangers
			}
			alone := k.Size() == 0
			k.dir.answered(p.ID, p.Addrs, time.Since(start)/2, time.Now())
			k.book.note(p, time.Now())
			if alone {
				k.table.tell()
			}
		})
	}
	all.Wait()
	if err := failure.Load(); err != nil && !met.Load() {
		return *err
	}
	return nil
}

// remember writes down who is in the routing table.
func (k *Kad) remember() {
	now := time.Now()
	for _, p := range k.dht.RoutingTable().ListPeers() {
		k.book.note(k.host.Peerstore().PeerInfo(p), now)
	}
	if err := k.book.save(); err != nil {
		k.conf.Log.Warn("peers are not remembered", "err", err)
	}
}
