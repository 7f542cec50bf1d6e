// Package swim keeps the table of a network's nodes and finds out which of them
// have failed, by SWIM (Das, Gupta, Motivala 2002) with the self-distrust of
// Lifeguard (Dadgar, Phillips, Currey 2017). It is pure: no goroutine, no
// socket, no clock.
//
// Every node holds streams to some others, its neighbours: about log2 N + 2 that
// it picks at random and as many that picked it. It pings the neighbour that it
// has not heard of for longest; one that does not answer is also tried by three
// others; then it is suspected. A suspicion is signed by whoever has it, names
// the very contact that it doubts, and is passed on by everybody to everybody.
// Nobody is believed when he says that somebody is dead, and no message says so:
// each node waits by itself for the suspect to refute it by a newer contact, for
// a time that shrinks as others confirm the suspicion and grows while this node
// finds itself slow. The dead are dialled now and then; what was cut in two is
// whole again as soon as one stream leads across.
//
// Tables are kept alike by contacts that are passed on as they come, and by
// comparing sums of them with a neighbour every 45 s and on new streams.
//
// A message has at most [MaxMessage] bytes and is a CBOR map (RFC 8949, definite
// lengths, no tags, no key twice, no key but these):
//
//	 1  uint            ping, to be answered; 0 is none
//	 2  [uint, …]       answers to pings, ≤ 64
//	 3  [contact, …]    records, ≤ 64
//	 4  ids             contacts that the sender has got
//	 5  ids             contacts that it wants
//	 6  [[id, accuser bytes 32, signature bytes 64], …]
//	                    suspicions, ≤ 64; signed is "cell-swim-suspect\x00" ‖
//	                    network id ‖ id
//	 7  [[uint, id], …] try this node for me, ≤ 8
//	 8  [[uint, bool], …] whether it was there, ≤ 8
//	 9  bytes 8         sum of the ids of all contacts of live nodes (exclusive or)
//	10  bytes 256       sums of the ids in each of 64 buckets, of 4 bytes: the bucket
//	                    of a node is the first 6 bits of its key
//	11  uint            which buckets 12 is about, bit by bit
//	12  ids             of all contacts of live nodes in these buckets
//	13  bool            the sender is about to close the stream, and is well
//
// id is the first 8 bytes of a contact's signature, ids is one byte string of
// them. A ping has 5 bytes, an answer 6, a suspicion about 110.
package swim

