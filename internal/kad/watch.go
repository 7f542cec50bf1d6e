package kad

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/peer"
)

// How a name is watched.
const (
	watchTag    = "lease-watch" // connections to holders that are watched stay open
	watchOpen   = 3 * time.Second
	watchAgain  = 100 * time.Millisecond // before the next holder is tried, doubled each time
	watchSeldom = 10 * time.Second       // up to this
	watchGood   = 30 * time.Second       // a holder that lasted so long was a good one
	maxUnread   = 256                    // nodes whose newest lease waits for the caller
)

// errMoved says that others are closer to a place than the holder watched there.
var errMoved = errors.New("holder is no longer among the closest")

// Watch yields the leases of a cell that are found, as [Kad.Search] does, and
// from then on every newer one and every tombstone as a holder takes it, until
// ctx ends; the last error is that of ctx. One holder at each of the cell's
// places is listened to, and another one when it fails, so that what one of
// them withholds comes from another. That a lease lapses, or its node dies, is
// the caller's business.
func (k *Kad) Watch(ctx context.Context, cell identity.Cell) iter.Seq2[record.Lease, error] {
	return func(yield func(record.Lease, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer context.AfterFunc(k.ctx, cancel)()
		key := cell.Key(k.net)
		w := &watch{kad: k, key: key, reader: newReader(k, key), newest: make(map[identity.Key]record.Lease), news: make(chan struct{}, 1),
			holders: make(map[peer.ID]bool)}
		one := k.watched.enter(key, k.host.ID()) // what this node holds itself
		var all sync.WaitGroup
		defer func() {
			cancel()
			all.Wait()
			if one != nil {
				k.watched.leave(key, k.host.ID(), one)
			}
		}()
		own := make(<-chan struct{})
		if one != nil {
			own = one.news
		}
		all.Go(func() {
			for f, err := range k.Search(ctx, cell) {
				if err == nil {
					w.offer(f.Lease)
				}
			}
		})
		for r := range k.placesOf(key) {
			all.Go(func() { w.follow(ctx, r) })
		}
		for {
			for _, l := range w.take() {
				if !yield(l, nil) {
					return
				}
			}
			select {
			case <-w.news:
			case <-own:
				w.hear(one.take())
			case <-ctx.Done():
				yield(record.Lease{}, context.Cause(ctx))
				return
			}
		}
	}
}

// watch is one name that is watched.
type watch struct {
	kad  *Kad
	key  identity.NameKey
	news chan struct{} // one token: newest is not empty

	mu      sync.Mutex // guards what follows
	reader  *reader
	newest  map[identity.Key]record.Lease // not yet yielded
	holders map[peer.ID]bool              // listened to
}

// hear reads what a holder says.
func (w *watch) hear(raws [][]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reader.forged = 0
	if len(w.reader.read) > 4*MaxLeases { // a memory of what need not be verified again; it may be lost
		clear(w.reader.read)
	}
	for _, raw := range raws {
		if l, ok := w.reader.open(raw); ok {
			w.offerLocked(l)
		}
	}
}

// offer takes in a verified lease.
func (w *watch) offer(l record.Lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if old, met := w.reader.given[l.Signer]; met && l.Order.Compare(old) <= 0 {
		return
	}
	w.reader.given[l.Signer] = l.Order
	w.offerLocked(l)
}

func (w *watch) offerLocked(l record.Lease) {
	if _, known := w.newest[l.Signer]; !known && len(w.newest) >= maxUnread {
		return
	}
	w.newest[l.Signer] = l
	select {
	case w.news <- struct{}{}:
	default:
	}
}

func (w *watch) take() []record.Lease {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []record.Lease
	for _, l := range w.newest {
		out = append(out, l)
	}
	clear(w.newest)
	return out
}

// follow listens to one holder at place r after the other until ctx ends.
func (w *watch) follow(ctx context.Context, r int) {
	wait := watchAgain
	for ctx.Err() == nil {
		c, ok := w.choose(r)
		if ok {
			start := time.Now()
			err := w.listen(ctx, r, c)
			w.release(c.ID)
			if errors.Is(err, errMoved) || time.Since(start) > watchGood {
				wait = watchAgain
			} else if ctx.Err() == nil {
				w.kad.dir.silent(c.ID, time.Now())
			}
		}
		t := time.NewTimer(wait + rand.N(wait/4))
		changed := w.kad.dir.wait()
		if ok {
			changed = nil
		}
		select {
		case <-t.C:
		case <-changed:
		case <-ctx.Done():
		}
		t.Stop()
		wait = min(2*wait, watchSeldom)
	}
}

// choose picks a holder at place r that is not listened to yet: the one that
// should answer first.
func (w *watch) choose(r int) (candidate, bool) {
	places := w.kad.placesOf(w.key)
	l := w.kad.lookUp(searching, places[r:r+1])
	w.mu.Lock()
	defer w.mu.Unlock()
	free := slices.DeleteFunc(l.window(0), func(c *candidate) bool { return w.holders[c.ID] })
	c := l.pick(free, true)
	if c == nil {
		return candidate{}, false
	}
	w.holders[c.ID] = true
	return *c, true
}

func (w *watch) release(p peer.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.holders, p)
}

// listen hears what one holder says until it fails, or is no longer one.
func (w *watch) listen(ctx context.Context, r int, c candidate) error {
	k := w.kad
	opening, opened := context.WithTimeout(ctx, watchOpen)
	s, err := k.open(opening, c.AddrInfo, k.watchProto)
	opened()
	if err != nil {
		return err
	}
	defer s.Reset()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	tag := watchTag + "/" + string(w.key[:8])
	k.host.ConnManager().Protect(c.ID, tag)
	defer k.host.ConnManager().Unprotect(c.ID, tag)
	if err := writeMessage(s, request{Op: opWatch, Key: w.key[:]}); err != nil {
		return err
	}
	for silence := watchOpen; ; silence = watchSilence {
		_ = s.SetReadDeadline(time.Now().Add(silence))
		a, err := k.readAnswer(s)
		if err != nil {
			return err
		}
		if a.Code != codeOK {
			return errBusy
		}
		k.dir.answered(c.ID, k.host.Peerstore().Addrs(c.ID), 0, time.Now())
		w.hear(a.Leases)
		if !w.stays(r, c.ID) {
			return errMoved
		}
	}
}

// stays reports whether a holder is still one of those closest to place r.
func (w *watch) stays(r int, p peer.ID) bool {
	places := w.kad.placesOf(w.key)
	l := w.kad.lookUp(searching, places[r:r+1])
	return slices.ContainsFunc(l.window(0), func(c *candidate) bool { return c.ID == p })
}
