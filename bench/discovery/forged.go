package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

var forgedRows = []row{{
	name: "forged, replayed, spliced records refused", unit: share,
	ours: source{forgedScene, refused}, must: bound{share: 1},
}}

const (
	forgedScene = "forged records"
	refused     = "refused"
)

// forged shows records that nobody authorised to what every holder, finder and
// listener opens records with. Good ones are shown in between: what refuses
// everything would not do.
func forged(s setup, figures map[string]figure) error {
	n := pick(s, 20_000, 1_000_000)
	var taken, good, lost atomic.Uint64
	var fault atomic.Value
	workers := runtime.GOMAXPROCS(0)
	began := used()
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			f, err := newForger(s, w)
			if err != nil {
				fault.Store(err)
				return
			}
			for range n / workers {
				if f.rng.IntN(100) == 0 {
					good.Add(1)
					if raw, err := f.genuine(); err != nil || !f.opens(raw) {
						lost.Add(1)
					}
				}
				if raw, how := f.forge(); f.opens(raw) {
					taken.Add(1)
					fault.Store(fmt.Errorf("an unauthorised record was taken: %s", how))
				}
			}
		})
	}
	all.Wait()
	shown := n / workers * workers
	f := figure{
		Samples: shown - int(taken.Load()), Failed: int(taken.Load()), CPU: (used() - began) / time.Duration(shown),
		Share: 1 - float64(taken.Load())/float64(shown),
		Note:  fmt.Sprintf("%d shown, %d taken; of %d good ones in between %d were refused", shown, taken.Load(), good.Load(), lost.Load()),
	}
	if lost.Load() > 0 {
		f.Share = 0
	}
	figures[refused] = f
	if err, ok := fault.Load().(error); ok {
		return err
	}
	return nil
}

// forger is a stranger with keys, grants and leases of his own and with every
// record that he has seen.
type forger struct {
	rng     *rand.Rand
	now     time.Time
	floor   record.Floor
	cell    identity.Cell // whose callers he wants
	author  identity.Private
	node    identity.Private // serves cell, by right
	grant   record.Grant
	serial  uint64
	seen    [][]byte // leases by right, all but the newest replaced since
	own     identity.Private
	ownCell identity.Cell
	theirs  record.Grant // for his own cell
	other   record.Grant // of the author, for another node
	expired [][]byte
	foreign [][]byte // well made, for another network
}

func newForger(s setup, worker int) (*forger, error) {
	f := &forger{
		rng: rand.New(rand.NewPCG(s.Seed, 100+uint64(worker))), now: time.Now(),
		author: keyOf(s.Seed, "author", worker), node: keyOf(s.Seed, "node", worker), own: keyOf(s.Seed, "forger", worker),
	}
	f.cell = identity.Cell{Author: f.author.Public(), Name: "wanted"}
	f.ownCell = identity.Cell{Author: f.own.Public(), Name: "wanted"}
	subject := func(k identity.Private) []record.Subject {
		return []record.Subject{{Kind: record.SubjectNode, Key: k.Public()}}
	}
	var err error
	if f.grant, err = record.SignGrant(f.author, cellnet.ID(), "", subject(f.node), f.now, time.Hour); err != nil {
		return nil, err
	}
	if f.theirs, err = record.SignGrant(f.own, cellnet.ID(), "", subject(f.own), f.now, time.Hour); err != nil {
		return nil, err
	}
	if f.other, err = record.SignGrant(f.author, cellnet.ID(), "another", subject(f.own), f.now, time.Hour); err != nil {
		return nil, err
	}
	for range 64 {
		raw, err := f.genuine()
		if err != nil || !f.opens(raw) {
			return nil, fmt.Errorf("a good lease is refused: %w", err)
		}
	}
	old, err := f.sign(f.node, cellnet.ID(), f.cell, f.grant.Raw, f.now.Add(-3*record.MaxLeaseTTL), 1<<40)
	if err == nil {
		f.expired = append(f.expired, old)
	}
	elsewhere := identity.Network("elsewhere").ID()
	g, err := record.SignGrant(f.author, elsewhere, "", subject(f.node), f.now, time.Hour)
	if err != nil {
		return nil, err
	}
	l, err := f.sign(f.node, elsewhere, f.cell, g.Raw, f.now, 1<<40)
	if err != nil {
		return nil, err
	}
	f.foreign = append(f.foreign, l)
	return f, nil
}

