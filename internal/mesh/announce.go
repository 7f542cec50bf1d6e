package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// Phase is how far an announcement has come.
type Phase string

// The phases. Announcing turns into held or failing; these two alternate as
// puts succeed and fail; withdrawn is the end.
const (
	Announcing Phase = "announcing" // signed and told to the LAN; the DHT has not answered yet
	Held       Phase = "held"       // everyone who should hold the lease holds it
	Failing    Phase = "failing"    // not signed, or not in the DHT: State.Err says why; retried
	Withdrawn  Phase = "withdrawn"  // ended; Holders and Err tell of the tombstone
)

// State is how an announcement stands.
type State struct {
	Phase   Phase
	LAN     bool         // the LAN is being told
	Holders int          // nodes of the DHT that took the newest lease or, once withdrawn, the tombstone
	Err     error        // why the last attempt to sign or put failed, nil after a success
	Order   record.Order // of the newest lease or tombstone
	Since   time.Time    // when Phase was entered
}

// ErrNoAddrs says that this node has no address for the DHT to publish.
var ErrNoAddrs = errors.New("no address that strangers could dial")

// ErrNoHolders says that a put reached nobody.
var ErrNoHolders = errors.New("no node took the lease")

// Lease is one announced cell. It is renewed until withdrawn, whatever fails.
type Lease struct {
	m     *Mesh
	cell  identity.Cell
	look  chan struct{}                // one token: addresses may have changed
	retry chan struct{}                // one token: put again now
	fresh chan struct{}                // one token: there is something new to put
	ended chan struct{}                // closed when nothing will be done any more
	shown atomic.Pointer[record.Lease] // the newest, for the self tier; nil when there is none

	mu            sync.Mutex // guards what follows
	grant, member []byte
	draining      bool
	stop          context.CancelFunc // ends the renewals
	near, far     [][]byte           // addresses in the newest leases, for LAN and DHT
	spore         *record.Spore      // set: what is announced is a seed of it
	next          record.Lease       // for the DHT; without Raw: nothing to put
	tried         bool               // a put was begun
	doubt         bool               // a node of the DHT may hold a lease
	farewell      time.Time          // withdrawn: when to stop telling the DHT
	cancelPut     context.CancelFunc // of the put under way
	state         State
	changed       chan struct{} // closed and replaced when state changes
}

// Announce makes it known that this node serves a cell, under a grant of its
// author and with the node's colony certificate where the grant needs one. The
// LAN has been told when it returns. Announcing a cell again puts the new
// certificates into force and ends its draining; after Withdraw it begins anew.
func (m *Mesh) Announce(cell identity.Cell, grant, member []byte) *Lease {
	return m.announce(cell, func(l *Lease) { l.grant, l.member, l.draining = grant, member, false })
}

// AnnounceSeed makes it known that this node hands out a release. It is
// discovered under [identity.Cell.Seeds]; a later release replaces it.
func (m *Mesh) AnnounceSeed(s record.Spore) *Lease {
	return m.announce(s.Cell.Seeds(), func(l *Lease) { l.spore = &s })
}

func (m *Mesh) announce(cell identity.Cell, content func(*Lease)) *Lease {
	for {
		m.mu.Lock()
		l := m.leases[cell]
		if l != nil {
			m.mu.Unlock()
			if l.revise(func() { content(l) }) {
				return l
			}
			m.remove(l) // withdrawn a moment ago
			continue
		}
		ctx, stop := context.WithCancel(m.ctx)
		l = &Lease{
			m: m, cell: cell, stop: stop, cancelPut: func() {},
			look: make(chan struct{}, 1), retry: make(chan struct{}, 1), fresh: make(chan struct{}, 1),
			ended: make(chan struct{}), changed: make(chan struct{}),
		}
		content(l)
		if m.stopped {
			l.state = State{Phase: Failing, Err: ErrStopped, Since: time.Now()}
			close(l.ended)
			m.mu.Unlock()
			return l
		}
		m.leases[cell] = l
		l.mu.Lock() // nobody else has l: first come the LAN, then whatever the loops do
		m.spawnLocked(func() { l.renew(ctx) })
		m.spawnLocked(l.publish)
		m.mu.Unlock()
		l.issueLocked()
		l.mu.Unlock()
		m.wake(cell)
		return l
	}
}

