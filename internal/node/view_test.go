package node

import (
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/mesh"
)

func TestBrief(t *testing.T) {
	for d, want := range map[time.Duration]string{
		300: "1µs", 71_234: "71µs", 412_345: "412µs", 1_234_567: "1.23ms", 98_765_432: "98.8ms", 12_345_678_901: "12.3s",
	} {
		if got := brief(d); got != want {
			t.Errorf("%d ns: %s, want %s", d, got, want)
		}
	}
}

// That no node had to be asked is something else than that the DHT was not searched.
func TestFoundHops(t *testing.T) {
	cell := identity.Cell{Name: "greeter"}
	if f := found(cell, mesh.Endpoint{Tier: mesh.TierDHT, Holder: identity.NewPrivate().Public()}); f.Hops == nil || *f.Hops != 0 {
		t.Errorf("held by this node: hops %v", f.Hops)
	}
	if f := found(cell, mesh.Endpoint{Tier: mesh.TierLAN}); f.Hops != nil {
		t.Errorf("heard on the LAN: %d hops", *f.Hops)
	}
}
