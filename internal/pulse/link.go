package pulse

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Limits on one stream and on all.
const (
	MaxLinks     = 96              // streams
	maxGuests    = 48              // of these, to nodes that this one did not choose
	writeTimeout = 5 * time.Second // of one message
	greeting     = 5 * time.Second // until the first message, and for which a guest is sure of his place
	silence      = 2 * time.Minute // without a message, after which a neighbour is gone; membership knows earlier
	crossing     = 5 * time.Second // after which a second stream is no accident: it replaces the first
	stale        = time.Second     // without a message, after which a stream is that of a former life
	maxUnsent    = 1 << 20         // bytes about nodes that wait for one neighbour

	readRate  = 64   // rows and messages a second that are read; more wait
	readBurst = 1200 // of them at once: all rows of a peer, and a few more
)

// How much a node with a stream counts when the connection manager chooses whom
// to disconnect; that of Config.Peers is never chosen.
const (
	valuedRows  = 60 // exchanges rows
	valuedAsked = 50 // membership wants the stream
	valuedGuest = 30 // the other end wants it
)

const managed = "pulse" // mark for the connection manager

// link is a stream to a neighbour.
type link struct {
	pulse  *Pulse
	key    identity.Key
	id     peer.ID
	stream network.Stream
	ours   bool // opened by this node
	since  time.Time
	wake   chan struct{}
	pace   pace // of the reader

	// Guarded by pulse.mu.
	heard   time.Time                     // when it last said something
	linked  bool                          // it has said something
	counted bool                          // membership was told of this stream, or of the one that it followed
	old     *link                         // that it follows as soon as the neighbour says something on it; else nil
	moved   bool                          // another one has followed, and is the link
	moving  chan struct{}                 // closed when another one, that was tried, has ended; nil where none is
	again   time.Time                     // when to try the next one
	life    uint64                        // incarnation of the node that was known when the stream began
	welcome bool                          // rows are exchanged with it
	deaf    time.Time                     // until then its rows are not looked at
	unsent  [][]byte                      // what to tell about nodes
	bytes   int                           // of these
	ending  bool                          // to be closed when all is said
	has     map[identity.Key]record.Order // rows that the neighbour holds
	due     map[identity.Key]struct{}     // nodes whose row it is to be sent
	late    map[identity.Key]struct{}     // nodes whose row it is to be asked about soon, should it not have come
	asks    map[tag]record.Order          // nodes to ask it about, and what is held of them
	near    map[tag]struct{}              // its neighbours; nil before it told
	all     bool                          // to tell everything that is held
	tell    bool                          // to tell the neighbours
}

// sayLocked has the neighbour told something about nodes.
func (l *link) sayLocked(msg []byte) {
	if l.bytes+len(msg) > maxUnsent {
		l.pulse.refuseLocked(l.key, ReasonSlow)
		_ = l.stream.Reset()
		return
	}
	l.unsent, l.bytes = append(l.unsent, msg), l.bytes+len(msg)
	l.rouse()
}

// endLocked closes the stream when all is said.
func (l *link) endLocked() {
	l.ending = true
	l.rouse()
}

// rouse has the writer look whether there is something to send.
func (l *link) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// accept serves a stream that another node opened.
func (p *Pulse) accept(s network.Stream) {
	key, err := host.KeyOf(s.Conn().RemotePeer())
	if err != nil {
		_ = s.Reset()
		return
	}
	if !p.serve(key, s, false, nil) {
		_ = s.ResetWithError(network.StreamResourceLimitExceeded)
	}
}

