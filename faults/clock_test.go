package faults_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/node"
	"cell.network/cell/internal/pheromone"
	"cell.network/cell/internal/record"
	"github.com/fxamacker/cbor/v2"
	"github.com/libp2p/go-libp2p/core/network"
)

// stranger is a node of the same network that this test plays: an author with
// one machine, whose clock says what the test likes.
type stranger struct {
	t   *testing.T
	net identity.Network
	key identity.Private // author and node at once
	*host.Host
}

func newStranger(t *testing.T, n identity.Network) *stranger {
	t.Helper()
	key := identity.NewPrivate()
	h, err := host.New(host.Config{Key: key, Network: n, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return &stranger{t, n, key, h}
}

// cell is a cell of this author.
func (s *stranger) cell(name identity.Name) identity.Cell {
	return identity.Cell{Author: s.key.Public(), Name: name}
}

// lease says at some time, right or wrong, that this node serves the cell.
func (s *stranger) lease(name identity.Name, at time.Time) record.Lease {
	s.t.Helper()
	grant, err := record.SignGrant(s.key, s.net.ID(), "", []record.Subject{{Kind: record.SubjectAny}}, at, 24*time.Hour)
	if err != nil {
		s.t.Fatal(err)
	}
	var addrs [][]byte
	for _, a := range s.Addrs() {
		addrs = append(addrs, a.Bytes())
	}
	l, err := record.SignLease(s.key, s.net.ID(), record.Offer{
		Cell: s.cell(name), State: record.StateAlive, Addrs: addrs, Grant: grant.Raw,
		Order: record.Order{Incarnation: uint64(at.UnixMilli()), Sequence: 1}, Issued: at, TTL: 2 * time.Minute,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

// reach connects to a node.
func (s *stranger) reach(d *daemon) {
	s.t.Helper()
	var addrs [][]byte
	for _, a := range d.addrs() {
		addrs = append(addrs, a.Bytes())
	}
	if err := s.Dial(s.t.Context(), d.status.Node, addrs); err != nil {
		s.t.Fatal(err)
	}
}

// stream opens a stream of a protocol to a node that it has reached.
func (s *stranger) stream(d *daemon, protocol string) network.Stream {
	s.t.Helper()
	id, err := host.PeerID(d.status.Node)
	if err != nil {
		s.t.Fatal(err)
	}
	st, err := s.Open(s.t.Context(), id, host.Protocol(s.net, protocol))
	if err != nil {
		s.t.Fatal(err)
	}
	_ = st.SetDeadline(time.Now().Add(10 * time.Second))
	return st
}

// put asks the node to hold a lease for others and returns why it does not.
func (s *stranger) put(d *daemon, l record.Lease) (refused string) {
	s.t.Helper()
	st := s.stream(d, "lease/2")
	defer st.Close()
	key := l.Cell.Key(s.net.ID())
	b, err := cbor.Marshal(map[int]any{1: 3, 2: key[:], 3: l.Raw})
	if err != nil {
		s.t.Fatal(err)
	}
	writeSized(s.t, st, b)
	var answer struct {
		Code   int    `cbor:"1,keyasint"`
		Reason string `cbor:"5,keyasint"`
	}
	if err := cbor.Unmarshal(readSized(s.t, st), &answer); err != nil {
		s.t.Fatal(err)
	}
	return answer.Reason
}

// shout sends packets to the node's port for announcements, as a neighbour does.
func (s *site) shout(packets ...[]byte) {
	s.t.Helper()
	c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: s.port})
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	for _, p := range packets {
		_, _ = c.Write(p)
	}
}

func announcement(n identity.Network, leases ...record.Lease) []byte {
	id := n.ID()
	p := pheromone.Packet{Kind: pheromone.KindAnnounce, Network: pheromone.Tag(id[:8])}
	for _, l := range leases {
		p.Records = append(p.Records, l.Raw)
	}
	return p.Append(nil)
}

// A peer whose clock is ten minutes ahead, or behind, is neither believed nor
// passed on, by the local network nor by the DHT. The node says once what is
// wrong, and doctor what to do.
func TestClockTenMinutesOff(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": 10 * time.Minute, "behind": -10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			d := s.up()
			if c := s.checks()["clock"]; c.Status != node.CheckOK {
				t.Fatalf("before: %+v", c)
			}
			peer := newStranger(t, s.net)
			peer.reach(d)
			now := time.Now()

			// The same peer with a right clock is believed: the test can fail.
			s.shout(announcement(s.net, peer.lease("right", now)))
			if refused := peer.put(d, peer.lease("right-dht", now)); refused != "" {
				t.Fatalf("a good lease was refused: %s", refused)
			}
			eventually(t, 20*time.Second, "a good lease is believed", func() bool {
				return s.cell("lookup", "right@"+peer.key.Public().String()).exit == 0
			})
			s.must("lookup", "right-dht@"+peer.key.Public().String())

			wrong := now.Add(off)
			for i := range 8 {
				s.shout(announcement(s.net, peer.lease("wrong", wrong.Add(time.Duration(i)*time.Second))))
				if refused := peer.put(d, peer.lease("wrong", wrong.Add(time.Duration(i)*time.Second))); refused != "clock" && refused != "stale" {
					t.Errorf("the DHT: %q", refused)
				}
			}
			eventually(t, 20*time.Second, "refusals of both tiers in the journal", func() bool {
				return len(s.events(journal.PacketRefused)) > 0 && len(s.events(journal.LeaseRefused)) > 0
			})
			eventually(t, 20*time.Second, "all sixteen are counted", func() bool { return strings.Contains(s.checks()["clock"].Evidence, "16") })
			if o := s.cell("lookup", "wrong@"+peer.key.Public().String()); o.exit != node.ExitNotFound {
				t.Errorf("found: exit %d, %s", o.exit, o.stdout)
			}
			if n := len(s.events(journal.Clock)); n != 1 {
				t.Errorf("%d events about the clock, want 1: %+v", n, s.events(journal.Clock))
			}
			if n := len(s.events(journal.PacketRefused, journal.LeaseRefused)); n != 2 {
				t.Errorf("%d events of refusals, want 1 for each tier", n)
			}
			checks := s.checks()
			if c := checks["clock"]; c.Status != node.CheckWarn || !strings.Contains(c.Remedy, "NTP") {
				t.Errorf("doctor: %+v", c)
			}
			if c := checks["refused"]; !strings.Contains(c.Evidence, "dht") || !strings.Contains(c.Evidence, "lan") {
				t.Errorf("doctor: %+v", c)
			}
			s.must("lookup", "right@"+peer.key.Public().String()) // what is right goes on
		})
	}
}