import (
	"math/rand/v2"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// State is what a [Detector] holds of a node.
type State uint8

// The states of a node.
const (
	Unknown State = iota
	Alive
	Suspect // did not answer, or so somebody says: it may still refute that
	Dead    // did not refute in time
	Left    // said goodbye
)

// String returns the state in a word.
func (s State) String() string {
	switch s {
	case Alive:
		return "alive"
	case Suspect:
		return "suspect"
	case Dead:
		return "dead"
	case Left:
		return "left"
	}
	return "unknown"
}

// Gone reports whether the node does not serve: it is dead or has left.
func (s State) Gone() bool { return s == Dead || s == Left }

// live reports whether a node in this state counts as there.
func (s State) live() bool { return s == Alive || s == Suspect }

// Config of a [Detector]. Self, Network, Sign and Rand are required.
type Config struct {
	Self    identity.Key
	Network identity.NetworkID

	// Sign signs with the key of Self: identity.Private.Sign. What is signed are
	// suspicions, so that whoever accuses others falsely can be told.
	Sign func(msg []byte) []byte

	Rand       *rand.Rand
	Period     time.Duration // between two probes, default 1 s; a third of it where round trips are short
	MaxMembers int           // of the table, default 4096

	// Group names the parts of the address space that a node says it can be
	// reached in, such as the /24 or /48 of each address; it counts in each, and
	// at most PerGroup members of one are kept. One in none is exempt. Nil: no limit.
	Group    func(record.Contact) []string
	PerGroup int // default 32

	// open opens contacts; tests of many nodes share their work.
	open func(raw []byte, now time.Time) (*record.Contact, error)

	// gullible lets everybody's word count for everything: tests show by it that
	// an attack would succeed.
	gullible bool
}

// Member is a node of the table.
type Member struct {
	Contact record.Contact
	State   State
	Since   time.Time // when it came into this state
}

// Change tells that a member's state, or what its contact says, has changed.
type Change struct {
	Node    identity.Key
	Was, Is State // the same where only the contact has changed; Is Unknown: forgotten, to make room
	Contact record.Contact
}

// Envelope is a message for a node that a stream leads to.
type Envelope struct {
	To  identity.Key
	Msg []byte
}

// Output is what is to be done.
type Output struct {
	Send    []Envelope
	Dial    []record.Contact // open a stream to each, then Linked, or else Failed
	Drop    []identity.Key   // close these streams, after what Send has for them, where this node opened them and nothing else needs them
	Changes []Change         // in their order
	Refute  record.Order     // where not zero: sign an own contact above this at once and give it to Own
	Next    time.Time        // call Take again then, or after any other call
}

// Detector is one node's table and failure detector. It is not safe for
// concurrent use, and does nothing by itself: after every call that brings
// something, [Detector.Take] tells what is to be done.
type Detector struct {
	cfg Config

	me       *member      // this node, outside of the table; its contact is nil before the first
	mine     []id         // of own contacts, newest first
	refute   record.Order // that an own contact must exceed, or zero
	refutes  pace
	slander  map[identity.Key]*pace
	haste    pace      // of contacts sent to all neighbours at once
	health   int       // Lifeguard's: 0 is well
	worsened time.Time // by a suspicion of this node

	table
	changes []Change

	links   map[identity.Key]*link
	list    []*link       // the same, in the order in which they came
	dirty   []*link       // those with something to send
	rtt     time.Duration // to a neighbour, in the middle
	probes  []*probe
	favours []favour
	nonce   uint64
	dials   []*dial
	toDial  []record.Contact
	toDrop  []identity.Key
	wanted  map[id]*want
	hearsay
	extra int // neighbours beyond what is due, to replace others

	due      time.Time // the last Output.Next
	probing  time.Time // when the next probe is due
	syncing  time.Time // … the next comparison of tables
	returned time.Time // when a dead member last showed that it is not
	bulk     time.Time // until when a neighbour is expected to send its whole table
	tending  time.Time // when to look after the neighbours
	meeting  time.Time // … to try a dead node
	sifting  time.Time // … to look into what others say
	mixing   time.Time // … to replace a neighbour
	sweeping time.Time // … to forget what is over
}

// New makes a detector that knows nobody.
func New(c Config) *Detector {
	if c.Period <= 0 {
		c.Period = time.Second
	}
	if c.MaxMembers <= 0 {
		c.MaxMembers = 4096
	}
	if c.PerGroup <= 0 {
		c.PerGroup = 32
	}
	if c.open == nil {
		c.open = func(raw []byte, now time.Time) (*record.Contact, error) {
			o, err := record.OpenContact(raw, c.Network, now)
			return &o, err
		}
	}
	return &Detector{cfg: c, table: newTable(), me: &member{}, slander: make(map[identity.Key]*pace), links: make(map[identity.Key]*link), wanted: make(map[id]*want), hearsay: newHearsay(), rtt: firstRTT}
}

// Own gives the newest contact of this node, for others. A goodbye is the last one.
func (d *Detector) Own(c record.Contact, now time.Time) {
	old := d.me.contact
	if old != nil && c.Order.Compare(old.Order) <= 0 {
		return
	}
	if old != nil && !old.Left {
		d.toggle(d.cfg.Self, d.me.id)
	}
	d.me.contact, d.me.id = &c, idOf(c.Raw)
	d.mine = append([]id{d.me.id}, d.mine[:min(len(d.mine), ownIDs-1)]...)
	if !c.Left {
		d.toggle(d.cfg.Self, d.me.id)
	}
	urgent := old == nil || says(old, &c) || d.refute != (record.Order{})
	if c.Order.Compare(d.refute) > 0 {
		d.refute = record.Order{}
	}
	reach := reachRefresh
	if urgent {
		reach = d.all(now)
	}
	d.spread(d.me, nil, reach, now)
}

// leaving reports whether this node has said goodbye.
func (d *Detector) leaving() bool { return d.me.contact != nil && d.me.contact.Left }

// ownIDs is how many contacts of its own a node recognises.
const ownIDs = 16

// says reports whether a newer contact says something else.
func says(a, b *record.Contact) bool {
	if a.Order.Incarnation != b.Order.Incarnation || a.Server != b.Server || a.Relay != b.Relay || a.Left != b.Left || len(a.Addrs) != len(b.Addrs) {
		return true
	}
	for i := range a.Addrs {
		if string(a.Addrs[i]) != string(b.Addrs[i]) {
			return true
		}
	}
	return false
}

// Take returns everything that is to be done since the last call, and does what
// the clock demands.
func (d *Detector) Take(now time.Time) Output {
	d.wake(now)
	d.probe(now)
	d.judge(now)
	d.tend(now)
	d.compare(now)
	if !now.Before(d.sweeping) {
		d.sweep(now)
		d.sweeping = now.Add(sweepEvery)
	}
	o := Output{Refute: d.refute, Send: d.compose(now)}
	o.Dial, d.toDial = d.toDial, nil
	o.Drop, d.toDrop = d.toDrop, nil
	o.Changes, d.changes = d.changes, nil
	o.Next = d.next(now)
	d.due = o.Next
	return o
}

// stall is by how much a call of Take may be late before this node takes itself
// for one that has slept.
const stall = 750 * time.Millisecond

// wake puts off all judgements by as long as this node was not there to hear
// what speaks against them.
func (d *Detector) wake(now time.Time) {
	late := now.Sub(d.due)
	if d.due.IsZero() || late < stall {
		return
	}
	d.worse()
	for _, p := range d.probes {
		p.deadline = p.deadline.Add(late)
	}
	for _, m := range d.suspects {
		m.judged = m.judged.Add(late)
	}
	for _, l := range d.list {
		if l.heard = l.heard.Add(late); l.heard.After(now) {
			l.heard = now
		}
	}
}

// next returns when the clock will demand something.
func (d *Detector) next(now time.Time) time.Time {
	at := d.sweeping
	sooner := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	sooner(d.probing)
	sooner(d.tending)
	sooner(d.syncing)
	for _, p := range d.probes {
		sooner(p.deadline)
	}
	for _, f := range d.favours {
		sooner(f.deadline)
	}
	for _, m := range d.suspects {
		sooner(m.judged.Add(d.patience(m)))
	}
	for _, l := range d.dirty {
		sooner(l.ready())
	}
	if at.Before(now) {
		return now
	}
	return at
}

// vary returns span, give or take a tenth.
func (d *Detector) vary(span time.Duration) time.Duration {
	return span + time.Duration((2*d.cfg.Rand.Float64()-1)*0.1*float64(span))
}

// State returns what is held of a node.
func (d *Detector) State(node identity.Key) State {
	if m := d.members[node]; m != nil {
		return m.state
	}
	return Unknown
}

// Member returns what is known of a node.
func (d *Detector) Member(node identity.Key) (Member, bool) {
	if m := d.members[node]; m != nil {
		return Member{*m.contact, m.state, m.since}, true
	}
	return Member{}, false
}

// Members returns everybody known, the dead of the last day included, this node not.
func (d *Detector) Members() []Member {
	all := make([]Member, 0, len(d.order))
	for _, m := range d.order {
		all = append(all, Member{*m.contact, m.state, m.since})
	}
	return all
}

// Silence returns for how long a node has been under suspicion or dead; 0 where
// it is not.
func (d *Detector) Silence(node identity.Key, now time.Time) time.Duration {
	if m := d.members[node]; m != nil && (m.state == Suspect || m.state == Dead) {
		return max(0, now.Sub(m.suspected))
	}
	return 0
}

// Len returns how many members are alive or suspect, this node not included.
func (d *Detector) Len() int { return d.live }
