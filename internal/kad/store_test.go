package kad

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const testNet identity.Network = "test"

var (
	author  = identity.PrivateFromSeed([32]byte{'a'})
	greeter = identity.Cell{Author: author.Public(), Name: "greeter"}
)

// grantTo is the author's permission for everybody or, with a key, for one node.
func grantTo(node identity.Key, now time.Time) []byte {
	who := record.Subject{Kind: record.SubjectAny}
	if !node.IsZero() {
		who = record.Subject{Kind: record.SubjectNode, Key: node}
	}
	g, err := record.SignGrant(author, testNet.ID(), "", []record.Subject{who}, now, 24*time.Hour)
	if err != nil {
		panic(err)
	}
	return g.Raw
}

var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // when bubbles begin, and grants

// lease makes a valid lease; ttl 0 makes a tombstone.
func lease(node identity.Private, cell identity.Cell, seq uint64, now time.Time, ttl time.Duration) record.Lease {
	o := record.Offer{Cell: cell, State: record.StateAlive, Grant: grantTo(identity.Key{}, epoch),
		Order: record.Order{Incarnation: 1, Sequence: seq}, Issued: now, TTL: ttl}
	if ttl > 0 {
		o.Addrs = [][]byte{addr("/ip4/1.2.3.4/udp/9/quic-v1")}
	}
	l, err := record.SignLease(node, testNet.ID(), o)
	if err != nil {
		panic(err)
	}
	return l
}

func nobody(record.Lease) bool { return false }

// put stores as if l came from an address.
func put(s *store, key identity.NameKey, l record.Lease, source string, now time.Time) string {
	from := origin{source: source, group: source}
	if source == ownOrigin.source {
		from = ownOrigin
	}
	_, reason := s.put(key, l, from, now)
	return reason
}

func TestStoreOrderAndTime(t *testing.T) {
	s, now, key := newStore(false), epoch, greeter.Key(testNet.ID())
	two := lease(testKey(1), greeter, 2, now, time.Minute)
	try := func(want string, l record.Lease) {
		t.Helper()
		if got := put(s, key, l, "src", now); got != want {
			t.Errorf("put of sequence %d: %q, want %q", l.Order.Sequence, got, want)
		}
	}
	holds := func(n int) {
		t.Helper()
		if got := len(s.get(key, now, nobody)); got != n {
			t.Errorf("%v after the start %d records are held, want %d", now.Sub(epoch), got, n)
		}
	}
	try("", two)
	now = now.Add(50 * time.Second)
	try("", two) // does not prolong it
	try("order", lease(testKey(1), greeter, 1, now, time.Minute))
	holds(1)
	now = now.Add(11 * time.Second)
	holds(0)
	try("", lease(testKey(1), greeter, 3, now, time.Minute))
	try("", lease(testKey(2), greeter, 1, now, time.Minute))
	holds(2)
	try("", lease(testKey(1), greeter, 4, now, 0))
	try("order", lease(testKey(1), greeter, 3, now, time.Minute))
	holds(2)
	now = now.Add(record.MaxLeaseTTL)
	holds(1) // the tombstone outlives every lease that it withdraws
	now = now.Add(3 * record.MaxSkew)
	holds(0)
	s.sweep(now)
	if r, b := s.size(); r != 0 || b != 0 || len(s.sources) != 0 || len(s.authors) != 0 || len(s.shelves) != 0 {
		t.Errorf("after the end %d records, %d bytes, %d sources, %d shelves are held", r, b, len(s.sources), len(s.shelves))
	}
}

func TestStoreLimitsPerKey(t *testing.T) {
	s, key := newStore(false), greeter.Key(testNet.ID())
	full := 0
	for i := range MaxPerKey + 10 {
		if put(s, key, lease(testKey(i), greeter, 1, epoch, time.Minute), "src", epoch) == reasonFull {
			full++
		}
	}
	if n := len(s.get(key, epoch, nobody)); n != MaxPerKey || full != 10 {
		t.Errorf("%d leases under one key, %d refused", n, full)
	}
	for i := range MaxPerKey {
		if got := put(s, key, lease(testKey(i), greeter, 2, epoch, 0), "src", epoch.Add(time.Duration(i)*time.Second)); got != "" {
			t.Errorf("tombstone %d: %s", i, got)
		}
	}
	if n := len(s.get(key, epoch, nobody)); n != maxTombsPerKey {
		t.Errorf("%d tombstones under one key", n)
	}
	if got := put(s, key, lease(testKey(200), greeter, 1, epoch, time.Minute), "src", epoch); got != "" {
		t.Errorf("a lease among tombstones: %s", got)
	}
}

