// Package swim keeps the table of a network's nodes and finds out which of them
// have failed, by SWIM with the self-distrust of Lifeguard.
package swim

import (
	"math/rand/v2"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// MaxMessage is how long a message may be, in bytes.
const MaxMessage = 8 << 10

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

// Config of a [Detector]. Self, Network, Sign and Rand are required.
type Config struct {
	Self    identity.Key
	Network identity.NetworkID

	// Sign signs with the key of Self: identity.Private.Sign. What is signed are
	// suspicions, so that whoever accuses others falsely can be told.
	Sign func(msg []byte) []byte

	Rand       *rand.Rand
	Period     time.Duration // between two probes, default 1 s; half of it where round trips are short
	MaxMembers int           // of the table, default 4096

	// Group names the part of the address space that a node lives in, such as its
	// /24 or /48; at most PerGroup members of one group are kept. "" is exempt.
	// Nil: no limit.
	Group    func(record.Contact) string
	PerGroup int // default 32
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
	Was, Is State // the same where only the contact has changed
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
	cfg     Config
	own     record.Contact
	members map[identity.Key]*Member
	changes []Change
}

// New makes a detector that knows nobody.
func New(c Config) *Detector {
	return &Detector{cfg: c, members: map[identity.Key]*Member{}}
}

// Own gives the newest contact of this node, for others. A goodbye is the last one.
func (d *Detector) Own(c record.Contact, now time.Time) { d.own = c }

// Linked tells that a stream leads to node, whoever opened it.
func (d *Detector) Linked(node identity.Key, now time.Time) {}

// Unlinked tells that the stream to node has ended. That is a reason to probe
// it at once, not a verdict.
func (d *Detector) Unlinked(node identity.Key, now time.Time) {}

// Hear takes a message that came over the stream to from. After an error the
// stream must be closed: an honest node does not say such a thing.
func (d *Detector) Hear(from identity.Key, msg []byte, now time.Time) error { return nil }

// Learn takes a verified contact that came another way: from the LAN or the
// disk. It reports whether it is news.
func (d *Detector) Learn(c record.Contact, now time.Time) bool {
	m := d.members[c.Signer]
	if c.Signer == d.cfg.Self || m != nil && c.Order.Compare(m.Contact.Order) <= 0 {
		return false
	}
	is, was := Alive, Unknown
	if c.Left {
		is = Left
	}
	if m != nil {
		was = m.State
	}
	d.members[c.Signer] = &Member{c, is, now}
	d.changes = append(d.changes, Change{c.Signer, was, is, c})
	return true
}

// Failed tells that a dial asked for by [Output].Dial came to nothing.
func (d *Detector) Failed(node identity.Key, now time.Time) {}

// Take returns everything that is to be done since the last call, and does what
// the clock demands.
func (d *Detector) Take(now time.Time) Output {
	o := Output{Changes: d.changes, Next: now.Add(time.Second)}
	d.changes = nil
	return o
}

// State returns what is held of a node.
func (d *Detector) State(node identity.Key) State {
	if m := d.members[node]; m != nil {
		return m.State
	}
	return Unknown
}

// Member returns what is known of a node.
func (d *Detector) Member(node identity.Key) (Member, bool) {
	if m := d.members[node]; m != nil {
		return *m, true
	}
	return Member{}, false
}

// Members returns everybody known, the dead of the last day included.
func (d *Detector) Members() []Member {
	all := make([]Member, 0, len(d.members))
	for _, m := range d.members {
		all = append(all, *m)
	}
	return all
}

// Silence returns for how long a node has been under suspicion or dead; 0 where
// it is not.
func (d *Detector) Silence(node identity.Key, now time.Time) time.Duration { return 0 }

// Len returns how many members are alive or suspect, this node not included.
func (d *Detector) Len() int { return len(d.members) }