// serve uses a stream until it ends, or returns false at once. Where it is to
// follow another one it does so when it has proven to work.
func (p *Pulse) serve(key identity.Key, s network.Stream, ours bool, old *link) bool {
	now := time.Now()
	l := &link{pulse: p, key: key, id: s.Conn().RemotePeer(), stream: s, ours: ours, old: old, since: now, wake: make(chan struct{}, 1),
		unsent: [][]byte{nil}, // says that this end is there
		pace:   pace{rate: readRate, burst: readBurst, at: now}, heard: now,
		has: make(map[identity.Key]record.Order), due: make(map[identity.Key]struct{}), late: make(map[identity.Key]struct{}), asks: make(map[tag]record.Order)}
	if !p.enter(l) {
		return false
	}
	defer p.work.Done()
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	spare := context.AfterFunc(ctx, func() { _ = s.Reset() })
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		l.write(ctx)
	}()
	l.read(ctx)
	if next, moved := p.leave(l); moved {
		<-wrote // all that there is to say
		if spare() {
			_ = s.Close()
		}
		if next != nil {
			<-next // this node opened it: to who dialled it is the same
		}
		return true
	}
	select {
	case <-p.leaving: // the writer says goodbye, or p.ctx ends
	default:
		cancel()
	}
	<-wrote
	return true
}

// enter makes a stream the link to its node, unless there is a better one, or
// it is to follow one and has not proven to work.
func (p *Pulse) enter(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.leaving:
		return false
	default:
	}
	if l.old == nil && !p.seatLocked(l) {
		return false
	}
	p.work.Add(1)
	return true
}

// seatLocked makes a stream the link to its node, unless there is a better one.
func (p *Pulse) seatLocked(l *link) bool {
	old, known := p.links[l.key]
	switch {
	case l.key == p.self, !known && p.fullLocked(l.key) && !(p.guestLocked(l.key) && p.roomLocked(l.since)):
		return false
	case known && old.ours != l.ours && p.prefers(old) && l.since.Sub(old.since) < crossing:
		return false
	case known && old.relayed() && !l.relayed():
		p.succeedLocked(old, l)
	case known:
		p.partLocked(old)
		_ = old.stream.Reset() // its reader leaves
	}
	p.links[l.key] = l
	if m, ok := p.members.Member(l.key); ok {
		l.life = m.Contact.Order.Incarnation
	}
	p.valueLocked(l)
	if t := p.targets[l.key]; t != nil && t.rows {
		p.welcomeLocked(l)
	}
	return true
}

// fullLocked reports whether there is no room for a link to a node; those that
// this node chose have room of their own.
func (p *Pulse) fullLocked(k identity.Key) bool {
	guests := 0
	for k := range p.links {
		if p.guestLocked(k) {
			guests++
		}
	}
	return len(p.links) >= MaxLinks || guests >= maxGuests && p.guestLocked(k)
}

// guestLocked reports whether a node is one that this one did not choose.
func (p *Pulse) guestLocked(k identity.Key) bool {
	t := p.targets[k]
	return t == nil || !t.rows && !t.asked && !t.busy
}

// roomLocked makes room for a guest: one with whom no rows are exchanged, and who
// had the time to learn of others, has to go. It returns false where there is none.
func (p *Pulse) roomLocked(now time.Time) bool {
	var strangers []*link
	for k, l := range p.links {
		if !l.welcome && p.guestLocked(k) && now.Sub(l.since) > greeting {
			strangers = append(strangers, l)
		}
	}
	if len(strangers) == 0 {
		return false
	}
	l := strangers[p.rng.IntN(len(strangers))]
	p.forgetLocked(l)
	_ = l.stream.Reset()
	return true
}

// valueLocked tells the connection manager what a stream is worth.
func (p *Pulse) valueLocked(l *link) {
	cm, t := p.host.ConnManager(), p.targets[l.key]
	if t != nil && t.rows {
		cm.Protect(l.id, managed)
	} else {
		cm.Unprotect(l.id, managed)
	}
	value := valuedGuest
	switch {
	case l.welcome:
		value = valuedRows
	case t != nil && t.asked:
		value = valuedAsked
	}
	cm.TagPeer(l.id, managed, value)
}

// prefers reports whether both ends keep this stream where there are two: the
// one that the lower key opened.
func (p *Pulse) prefers(l *link) bool {
	return l.ours == (string(p.self[:]) < string(l.key[:]))
}

// welcomeLocked has a neighbour told all rows, now and from now on.
func (p *Pulse) welcomeLocked(l *link) {
	l.welcome, l.all, l.tell = true, true, true
	l.due[p.self] = struct{}{}
	l.rouse()
	p.told = false
	p.valueLocked(l)
}

