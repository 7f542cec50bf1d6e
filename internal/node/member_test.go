package node

import (
	"context"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/kad"
	"cell.network/cell/internal/mesh"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/sim"
	"cell.network/cell/internal/swim"
)

// stranger is another node of the network, of which only its part in the DHT is there.
type stranger struct {
	t    *testing.T
	key  identity.Private
	host *host.Host
	kad  *kad.Kad
}

func newStranger(t *testing.T, knows *Node) *stranger {
	t.Helper()
	s := &stranger{t: t, key: ring(200).Node}
	var err error
	if s.host, err = host.New(host.Config{Key: s.key, Network: lab, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}}); err != nil {
		t.Fatal(err)
	}
	if s.kad, err = kad.New(s.host, kad.Config{Network: lab, Mode: kad.ModeServer, Bootstrap: knows.listen()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.kad.Close(); _ = s.host.Close() })
	if err := s.kad.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// announce puts a lease for the worker into the DHT; ttl 0 withdraws it.
func (s *stranger) announce(incarnation, sequence uint64, ttl time.Duration) {
	s.t.Helper()
	g, err := record.SignGrant(ring(9).Author, lab.ID(), "", []record.Subject{{Kind: record.SubjectAny}}, time.Now().Truncate(time.Hour), 300*24*time.Hour)
	if err != nil {
		s.t.Fatal(err)
	}
	o := record.Offer{Cell: worker, State: record.StateAlive, Grant: g.Raw,
		Order: record.Order{Incarnation: incarnation, Sequence: sequence}, Issued: time.Now(), TTL: ttl}
	if ttl > 0 {
		o.Addrs = s.host.LeaseAddrs(true)
	}
	l, err := record.SignLease(s.key, lab.ID(), o)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.kad.Put(s.t.Context(), l); err != nil {
		s.t.Fatal(err)
	}
}

// becomes is what membership tells of the stranger.
func (s *stranger) becomes(was, is swim.State, incarnation uint64) swim.Change {
	s.t.Helper()
	c, err := record.SignContact(s.key, lab.ID(), record.ContactOffer{Addrs: s.host.LeaseAddrs(true), Server: true, Left: is == swim.Left,
		Order: record.Order{Incarnation: incarnation, Sequence: 9}, Issued: time.Now().Add(time.Millisecond)})
	if err != nil {
		s.t.Fatal(err)
	}
	return swim.Change{Node: s.key.Public(), Was: was, Is: is, Contact: c}
}

func (n *Node) finds(t *testing.T, cell identity.Cell) (all []mesh.Endpoint) {
	for ep, err := range n.mesh.Discover(t.Context(), cell) {
		if err == nil {
			all = append(all, ep)
		}
	}
	return all
}

// What this node comes to hold for the DHT ends its own no, and what another
// node announced in a former life does not come back with it.
func TestHolderKnowsWhatItHolds(t *testing.T) {
	n, _ := grantedNode(t)
	x := newStranger(t, n)
	wants := func(what string, want int) []mesh.Endpoint {
		t.Helper()
		got := n.finds(t, worker)
		if len(got) != want {
			t.Errorf("%s: found %d, want %d", what, len(got), want)
		}
		return got
	}
	wants("before", 0)
	x.announce(1, 1, time.Minute)
	for _, ep := range wants("it is announced", 1) {
		f := found(worker, ep)
		if f.Hops == nil || *f.Hops != 0 || f.Holder != n.self || f.Why != "lease held by this node for the DHT" {
			t.Errorf("this node holds the lease, and says: %v hops, holder %s, %s", f.Hops, f.Holder.Short(), f.Why)
		}
	}
	x.announce(1, 2, 0)
	wants("it is withdrawn", 0)
	x.announce(1, 3, time.Minute)
	n.member(x.becomes(swim.Unknown, swim.Alive, 1))
	wants("it is announced again", 1)
	n.member(x.becomes(swim.Alive, swim.Dead, 1))
	wants("its host is dead", 0)
	n.member(x.becomes(swim.Dead, swim.Alive, 1))
	wants("its host was but cut off", 1)
	n.member(x.becomes(swim.Alive, swim.Dead, 1))
	n.member(x.becomes(swim.Dead, swim.Alive, 2))
	wants("its host has come back without it", 0)
	x.announce(2, 1, time.Minute)
	wants("announced in the new life", 1)
	n.member(x.becomes(swim.Alive, swim.Left, 2))
	n.member(x.becomes(swim.Left, swim.Alive, 3))
	wants("its host has left and come back", 0)
}

// A host dies while it has a request: who asked is told so, in words.
func TestCallToAHostThatDies(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t)
		p := s.join(time.Minute)
		go func() {
			time.Sleep(5 * time.Second)
			s.net.Kill(sim.Addr(1))
		}()
		err := s.call(t.Context())
		want := p.key.Public().Short() + ": the host fell silent "
		if codeOf(err) != frame.Unavailable || !strings.HasPrefix(err.Error(), want) || !strings.HasSuffix(err.Error(), "s ago; whether the request was executed is not known") {
			t.Errorf("%v, %v", codeOf(err), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		err = s.call(ctx)
		if want = ": the host does not answer at "; codeOf(err) != frame.NoReplica || !strings.Contains(err.Error(), want) {
			t.Errorf("called again: %v, %v", codeOf(err), err)
		}
	})
}