// Cell returns what is announced.
func (l *Lease) Cell() identity.Cell { return l.cell }

// State returns how the announcement stands.
func (l *Lease) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// Updated returns a channel that is closed at the next change of State. Take
// it before State, and no change is missed.
func (l *Lease) Updated() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Drain announces that the node still answers but asks callers to move on.
func (l *Lease) Drain() { l.revise(func() { l.draining = true }) }

// Withdraw ends the announcement. The LAN is told at once; the DHT is told in
// the background for at most Config.Farewell, which goes on though ctx ends.
// It returns when the DHT has been told, with the error of [State] where it
// could not be; where ctx ends first, with ctx's error. Further calls wait for
// the same outcome.
func (l *Lease) Withdraw(ctx context.Context) error {
	l.mu.Lock()
	if l.state.Phase != Withdrawn && !errors.Is(l.state.Err, ErrStopped) {
		l.withdrawLocked()
	}
	l.mu.Unlock()
	l.m.remove(l)
	select {
	case <-l.ended:
	case <-ctx.Done():
	}
	select {
	case <-l.ended:
		return l.State().Err
	default:
		return fmt.Errorf("withdraw %s: the dht has not been told yet: %w", l.cell.Short(), context.Cause(ctx))
	}
}

func (l *Lease) withdrawLocked() {
	l.stop()
	l.cancelPut()
	l.shown.Store(nil)
	l.farewell = time.Now().Add(l.m.cfg.Farewell)
	l.next = record.Lease{}
	order := l.orderLocked()
	tombstone, err := l.signLocked(order, nil, 0)
	if err == nil && l.m.cfg.LAN != nil {
		l.m.cfg.LAN.Withdraw(tombstone)
	}
	if err == nil && l.tried {
		l.next = tombstone
	}
	l.setLocked(State{Phase: Withdrawn, LAN: err == nil && l.m.cfg.LAN != nil, Err: err, Order: order})
	poke(l.fresh)
}

// remove makes room for a new announcement of l's cell.
func (m *Mesh) remove(l *Lease) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leases[l.cell] == l {
		delete(m.leases, l.cell)
		m.wakeLocked(l.cell)
	}
}

// revise changes what is announced and announces it, unless that has ended.
func (l *Lease) revise(change func()) bool {
	l.mu.Lock()
	alive := l.state.Phase != Withdrawn && l.m.ctx.Err() == nil
	if alive {
		change()
		l.issueLocked()
	}
	l.mu.Unlock()
	if alive {
		l.m.wake(l.cell)
	}
	return alive
}

// renew keeps the newest lease fresh and true to the node's addresses.
func (l *Lease) renew(ctx context.Context) {
	next := time.NewTimer(l.m.jitter(l.m.cfg.TTL / 3))
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-l.look:
			if !l.outdated() {
				continue
			}
		case <-ctx.Done():
			return
		}
		l.revise(func() {})
		next.Reset(l.m.jitter(l.m.cfg.TTL / 3))
	}
}

// jitter shortens d by up to a tenth, so that nodes do not fall into step.
func (m *Mesh) jitter(d time.Duration) time.Duration {
	return d - time.Duration(m.cfg.Rand()*float64(d)/10)
}

func (l *Lease) outdated() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shown.Load() == nil ||
		!slices.EqualFunc(l.near, l.m.addrs(true), bytes.Equal) || !slices.EqualFunc(l.far, l.m.addrs(false), bytes.Equal)
}

// addrs returns the node's addresses as far as a lease may hold them.
func (m *Mesh) addrs(lan bool) [][]byte {
	var out [][]byte
	for _, a := range m.cfg.Addrs(lan) {
		if len(a) > 0 && len(a) <= record.MaxAddrSize && len(out) < record.MaxAddrs {
			out = append(out, a)
		}
	}
	return out
}

