package record

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"github.com/fxamacker/cbor/v2"
)

var update = flag.Bool("update", false, "rewrite testdata/vectors.txt")

var (
	net0   = identity.Network("lab").ID()
	author = identity.PrivateFromSeed([32]byte{1})
	colony = identity.PrivateFromSeed([32]byte{2})
	node   = identity.PrivateFromSeed([32]byte{3})
	mallet = identity.PrivateFromSeed([32]byte{66})
	epoch  = time.UnixMilli(1_700_000_000_000)
	hello  = identity.Cell{Author: author.Public(), Name: "greeter"}
)

const year = 365 * 24 * time.Hour

// certs is an author's grant to a colony and the colony's certificate of node.
func certs(t testing.TB) (Grant, Member) {
	t.Helper()
	g, err := SignGrant(author, net0, "", []Subject{{Kind: SubjectColony, Key: colony.Public()}}, epoch, year)
	if err != nil {
		t.Fatal(err)
	}
	m, err := SignMember(colony, net0, node.Public(), epoch, year)
	if err != nil {
		t.Fatal(err)
	}
	return g, m
}

func offer(t testing.TB) Offer {
	g, m := certs(t)
	return Offer{
		Cell: hello, State: StateAlive, Addrs: [][]byte{{4, 127, 0, 0, 1, 0x91, 2, 0x1f, 0x40, 0xcd, 3}},
		Grant: g.Raw, Member: m.Raw, Order: Order{5, 1}, Issued: epoch, TTL: 2 * time.Minute,
	}
}