// opens does what kad and mesh do before they believe a record for f.cell.
func (f *forger) opens(raw []byte) bool {
	l, err := record.OpenAnnouncement(raw, cellnet.ID(), f.now)
	if err != nil || l.Cell != f.cell {
		return false
	}
	fresh, err := f.floor.Admit(l)
	return err == nil && fresh
}

// genuine makes the next lease of the node that serves the cell by right.
func (f *forger) genuine() ([]byte, error) {
	f.serial++
	raw, err := f.sign(f.node, cellnet.ID(), f.cell, f.grant.Raw, f.now, f.serial)
	if len(f.seen) == 256 {
		f.seen = f.seen[1:]
	}
	f.seen = append(f.seen, raw)
	return raw, err
}

var someAddr = []byte{4, 23, 0, 0, 1, 0x91, 2, 0x0f, 0xa1, 0xcd, 3} // /ip4/23.0.0.1/udp/4001/quic-v1

func (f *forger) sign(node identity.Private, net identity.NetworkID, cell identity.Cell, grant []byte, issued time.Time, serial uint64) ([]byte, error) {
	return f.signAt(node, net, cell, grant, issued, serial, someAddr)
}

func (f *forger) signAt(node identity.Private, net identity.NetworkID, cell identity.Cell, grant []byte, issued time.Time, serial uint64, addr []byte) ([]byte, error) {
	// Sign itself refuses what it would not open: forgers do not use SignLease.
	return record.Sign(node, record.Header{
		Domain: record.DomainLease, Network: net, Order: record.Order{Incarnation: 1, Sequence: serial}, Issued: issued, TTL: time.Minute,
	}, forgedPayload{Author: cell.Author, Name: string(cell.Name), State: record.StateAlive, Addrs: [][]byte{addr}, Grant: grant, Member: []byte{}})
}

// forgedPayload is the wire form of a lease's content, as package record has it.
type forgedPayload struct {
	_      struct{} `cbor:",toarray"`
	Author identity.Key
	Name   string
	State  record.State
	Addrs  [][]byte
	Grant  []byte
	Member []byte
}

// forge makes a record that nobody authorised.
func (f *forger) forge() (raw []byte, how string) {
	next := f.serial + 1 + f.rng.Uint64N(1<<30)
	some := f.seen[f.rng.IntN(len(f.seen))]
	ours := func(grant []byte) []byte {
		b, _ := f.sign(f.own, cellnet.ID(), f.cell, grant, f.now, next)
		return b
	}
	switch f.rng.IntN(10) {
	case 0:
		b := slices.Clone(some)
		for range 1 + f.rng.IntN(3) {
			b[f.rng.IntN(len(b))] ^= 1 << f.rng.IntN(8)
		}
		if bytes.Equal(b, some) {
			return nil, ""
		}
		return b, "bits changed"
	case 1:
		return some, "replayed"
	case 2:
		return ours(f.grant.Raw), "signed by a stranger, with the node's grant"
	case 3:
		return ours(f.theirs.Raw), "with a grant of another author"
	case 4:
		return ours(f.other.Raw), "with a grant for another name"
	case 5:
		return f.expired[0], "expired"
	case 6:
		return f.foreign[0], "of another network"
	case 7:
		b, _ := f.sign(f.own, cellnet.ID(), f.ownCell, f.theirs.Raw, f.now, next)
		return b, "of another cell of that name"
	case 8: // the front of one record and the back of another
		b := ours(f.grant.Raw)
		cut := 1 + f.rng.IntN(min(len(b), len(some))-1)
		return append(slices.Clone(b[:cut]), some[cut:]...), "spliced"
	}
	b := some[:f.rng.IntN(len(some))]
	return append(slices.Clone(b), make([]byte, f.rng.IntN(3))...), "cut short"
}