func (l *Lease) orderLocked() record.Order {
	return record.Order{Incarnation: l.m.cfg.Incarnation, Sequence: l.m.sequence.Add(1)}
}

// signLocked makes a lease, leaving out the last addresses where it would be too long.
func (l *Lease) signLocked(order record.Order, addrs [][]byte, ttl time.Duration) (record.Lease, error) {
	state := record.StateAlive
	if l.draining {
		state = record.StateDraining
	}
	for {
		signed, err := l.signAs(state, order, addrs, ttl)
		if err == nil {
			return signed, nil
		}
		if !errors.Is(err, record.ErrSize) || len(addrs) == 0 {
			return record.Lease{}, fmt.Errorf("sign lease of %s: %w", l.cell.Short(), err)
		}
		addrs = addrs[:len(addrs)-1]
	}
}

func (l *Lease) signAs(state record.State, order record.Order, addrs [][]byte, ttl time.Duration) (record.Lease, error) {
	key, network, now := l.m.cfg.Key, l.m.cfg.Network, time.Now()
	if l.spore == nil {
		return record.SignLease(key, network, record.Offer{
			Cell: l.cell, State: state, Addrs: addrs, Grant: l.grant, Member: l.member, Order: order, Issued: now, TTL: ttl,
		})
	}
	s, err := record.SignSeed(key, network, record.SeedOffer{Spore: *l.spore, Addrs: addrs, Order: order, Issued: now, TTL: ttl})
	return s.Lease(), err
}

// issueLocked signs the next leases, tells the LAN and hands the other to publish.
func (l *Lease) issueLocked() {
	l.near, l.far = l.m.addrs(true), l.m.addrs(false)
	next := l.state
	next.Order = l.orderLocked()
	near, err := l.signLocked(next.Order, l.near, l.m.cfg.TTL)
	var far record.Lease
	if err == nil {
		far, err = l.signLocked(next.Order, l.far, l.m.cfg.TTL)
	}
	if err != nil {
		l.shown.Store(nil)
		next.Phase, next.Err = Failing, err
		l.setLocked(next)
		return
	}
	l.shown.Store(&near)
	if l.m.cfg.LAN != nil {
		l.m.cfg.LAN.Announce(near)
		next.LAN = true
	}
	l.cancelPut()
	l.next = record.Lease{}
	switch {
	case l.m.cfg.WAN == nil:
		next.Phase, next.Err = Held, nil
	case len(l.far) == 0:
		next.Phase, next.Err, next.Holders = Failing, ErrNoAddrs, 0
	default:
		l.next = far
		if next.Phase == "" {
			next.Phase = Announcing
		}
	}
	l.setLocked(next)
	poke(l.fresh)
}

// setLocked makes s the state, tells whoever watches, and the journal of
// changes that matter to an operator.
func (l *Lease) setLocked(s State) {
	was := l.state
	if s.Since = was.Since; s.Phase != was.Phase {
		s.Since = time.Now()
	}
	l.state = s
	close(l.changed)
	l.changed = make(chan struct{})
	if s.Phase == was.Phase {
		return
	}
	e := Event{Kind: "announce", Cell: l.cell, Data: map[string]any{
		"phase": string(s.Phase), "lan": s.LAN, "holders": s.Holders,
		"incarnation": s.Order.Incarnation, "sequence": s.Order.Sequence,
	}}
	switch s.Phase {
	case Announcing:
		e.Text = "announcing " + l.cell.Short()
	case Held:
		e.Text = fmt.Sprintf("%s is announced (lan: %t, dht: %d nodes)", l.cell.Short(), s.LAN, s.Holders)
	case Failing:
		e.Text = fmt.Sprintf("%s is not in the DHT yet: %v", l.cell.Short(), s.Err)
		if s.LAN {
			e.Text = fmt.Sprintf("%s is announced on the local network only: %v", l.cell.Short(), s.Err)
		}
	case Withdrawn:
		e.Kind, e.Text = "withdraw", l.cell.Short()+" is no longer served here"
	}
	if s.Err != nil {
		e.Data["error"] = s.Err.Error()
	}
	l.m.cfg.Event(e)
}
