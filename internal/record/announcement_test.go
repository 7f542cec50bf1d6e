package record

import (
	"errors"
	"testing"
)

// LAN and DHT carry leases and seeds through one door.
func TestOpenAnnouncement(t *testing.T) {
	l, s := lease(t, nil), seed(t, nil)
	got, err := OpenAnnouncement(l.Raw, net0, epoch)
	if err != nil || got.Cell != hello || got.Seed != nil {
		t.Errorf("lease: %+v, %v", got, err)
	}
	got, err = OpenAnnouncement(s.Raw, net0, epoch)
	if err != nil || got.Cell != hello.Seeds() || got.Seed == nil || got.Seed.Spore != s.Spore || got.Node() != node.Public() {
		t.Errorf("seed: %+v, %v", got, err)
	}
	g, _ := certs(t)
	if _, err := OpenAnnouncement(g.Raw, net0, epoch); !errors.Is(err, ErrDomain) {
		t.Errorf("a grant as an announcement: %v, want ErrDomain", err)
	}
	forged := append([]byte(nil), s.Raw...)
	forged[0] ^= 1
	if _, err := OpenAnnouncement(forged, net0, epoch); !errors.Is(err, ErrSignature) {
		t.Errorf("forged seed: %v, want ErrSignature", err)
	}
}

// A seed says nothing about who may serve, so it must not move a grant's floor.
func TestFloorOfSeeds(t *testing.T) {
	var f Floor
	if fresh, err := f.Admit(seed(t, nil).Lease()); !fresh || err != nil {
		t.Fatal(fresh, err)
	}
	if _, err := f.Admit(seed(t, func(o *SeedOffer) { o.Order = Order{4, 9} }).Lease()); !errors.Is(err, ErrOrder) {
		t.Errorf("an older seed: %v, want ErrOrder", err)
	}
	if _, err := f.Admit(lease(t, nil)); err != nil {
		t.Errorf("a lease after a seed: %v", err)
	}
	if s := seed(t, nil).Lease(); !f.Stands(s) {
		t.Error("a grant for leases puts a seed out of force")
	}
}