func lease(t testing.TB, change func(*Offer)) Lease {
	t.Helper()
	o := offer(t)
	if change != nil {
		change(&o)
	}
	l, err := SignLease(node, net0, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLeaseRoundTrip(t *testing.T) {
	want := lease(t, nil)
	got, err := OpenLease(bytes.Clone(want.Raw), net0, epoch.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if got.Cell != hello || got.Node() != node.Public() || got.State != StateAlive || got.Order != (Order{5, 1}) ||
		!got.Issued.Equal(epoch) || got.TTL != 2*time.Minute || len(got.Addrs) != 1 || got.Tombstone() ||
		got.Grant.Signer != author.Public() || got.Member.Node != node.Public() {
		t.Errorf("came back as %+v", got)
	}
}

func TestLargestLeaseFits(t *testing.T) {
	l := lease(t, func(o *Offer) {
		o.Cell.Name = identity.Name(strings.Repeat("n", identity.MaxName))
		o.Addrs = nil
		for range MaxAddrs {
			o.Addrs = append(o.Addrs, bytes.Repeat([]byte{1}, 61)) // an IPv6 relay address
		}
		o.Order = Order{1 << 62, 1 << 62}
	})
	if len(l.Raw) > MaxLeaseSize {
		t.Errorf("a full lease has %d bytes", len(l.Raw))
	}
	t.Logf("a full lease has %d of %d bytes, a usual one %d", len(l.Raw), MaxLeaseSize, len(lease(t, nil).Raw))
}

// A holder passes a tombstone on for as long as it keeps it, and a clock that
// differs must not make a stranger refuse it before.
func TestTombstoneStaysValid(t *testing.T) {
	tomb := lease(t, func(o *Offer) { o.TTL, o.Addrs = 0, nil })
	kept := tomb.Expires(epoch).Sub(epoch)
	if kept < MaxLeaseTTL+2*MaxSkew {
		t.Errorf("kept for %v, a lease can be replayed for %v", kept, MaxLeaseTTL+2*MaxSkew)
	}
	if _, err := OpenLease(tomb.Raw, net0, epoch.Add(kept+MaxSkew)); err != nil {
		t.Errorf("after %v: %v", kept, err)
	}
	if _, err := OpenLease(tomb.Raw, net0, epoch.Add(kept+MaxSkew+time.Second)); !errors.Is(err, ErrStale) {
		t.Errorf("after more than %v: %v", kept, err)
	}
	if _, err := OpenLease(tomb.Raw, net0, epoch.Add(-MaxSkew-time.Second)); !errors.Is(err, ErrClock) {
		t.Errorf("from the future: %v", err)
	}
}

// Each case changes one thing of a good lease. The unchanged lease is the
// positive control: TestLeaseRoundTrip.
func TestOpenLeaseRefuses(t *testing.T) {
	good := lease(t, nil)
	g, m := certs(t)
	otherMember, _ := SignMember(colony, net0, mallet.Public(), epoch, year)
	forgedMember, _ := SignMember(mallet, net0, node.Public(), epoch, year)
	forgedGrant, _ := SignGrant(mallet, net0, "", []Subject{{Kind: SubjectAny}}, epoch, year)
	narrow, _ := SignGrant(author, net0, "other", []Subject{{Kind: SubjectAny}}, epoch, year)
	short, _ := SignGrant(author, net0, "", []Subject{{Kind: SubjectNode, Key: node.Public()}}, epoch.Add(-year), time.Hour)
	otherNet, _ := SignGrant(author, identity.Network("else").ID(), "", []Subject{{Kind: SubjectAny}}, epoch, year)
	resign := func(signer identity.Private, change func(*Offer)) []byte {
		o := offer(t)
		change(&o)
		h := Header{Domain: DomainLease, Network: net0, Order: o.Order, Issued: o.Issued, TTL: o.TTL}
		raw, err := Sign(signer, h, leasePayload{Author: o.Cell.Author, Name: string(o.Cell.Name), State: o.State, Addrs: o.Addrs, Grant: o.Grant, Member: o.Member})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	flip := func(i int) []byte {
		b := bytes.Clone(good.Raw)
		b[i] ^= 1
		return b
	}
	for name, c := range map[string]struct {
		raw  []byte
		at   time.Time
		want error
	}{
		"empty":                 {nil, epoch, ErrMalformed},
		"signature only":        {good.Raw[:64], epoch, ErrMalformed},
		"cut":                   {good.Raw[:len(good.Raw)-1], epoch, ErrMalformed},
		"trailing byte":         {append(bytes.Clone(good.Raw), 0), epoch, ErrMalformed},
		"too long":              {make([]byte, MaxLeaseSize+1), epoch, ErrSize},
		"flipped signature":     {flip(3), epoch, ErrSignature},
		"flipped body":          {flip(len(good.Raw) - 200), epoch, ErrSignature},
		"grant as lease":        {g.Raw, epoch, ErrDomain},
		"member as lease":       {m.Raw, epoch, ErrDomain},
		"from the future":       {good.Raw, epoch.Add(-MaxSkew - time.Second), ErrClock},
		"replayed when expired": {good.Raw, epoch.Add(2*time.Minute + MaxSkew + time.Second), ErrStale},
		"signed by a stranger":  {resign(mallet, func(*Offer) {}), epoch, ErrGrant},
		"someone else's member": {resign(node, func(o *Offer) { o.Member = otherMember.Raw }), epoch, ErrGrant},
		"forged membership":     {resign(node, func(o *Offer) { o.Member = forgedMember.Raw }), epoch, ErrGrant},
		"no membership":         {resign(node, func(o *Offer) { o.Member = nil }), epoch, ErrGrant},
		"forged grant":          {resign(node, func(o *Offer) { o.Grant = forgedGrant.Raw }), epoch, ErrGrant},
		"grant of another name": {resign(node, func(o *Offer) { o.Grant = narrow.Raw }), epoch, ErrGrant},
		"expired grant":         {resign(node, func(o *Offer) { o.Grant = short.Raw }), epoch, ErrGrant},
		"grant from elsewhere":  {resign(node, func(o *Offer) { o.Grant = otherNet.Raw }), epoch, ErrGrant},
		"no grant":              {resign(node, func(o *Offer) { o.Grant = nil }), epoch, ErrGrant},
		"another's cell":        {resign(node, func(o *Offer) { o.Cell.Author = mallet.Public() }), epoch, ErrGrant},
		"bad name":              {resign(node, func(o *Offer) { o.Cell.Name = "A B" }), epoch, ErrMalformed},
		"ttl too short":         {resign(node, func(o *Offer) { o.TTL = time.Second }), epoch, ErrMalformed},
		"ttl too long":          {resign(node, func(o *Offer) { o.TTL = 3 * time.Hour }), epoch, ErrMalformed},
		"unknown state":         {resign(node, func(o *Offer) { o.State = 9 }), epoch, ErrMalformed},
		"nine addresses":        {resign(node, func(o *Offer) { o.Addrs = make9() }), epoch, ErrMalformed},
		"empty address":         {resign(node, func(o *Offer) { o.Addrs = [][]byte{{}} }), epoch, ErrMalformed},
	} {
		if _, err := OpenLease(c.raw, net0, c.at); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := OpenLease(good.Raw, identity.Network("else").ID(), epoch); !errors.Is(err, ErrNetwork) {
		t.Errorf("other network: %v", err)
	}
}

func make9() [][]byte {
	var a [][]byte
	for range MaxAddrs + 1 {
		a = append(a, []byte{1})
	}
	return a
}

// A later version may fill the reserved map: this one must accept and ignore it.
func TestReservedRoom(t *testing.T) {
	p, _ := encoding.Marshal(memberPayload{Node: node.Public()})
	one, _ := encoding.Marshal("news")
	for n, want := range map[int]error{maxReserved: nil, maxReserved + 1: ErrMalformed} {
		b := body{Schema: 1, Domain: DomainMember, Network: net0, Signer: colony.Public(), Issued: epoch.UnixMilli(), TTL: 1000, Payload: p, Reserved: map[uint64]cbor.RawMessage{}}
		for i := range n {
			b.Reserved[uint64(i)] = one
		}
		enc, _ := encoding.Marshal(b)
		raw := append(colony.Sign(append([]byte(signaturePrefix), enc...)), enc...)
		if _, err := OpenMember(raw, net0, epoch); !errors.Is(err, want) {
			t.Errorf("%d reserved entries: %v, want %v", n, err, want)
		}
	}
}

func TestFloor(t *testing.T) {
	var f Floor
	admit := func(incarnation, sequence uint64) (bool, error) {
		return f.Admit(lease(t, func(o *Offer) { o.Order = Order{incarnation, sequence} }))
	}
	for _, c := range []struct {
		inc, seq uint64
		fresh    bool
		err      error
	}{{5, 1, true, nil}, {5, 1, false, nil}, {5, 2, true, nil}, {5, 1, false, ErrOrder}, {6, 0, true, nil}, {5, 99, false, ErrOrder}} {
		if fresh, err := admit(c.inc, c.seq); fresh != c.fresh || !errors.Is(err, c.err) {
			t.Errorf("(%d, %d): fresh %v, %v; want %v, %v", c.inc, c.seq, fresh, err, c.fresh, c.err)
		}
	}
	old := lease(t, func(o *Offer) { o.Order = Order{7, 0} })
	revoked, _ := SignGrant(author, net0, "", []Subject{{Kind: SubjectNode, Key: mallet.Public()}}, epoch.Add(time.Second), year)
	byMallet, err := SignLease(mallet, net0, Offer{Cell: hello, State: StateAlive, Grant: revoked.Raw, Issued: epoch.Add(time.Second), TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Admit(byMallet); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Admit(old); !errors.Is(err, ErrOrder) {
		t.Errorf("lease under a replaced grant: %v, want ErrOrder", err)
	}
}

// Renewing a grant must not put those out of office who hold the old one.
func TestRenewedGrantKeepsOrder(t *testing.T) {
	var f Floor
	g, _ := certs(t)
	renewed, err := g.Renew(author, epoch.Add(time.Hour), year)
	if err != nil || renewed.Order != g.Order || !renewed.Issued.After(g.Issued) {
		t.Fatalf("renewed grant: %+v, %v", renewed.Header, err)
	}
	o := offer(t)
	o.Grant, o.Issued = renewed.Raw, epoch.Add(time.Hour)
	l, err := SignLease(node, net0, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Admit(l); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Admit(lease(t, func(o *Offer) { o.Order.Sequence++ })); err != nil {
		t.Errorf("a lease under the grant before its renewal: %v", err)
	}
}

func TestFloorIsBounded(t *testing.T) {
	var f Floor
	l := lease(t, nil)
	for i := range MaxFloor + 100 {
		l.Signer[0], l.Signer[1], l.Signer[2] = byte(i), byte(i>>8), byte(i>>16)
		if _, err := f.Admit(l); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.seen) != MaxFloor || f.byAge.Len() != MaxFloor {
		t.Errorf("remembers %d and %d pairs, want %d", len(f.seen), f.byAge.Len(), MaxFloor)
	}
}

func TestToken(t *testing.T) {
	g, m := certs(t)
	tok, err := ParseToken(Token{Member: m, Grants: []Grant{g}}.String(), net0, epoch)
	if err != nil || tok.Member.Node != node.Public() || len(tok.Grants) != 1 {
		t.Fatalf("came back as %+v, %v", tok, err)
	}
	stranger, _ := SignGrant(author, net0, "", []Subject{{Kind: SubjectColony, Key: mallet.Public()}}, epoch, year)
	for name, s := range map[string]string{
		"empty": "", "word": "hello", "prefix": tokenPrefix, "not base64": tokenPrefix + "!!",
		"long": tokenPrefix + strings.Repeat("A", maxToken), "grant to another colony": Token{Member: m, Grants: []Grant{stranger}}.String(),
	} {
		if _, err := ParseToken(s, net0, epoch); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// The bytes of a record are the protocol: this file may only grow.
func TestVectors(t *testing.T) {
	g, m := certs(t)
	tomb := lease(t, func(o *Offer) { o.TTL, o.Order.Sequence, o.Addrs = 0, 2, nil })
	var b strings.Builder
	for _, v := range []struct {
		name string
		raw  []byte
	}{{"grant", g.Raw}, {"member", m.Raw}, {"lease", lease(t, nil).Raw}, {"tombstone", tomb.Raw}} {
		b.WriteString(v.name + " " + hex.EncodeToString(v.raw) + "\n")
	}
	if *update {
		if err := os.WriteFile("testdata/vectors.txt", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/vectors.txt")
	if err != nil || b.String() != string(want) {
		t.Errorf("records no longer encode as in testdata/vectors.txt (%v)", err)
	}
}

func FuzzOpenLease(f *testing.F) {
	g, m := certs(f)
	f.Add(lease(f, nil).Raw)
	f.Add(g.Raw)
	f.Add(m.Raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := OpenLease(raw, net0, epoch)
		if err == nil && (l.Cell.Author != l.Grant.Signer || len(raw) > MaxLeaseSize) {
			t.Errorf("accepted a lease outside of its rules: %+v", l)
		}
		if err != nil && Reason(err) == "other" {
			t.Errorf("untyped error: %v", err)
		}
		var p memberPayload
		_, _ = Open(raw, net0, DomainMember, &p)
	})
}

func FuzzParseToken(f *testing.F) {
	g, m := certs(f)
	f.Add(Token{Member: m, Grants: []Grant{g}}.String())
	f.Fuzz(func(t *testing.T, s string) { _, _ = ParseToken(s, net0, epoch) })
}

func BenchmarkOpenLease(b *testing.B) {
	raw := lease(b, nil).Raw
	b.ReportAllocs()
	for b.Loop() {
		if _, err := OpenLease(raw, net0, epoch); err != nil {
			b.Fatal(err)
		}
	}
}
