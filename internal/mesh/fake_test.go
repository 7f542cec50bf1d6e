package mesh

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

var network = identity.Network("test").ID()

func key(n int) identity.Private {
	var seed [32]byte
	binary.BigEndian.PutUint32(seed[:], uint32(n))
	return identity.PrivateFromSeed(seed)
}

var author = key(1)

func cellOf(n string) identity.Cell {
	return identity.Cell{Author: author.Public(), Name: identity.Name(n)}
}

// grantAny lets everybody serve every cell of the author. All of a day are one
// grant: a newer one would put the leases under older ones out of force.
func grantAny(t testing.TB) []byte {
	t.Helper()
	g, err := record.SignGrant(author, network, "", []record.Subject{{Kind: record.SubjectAny}}, time.Now().Truncate(24*time.Hour), 300*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return g.Raw
}

// lease makes a lease of node n with the given sequence, issued now.
func lease(t testing.TB, n int, cell string, sequence uint64, change ...func(*record.Offer)) record.Lease {
	t.Helper()
	o := record.Offer{
		Cell: cellOf(cell), State: record.StateAlive, Addrs: [][]byte{[]byte(fmt.Sprintf("node-%d", n))},
		Grant: grantAny(t), Order: record.Order{Incarnation: 1, Sequence: sequence}, Issued: time.Now(), TTL: 2 * time.Minute,
	}
	for _, c := range change {
		c(&o)
	}
	l, err := record.SignLease(key(n), network, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func tombstone(o *record.Offer) { o.TTL, o.Addrs = 0, nil }
func draining(o *record.Offer)  { o.State = record.StateDraining }
func addrs(a ...string) func(*record.Offer) {
	return func(o *record.Offer) {
		o.Addrs = nil
		for _, s := range a {
			o.Addrs = append(o.Addrs, []byte(s))
		}
	}
}

// ether is a LAN on which everything arrives after delay, unless mute.
type ether struct {
	delay time.Duration
	mu    sync.Mutex
	mute  bool
	ports []*port
}

// port is one node's end of an ether.
type port struct {
	*ether
	hear      func(record.Lease)
	own       map[identity.Cell]record.Lease
	announced []record.Lease // everything that this node sent, oldest first
	withdrawn []record.Lease
	queries   int
}

func (e *ether) join() *port {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := &port{ether: e, own: make(map[identity.Cell]record.Lease)}
	e.ports = append(e.ports, p)
	return p
}

func (p *port) sendLocked(l record.Lease) {
	if p.mute {
		return
	}
	for _, q := range p.ports {
		if q != p && q.hear != nil {
			time.AfterFunc(p.delay, func() { q.hear(l) })
		}
	}
}

func (p *port) Announce(l record.Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.own[l.Cell] = l
	p.announced = append(p.announced, l)
	p.sendLocked(l)
}

func (p *port) Withdraw(l record.Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.own, l.Cell)
	p.withdrawn = append(p.withdrawn, l)
	p.sendLocked(l)
}

func (p *port) Query(ctx context.Context, k identity.NameKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queries++
	for _, q := range p.ports {
		for c, l := range q.own {
			if q != p && !p.mute && c.Key(network) == k {
				time.AfterFunc(2*p.delay, func() { p.hear(l) })
			}
		}
	}
}

func (p *port) sent() (announced, withdrawn []record.Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]record.Lease(nil), p.announced...), append([]record.Lease(nil), p.withdrawn...)
}

// sky is a DHT: one store that answers after delay.
type sky struct {
	delay time.Duration
	mu    sync.Mutex
	err   error // of every operation
	hang  bool  // operations end with their context only
	puts  []put
	held  map[identity.Cell]map[identity.Key]record.Lease
	finds int
	extra []record.Lease // found whatever was asked for
	found Finding        // how
}

type put struct {
	lease record.Lease
	at    time.Time
}

func (s *sky) wait(ctx context.Context) error {
	s.mu.Lock()
	err, hang := s.err, s.hang
	s.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	select {
	case <-time.After(s.delay):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *sky) Put(ctx context.Context, l record.Lease) (int, error) {
	s.mu.Lock()
	s.puts = append(s.puts, put{l, time.Now()})
	s.mu.Unlock()
	if err := s.wait(ctx); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		s.held = make(map[identity.Cell]map[identity.Key]record.Lease)
	}
	if s.held[l.Cell] == nil {
		s.held[l.Cell] = make(map[identity.Key]record.Lease)
	}
	if old, ok := s.held[l.Cell][l.Node()]; !ok || old.Order.Compare(l.Order) < 0 {
		s.held[l.Cell][l.Node()] = l
	}
	return 8, nil
}

func (s *sky) Find(ctx context.Context, c identity.Cell) iter.Seq2[Finding, error] {
	return func(yield func(Finding, error) bool) {
		s.mu.Lock()
		s.finds++
		s.mu.Unlock()
		err := s.wait(ctx)
		s.mu.Lock()
		found := append([]record.Lease(nil), s.extra...)
		for _, l := range s.held[c] {
			found = append(found, l)
		}
		s.mu.Unlock()
		if err != nil {
			yield(Finding{}, err)
			return
		}
		for _, l := range found {
			if !yield(Finding{Lease: l, Hops: s.found.Hops, Holder: s.found.Holder}, nil) {
				return
			}
		}
	}
}

// beacon is a DHT that tells of what changes, too: all that is put reaches
// those who watch after delay, leases that only renew left out.
type beacon struct {
	sky
	broken  bool // watching ends at once
	watches int  // that were begun
	open    map[chan record.Lease]identity.Cell
}

func (b *beacon) Watch(ctx context.Context, c identity.Cell) iter.Seq2[record.Lease, error] {
	return func(yield func(record.Lease, error) bool) {
		ch := make(chan record.Lease, 1000)
		b.mu.Lock()
		b.watches++
		broken := b.broken
		if b.open == nil {
			b.open = make(map[chan record.Lease]identity.Cell)
		}
		b.open[ch] = c
		b.mu.Unlock()
		defer func() {
			b.mu.Lock()
			delete(b.open, ch)
			b.mu.Unlock()
		}()
		if broken {
			yield(record.Lease{}, errors.New("no holder answers"))
			return
		}
		for {
			select {
			case l := <-ch:
				if !yield(l, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// tell pushes a lease to those who watch its cell.
func (b *beacon) tell(l record.Lease) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch, c := range b.open {
		if c == l.Cell {
			ch <- l
		}
	}
}

func (s *sky) set(err error, hang bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.hang = err, hang
}

func (s *sky) log() ([]put, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]put(nil), s.puts...), s.finds
}

// start runs a mesh for node n until the test ends. It must be called in a bubble.
func start(t *testing.T, n int, c Config) *Mesh {
	t.Helper()
	c.Network, c.Key, c.Incarnation = network, key(n), 7
	if c.Addrs == nil {
		c.Addrs = func(lan bool) [][]byte {
			if lan {
				return [][]byte{[]byte("near")}
			}
			return [][]byte{[]byte("far")}
		}
	}
	m := New(c)
	if p, ok := c.LAN.(*port); ok {
		p.hear = m.Heard
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return m
}

// bubble runs f in virtual time.
func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// collect runs a Discover to its end.
func collect(m *Mesh, c identity.Cell) (all []Endpoint, err error) {
	for e, failure := range m.Discover(context.Background(), c) {
		if failure != nil {
			return all, failure
		}
		all = append(all, e)
	}
	return all, nil
}
