package kad

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/peer"
)

// How own leases are kept where they belong.
const (
	putTimeout    = 10 * time.Second       // for a lease to reach all holders
	tombKept      = 2 * time.Minute        // new holders are told of a withdrawal for so long
	settleTime    = 250 * time.Millisecond // after a change
	restFactor    = 20                     // of the time that the last look took: many leases cost 5 % of a core at most
	lingerTime    = 500 * time.Millisecond // that Close waits for withdrawals under way
	depositPause  = 2 * time.Second        // between two looks for new holders of one lease
	depositsAtOne = 4                      // leases that are put again at the same time
)

// holderTag marks connections to those who hold this node's leases, holderValue
// is what they are worth to the connection manager.
const (
	holderTag   = "lease-holder"
	holderValue = 3
)

// deposit is a lease of this node's and who took it.
type deposit struct {
	lease  record.Lease
	places []place
	until  time.Time
	first  chan struct{}   // closed when all have been asked once
	ctx    context.Context // ends when a newer lease takes its place
	cancel context.CancelFunc

	mu     sync.Mutex       // guards what follows
	took   map[peer.ID]bool // of those who were asked
	looked time.Time        // for new holders
	busy   bool             // being put
}

type depositKey struct {
	key    identity.NameKey
	signer identity.Key
}

// Put stores a lease, or the tombstone that withdraws one, on the [Holders]
// nodes closest to each of its cell's [Keys] places. It returns as soon as at
// each place most of them hold it, with how many do by then, this node included
// where it is one of them; the others are told in the background, and so are
// nodes that come to be among the closest before the lease ends or a newer one
// is put. The error is nil unless nobody else took it: then [ErrNoPeers],
// [ErrUnreachable], [ErrRefused] or that of ctx. A node keeps its own leases in
// any case, for those who ask it.
func (k *Kad) Put(ctx context.Context, l record.Lease) (holders int, err error) {
	key := l.Cell.Key(k.net)
	if reason := k.hold(key, l.Raw, ownOrigin, time.Now()); reason != "" {
		return 0, fmt.Errorf("put lease of %s: %w: %s", l.Cell.Short(), ErrRefused, reason)
	}
	d := k.deposit(key, l, time.Now())
	if !k.begin() {
		close(d.first)
		return 0, fmt.Errorf("put lease of %s: closed", l.Cell.Short())
	}
	most, all := make(chan struct{}), make(chan error, 1)
	go func() {
		defer k.tasks.Done()
		defer close(d.first)
		all <- k.spread(d, sync.OnceFunc(func() { close(most) }))
	}()
	select {
	case <-most:
	case err = <-all:
	case <-ctx.Done():
		d.cancel()
		<-all
		err = context.Cause(ctx)
	}
	n := d.count()
	if n == 0 && err != nil {
		return 0, fmt.Errorf("put lease of %s: %w", l.Cell.Short(), err)
	}
	if k.amongClosest(d) {
		n++
	}
	return n, nil
}

// deposit makes l the lease to be kept up under key.
func (k *Kad) deposit(key identity.NameKey, l record.Lease, now time.Time) *deposit {
	d := &deposit{lease: l, places: k.placesOf(key), until: l.Expires(now), first: make(chan struct{}), took: make(map[peer.ID]bool)}
	if l.Tombstone() {
		d.until = now.Add(tombKept)
	}
	d.ctx, d.cancel = context.WithCancel(k.ctx)
	at := depositKey{key, l.Signer}
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.deposits[at]; old != nil {
		old.cancel()
	}
	k.deposits[at] = d
	return d
}

