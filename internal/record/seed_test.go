package record

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
)

func seed(t testing.TB, change func(*SeedOffer)) Seed {
	t.Helper()
	o := SeedOffer{Spore: spore(t, nil), Addrs: offer(t).Addrs, Order: Order{5, 1}, Issued: epoch, TTL: time.Minute}
	if change != nil {
		change(&o)
	}
	s, err := SignSeed(node, net0, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSeedRoundTrip(t *testing.T) {
	want := seed(t, nil)
	got, err := OpenSeed(bytes.Clone(want.Raw), net0, epoch.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	s := spore(t, nil)
	if got.Cell != hello || got.Node() != node.Public() || got.Release() != s.Order() || got.Spore != s.Hash() || got.Tree != s.Tree ||
		got.Order != (Order{5, 1}) || got.TTL != time.Minute || len(got.Addrs) != 1 || got.Tombstone() || got.Key() != SeedKey(hello, net0) {
		t.Errorf("came back as %+v", got)
	}
	if SeedKey(hello, net0) == hello.Key(net0) {
		t.Error("seeds and leases lie under one key")
	}
	full := seed(t, func(o *SeedOffer) {
		o.Addrs = nil
		for range MaxAddrs {
			o.Addrs = append(o.Addrs, bytes.Repeat([]byte{1}, MaxAddrSize))
		}
	})
	t.Logf("a full seed has %d of %d bytes, a usual one %d", len(full.Raw), MaxLeaseSize, len(want.Raw))
	tomb := seed(t, func(o *SeedOffer) { o.TTL, o.Addrs = 0, nil })
	if _, err := OpenSeed(tomb.Raw, net0, epoch.Add(MaxLeaseTTL)); err != nil || !tomb.Tombstone() {
		t.Errorf("a tombstone: %v", err)
	}
}

func TestOpenSeedRefuses(t *testing.T) {
	good := seed(t, nil)
	sign := func(change func(*seedPayload), ttl time.Duration) []byte {
		p := seedPayload{Author: hello.Author, Name: "greeter", Seq: 1, Spore: good.Spore[:], Tree: good.Tree[:], Addrs: good.Addrs}
		change(&p)
		raw, err := Sign(node, Header{Domain: DomainSeed, Network: net0, Issued: epoch, TTL: ttl}, p)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	if _, err := OpenSeed(sign(func(*seedPayload) {}, time.Minute), net0, epoch); err != nil {
		t.Fatal("the unchanged seed:", err)
	}
	flipped := bytes.Clone(good.Raw)
	flipped[70] ^= 1
	for name, c := range map[string]struct {
		raw  []byte
		at   time.Time
		want error
	}{
		"empty":           {nil, epoch, ErrMalformed},
		"too long":        {make([]byte, MaxLeaseSize+1), epoch, ErrSize},
		"a lease":         {lease(t, nil).Raw, epoch, ErrDomain},
		"flipped":         {append(bytes.Clone(good.Raw[:3]), append([]byte{good.Raw[3] ^ 1}, good.Raw[4:]...)...), epoch, ErrSignature},
		"expired":         {good.Raw, epoch.Add(time.Minute + MaxSkew + time.Second), ErrStale},
		"from the future": {good.Raw, epoch.Add(-MaxSkew - time.Second), ErrClock},
		"bad name":        {sign(func(p *seedPayload) { p.Name = "A B" }, time.Minute), epoch, ErrMalformed},
		"no author":       {sign(func(p *seedPayload) { p.Author = identity.Key{} }, time.Minute), epoch, ErrMalformed},
		"no release":      {sign(func(p *seedPayload) { p.Seq = 0 }, time.Minute), epoch, ErrMalformed},
		"short hash":      {sign(func(p *seedPayload) { p.Spore = p.Spore[:31] }, time.Minute), epoch, ErrMalformed},
		"long tree":       {sign(func(p *seedPayload) { p.Tree = append(bytes.Clone(p.Tree), 0) }, time.Minute), epoch, ErrMalformed},
		"nine addresses":  {sign(func(p *seedPayload) { p.Addrs = make9() }, time.Minute), epoch, ErrMalformed},
		"ttl too long":    {sign(func(*seedPayload) {}, 3*time.Hour), epoch, ErrMalformed},
	} {
		if _, err := OpenSeed(c.raw, net0, c.at); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := OpenSeed(flipped, net0, epoch); err == nil {
		t.Error("flipped body: accepted")
	}
}

func TestSeedVector(t *testing.T) {
	got := "seed " + hex.EncodeToString(seed(t, nil).Raw) + "\ntombstone " + hex.EncodeToString(seed(t, func(o *SeedOffer) { o.TTL, o.Addrs = 0, nil }).Raw) + "\n"
	if *update {
		if err := os.WriteFile("testdata/seed.txt", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/seed.txt")
	if err != nil || string(want) != got {
		t.Errorf("a seed no longer encodes as in testdata/seed.txt (%v)", err)
	}
}

func FuzzOpenSeed(f *testing.F) {
	f.Add(seed(f, nil).Raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := OpenSeed(raw, net0, epoch)
		if err != nil && Reason(err) == "other" {
			t.Errorf("untyped error: %v", err)
		}
		if err == nil && (len(raw) > MaxLeaseSize || strings.ContainsAny(string(s.Cell.Name), " /")) {
			t.Errorf("accepted a seed outside of its rules: %+v", s)
		}
	})
}