// leave ends a stream's use. It returns whether another one has followed it, and
// what is closed when that one ends, where this node opened it.
func (p *Pulse) leave(l *link) (next <-chan struct{}, moved bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.links[l.key] == l { // else it was replaced, or had to make room
		p.forgetLocked(l)
	}
	return l.moving, l.moved
}

// forgetLocked draws the conclusions of a stream's end.
func (p *Pulse) forgetLocked(l *link) {
	delete(p.links, l.key)
	p.host.ConnManager().Unprotect(l.id, managed)
	p.host.ConnManager().UntagPeer(l.id, managed)
	t := p.targets[l.key]
	if !l.counted && t != nil && t.asked {
		p.members.Failed(l.key, time.Now())
		p.stirLocked()
	}
	if t != nil {
		t.asked = false
	}
	p.partLocked(l)
}

// partLocked tells membership, and those who pass rows on, that a stream is over.
func (p *Pulse) partLocked(l *link) {
	if l.welcome {
		p.told = false
	}
	if l.counted {
		p.members.Unlinked(l.key, time.Now())
		p.stirLocked()
	}
}

// toldLocked returns the neighbours that are told things, by key.
func (p *Pulse) toldLocked() []*link {
	var all []*link
	for _, l := range p.links {
		if l.welcome {
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b *link) int { return bytes.Compare(a.key[:], b.key[:]) })
	return all
}

// write sends what is to be sent until ctx ends or, at the node's goodbye,
// until nothing is left.
func (l *link) write(ctx context.Context) {
	for last := false; ; {
		for {
			m, some := l.pulse.compose(l)
			if !some {
				break
			}
			_ = l.stream.SetWriteDeadline(time.Now().Add(writeTimeout))
			n, err := writeMessage(l.stream, m)
			l.pulse.sent.Add(uint64(n))
			if err != nil {
				if ctx.Err() == nil {
					l.pulse.writeFailed(l, err)
				}
				_ = l.stream.Reset() // the reader leaves
				return
			}
		}
		if last || l.pulse.ends(l) {
			_ = l.stream.CloseWrite() // the neighbour hangs up when it has read all
			return
		}
		select {
		case <-l.wake:
		case <-l.pulse.leaving:
			last = true
		case <-ctx.Done():
			return
		}
	}
}

// ends reports whether a stream is to be closed.
func (p *Pulse) ends(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return l.ending
}

func (p *Pulse) writeFailed(l *link, err error) {
	var late interface{ Timeout() bool }
	if errors.As(err, &late) && late.Timeout() {
		p.cfg.OnRefused(l.key, ReasonSlow)
	}
}

// read takes what the neighbour says until the stream ends.
func (l *link) read(ctx context.Context) {
	_ = l.stream.SetReadDeadline(time.Now().Add(greeting))
	for {
		m, err := readMessage(l.stream)
		if errors.Is(err, errWire) {
			l.pulse.cfg.OnRefused(l.key, ReasonMessage)
		}
		if err == io.EOF && l.pulse.followed(l) {
			return
		}
		if err != nil || !l.pulse.hear(l, m) {
			_ = l.stream.Reset()
			return
		}
		if wait := l.pace.spend(cost(m), time.Now()); wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
		_ = l.stream.SetReadDeadline(time.Now().Add(silence))
	}
}

// cost is what a message costs to read and at most to answer: naming all rows
// that one holds is cheap, but can be answered by as many rows. News of nodes
// are cheap: they are held back nowhere, since answers to probes are among them.
func cost(m message) float64 {
	if len(m.nodes) > 0 {
		return 0.125 + float64(len(m.nodes[0]))/2048
	}
	n := float64(1 + len(m.Rows) + len(m.Splices) + len(m.Holds))
	if m.All {
		n += readBurst / 8
	}
	return n
}

// pace is a token bucket: what goes beyond it waits.
type pace struct {
	rate, burst float64 // tokens a second, and at once
	used        float64
	at          time.Time
}

// spend takes n tokens and returns for how long to wait.
func (p *pace) spend(n float64, now time.Time) time.Duration {
	p.used = max(0, p.used-now.Sub(p.at).Seconds()*p.rate) + n
	p.at = now
	return time.Duration(max(0, p.used-p.burst) / p.rate * float64(time.Second))
}