// spread asks everyone who should hold d, and does not yet, to take it. It calls
// most when most of them hold it and returns when all do that will.
func (k *Kad) spread(d *deposit, most func()) error {
	d.mu.Lock()
	d.busy, d.looked = true, time.Now()
	asked := maps.Clone(d.took)
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.busy = false
		d.mu.Unlock()
	}()
	ctx, cancel := context.WithTimeout(d.ctx, putTimeout)
	defer cancel()
	l := k.lookUp(storing, d.places)
	for p, took := range asked {
		if took {
			l.answer(p, true, nil)
		}
	}
	defer func() { d.note(l) }()
	key := d.lease.Cell.Key(k.net)
	return k.walk(ctx, l, request{Op: opPut, Key: key[:], Lease: d.lease.Raw},
		func() bool { most(); return true },
		func(from *candidate, _ answer) bool {
			d.mu.Lock()
			d.took[from.ID] = true
			d.mu.Unlock()
			k.host.ConnManager().TagPeer(from.ID, holderTag, holderValue)
			return true
		})
}

// note remembers who was asked and did not take it: they are not asked again
// before the lease is renewed.
func (d *deposit) note(l *lookup) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, c := range l.known {
		if !c.sent.IsZero() && !d.took[id] {
			d.took[id] = false
		}
	}
}

func (d *deposit) count() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, took := range d.took {
		if took {
			n++
		}
	}
	return n
}

// amongClosest reports whether a lookup would come to this node too.
func (k *Kad) amongClosest(d *deposit) bool {
	if !k.Serving() {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.places {
		closer := 0
		for id, took := range d.took {
			if took && placeOf(id).to(p).compare(k.self.to(p)) < 0 {
				closer++
			}
		}
		if closer < Holders {
			return true
		}
	}
	return false
}

// keepDeposits puts own leases anew on nodes that have come to be among the
// closest, since they joined or others died.
func (k *Kad) keepDeposits() {
	for {
		known, routed := k.dir.wait(), k.table.wait()
		start, wait := time.Now(), sweepEvery
		if k.renewDeposits(start) {
			wait = depositPause
		}
		rest := max(settleTime, restFactor*time.Since(start)) // more changes are likely to follow
		t := time.NewTimer(wait)
		select {
		case <-known:
		case <-routed:
		case <-t.C:
		case <-k.ctx.Done():
		}
		t.Stop()
		select {
		case <-time.After(rest):
		case <-k.ctx.Done():
			return
		}
	}
}

// linger waits a moment for withdrawals that are on their way to all holders.
func (k *Kad) linger() {
	k.mu.Lock()
	var last []*deposit
	for _, d := range k.deposits {
		if d.lease.Tombstone() {
			last = append(last, d)
		}
	}
	k.mu.Unlock()
	t := time.NewTimer(lingerTime)
	defer t.Stop()
	for _, d := range last {
		select {
		case <-d.first:
		case <-t.C:
			return
		}
	}
}

// renewDeposits looks once at every deposit. It reports whether some are to be
// looked at again soon.
func (k *Kad) renewDeposits(now time.Time) (again bool) {
	var due []*deposit
	k.mu.Lock()
	for at, d := range k.deposits {
		if !now.Before(d.until) {
			d.cancel()
			delete(k.deposits, at)
			continue
		}
		due = append(due, d)
	}
	k.mu.Unlock()
	var all sync.WaitGroup
	slots := make(chan struct{}, depositsAtOne)
	for _, d := range due {
		d.mu.Lock()
		early := d.busy || now.Before(d.looked.Add(depositPause))
		d.mu.Unlock()
		switch missing := k.missing(d, now); {
		case !missing:
			continue
		case early:
			again = true
			continue
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			_ = k.spread(d, func() {}) // nobody waits for it: the next look, or renewal, tries again
		})
	}
	all.Wait()
	return again
}

// missing reports whether one of the closest nodes known has not taken d.
func (k *Kad) missing(d *deposit, now time.Time) bool {
	l := k.lookUp(storing, d.places)
	d.mu.Lock()
	defer d.mu.Unlock()
	for r := range d.places {
		for _, c := range l.window(r) {
			if _, asked := d.took[c.ID]; !asked && !c.suspect {
				return true
			}
		}
	}
	return false
}