// A hundred thousand records of one source, and of many, leave the node's
// memory bounded and room for others.
func TestStoreIsBounded(t *testing.T) {
	s := newStore(false)
	l := lease(testKey(1), greeter, 1, epoch, time.Hour)
	l.Raw = make([]byte, record.MaxLeaseSize)
	key := func(i int) identity.NameKey { return identity.NameKey{byte(i), byte(i >> 8), byte(i >> 16), 1} }
	refused := make(map[string]int)
	for i := range 100_000 {
		refused[put(s, key(i), l, "flood", epoch)]++
	}
	if _, b := s.size(); b > MaxPerSource || refused[reasonQuota] == 0 {
		t.Errorf("one source holds %d bytes; %v", b, refused)
	}
	if got := put(s, key(100_000), l, "other", epoch); got != "" {
		t.Errorf("another source is refused: %s", got)
	}
	for i := range 100_000 {
		l.Cell.Author[0] = byte(i)
		refused[put(s, key(200_000+i), l, fmt.Sprint("flood", i%1000), epoch)]++
	}
	if _, b := s.size(); b > MaxStore || refused[reasonFull] == 0 {
		t.Errorf("all sources hold %d bytes; %v", b, refused)
	}
	if got := put(s, key(400_000), l, ownOrigin.source, epoch); got != "" {
		t.Errorf("the node's own lease is refused: %s", got)
	}
	if got := put(s, key(400_001), l, "late", epoch.Add(2*time.Hour)); got != "" {
		t.Errorf("a full store does not make room for what has expired: %s", got)
	}
}

func TestRates(t *testing.T) {
	var r rates
	now, ok := epoch, 0
	for range 10 * putBurst {
		if r.allow("one", true, now) {
			ok++
		}
	}
	if ok != putBurst {
		t.Errorf("a burst of %d puts was allowed", ok)
	}
	if !r.allow("one", false, now) || !r.allow("two", true, now) {
		t.Error("another kind or another source is refused")
	}
	now = now.Add(time.Second)
	ok = 0
	for range putBurst {
		if r.allow("one", true, now) {
			ok++
		}
	}
	if ok != putRate {
		t.Errorf("%d puts in the second after", ok)
	}
	for i := range 10 * maxSources {
		r.allow(fmt.Sprint(i), false, now)
	}
	if n := len(r.now) + len(r.old); n > 2*maxSources {
		t.Errorf("%d sources are remembered", n)
	}
}

func TestBook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers")
	b, err := openBook(path)
	if err != nil {
		t.Fatal(err)
	}
	info := func(i int) peer.AddrInfo {
		return peer.AddrInfo{ID: testPeer(i), Addrs: []ma.Multiaddr{ma.StringCast(fmt.Sprintf("/ip4/1.2.3.4/udp/%d/quic-v1", i+1)),
			ma.StringCast(fmt.Sprintf("/ip6/2a00::1/udp/%d/quic-v1", i+1))}}
	}
	now := time.Now()
	for i := range maxBook + 5 {
		b.note(info(i), now.Add(time.Duration(i)*time.Second))
	}
	if err := b.save(); err != nil {
		t.Fatal(err)
	}
	again, err := openBook(path)
	if err != nil {
		t.Fatal(err)
	}
	none := func(peer.ID) bool { return false }
	got := again.pick(1000, now, none)
	if len(got) != maxBook {
		t.Errorf("%d peers remembered, want %d", len(got), maxBook)
	}
	for _, p := range got {
		if len(p.Addrs) != 2 || p.ID == testPeer(0) {
			t.Errorf("remembered %v", p)
		}
	}
	if got := again.pick(3, now, func(p peer.ID) bool { return p != testPeer(9) }); len(got) != 1 || got[0].ID != testPeer(9) {
		t.Errorf("picked %v", got)
	}
	if got := again.pick(1000, now.Add(2*bookFor), none); len(got) != 0 {
		t.Errorf("%d peers are remembered for ever", len(got))
	}
}
