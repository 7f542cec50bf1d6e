package journal

// Kind says what sort of thing happened.
type Kind string

// The kinds of events; [Kinds] explains each.
const (
	NodeUp        Kind = "node.up"
	NodeDown      Kind = "node.down"
	Config        Kind = "config"
	Clock         Kind = "clock"
	LAN           Kind = "lan"
	Join          Kind = "join"
	PeerUp        Kind = "peer.up"
	PeerDown      Kind = "peer.down"
	Announce      Kind = "announce"
	Withdraw      Kind = "withdraw"
	Discover      Kind = "discover"
	LeaseRefused  Kind = "lease.refused"
	PacketRefused Kind = "packet.refused"
	Publish       Kind = "publish"
	Seed          Kind = "seed"
	Fetch         Kind = "fetch"
	Verify        Kind = "verify"
	Refuse        Kind = "refuse"
	Build         Kind = "build"
	Spawn         Kind = "spawn"
	Ready         Kind = "ready"
	Exit          Kind = "exit"
	Adopt         Kind = "adopt"
	Mitosis       Kind = "mitosis"
	Apoptosis     Kind = "apoptosis"
	Decide        Kind = "decide"
	Drain         Kind = "drain"
	Stop          Kind = "stop"
	Admit         Kind = "admit"
	Trust         Kind = "trust"
	Cut           Kind = "journal.cut"
	Gap           Kind = "journal.gap"
)

// Kinds lists every kind with one plain sentence, in the order in which a
// reader meets them.
var Kinds = []struct {
	Kind    Kind
	Meaning string
}{
	{NodeUp, "The node started and listens."},
	{NodeDown, "The node ended in good order."},
	{Config, "The node read its settings, at its start or again."},
	{Clock, "The machine's clock disagrees with what was seen before."},
	{LAN, "Announcements on the local network began to work, or stopped working."},
	{Join, "A way into the network that the node was told of was found closed, or open again."},
	{PeerUp, "Another node is back; those that share no cells with this one are told of together."},
	{PeerDown, "Another node died, or left; those that share no cells with this one are told of together."},
	{Announce, "The node told others that it serves a cell."},
	{Withdraw, "The node told others that it no longer serves a cell."},
	{Discover, "The node looked for a cell and found it, or did not: the first of many searches in vain, and how many followed."},
	{LeaseRefused, "A statement that some node serves a cell was not believed."},
	{PacketRefused, "A packet from the local network was not understood or not believed."},
	{Publish, "The author signed a release of a cell."},
	{Seed, "The node began to hand out the source of a release to others."},
	{Fetch, "The source of a cell was copied from another place."},
	{Verify, "The source of a cell was checked against its author's signature."},
	{Refuse, "The node declined to run or serve something."},
	{Build, "A cell's program was made from its source."},
	{Spawn, "A replica's process was started."},
	{Ready, "A replica said that it takes requests."},
	{Exit, "A replica's process ended."},
	{Adopt, "A restarted node found a process of its earlier life and took care of it."},
	{Mitosis, "The node decided that a cell divides: it starts one more replica."},
	{Apoptosis, "The node decided that one of its replicas is not needed: it drains and ends."},
	{Decide, "The node decided to wait, or to leave the next step of a cell to other hosts."},
	{Drain, "A replica takes no new requests and finishes those that it has."},
	{Stop, "The operator stopped a cell or a replica."},
	{Admit, "A machine was certified as one of this operator's."},
	{Trust, "The operator changed whose code may run here."},
	{Cut, "Bytes of an unfinished line, left by a crash, were cut off the journal."},
	{Gap, "Some events cannot be shown: their file has been removed or damaged."},
}

var known = func() map[Kind]bool {
	m := make(map[Kind]bool, len(Kinds))
	for _, k := range Kinds {
		m[k.Kind] = true
	}
	return m
}()

// Known reports whether k is registered in [Kinds].
func (k Kind) Known() bool { return known[k] }
