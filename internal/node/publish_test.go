package node

import (
	"testing"
	"time"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// A grant that comes along with a release must not bring back what its author
// has replaced.
func TestKeepGrantsNeverGoesBack(t *testing.T) {
	h, err := home.At(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{cfg: Config{Home: h}, net: "lab"}
	author := identity.NewPrivate()
	sign := func(issued time.Time, s ...record.Subject) record.Grant {
		g, err := record.SignGrant(author, n.net.ID(), "", s, issued, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	older := sign(time.Now().Add(-time.Minute), record.Subject{Kind: record.SubjectAny})
	newer := sign(time.Now())
	for _, g := range []record.Grant{older, newer, older} {
		if err := n.keepGrants(g); err != nil {
			t.Fatal(err)
		}
	}
	if got := n.certs.Grants; len(got) != 1 || got[0].Order != newer.Order {
		t.Errorf("in force: %+v, want the newer grant alone", got)
	}
	disk, err := LoadCerts(h, n.net, time.Now())
	if err != nil || len(disk.Grants) != 1 || disk.Grants[0].Order != newer.Order {
		t.Errorf("on disk: %+v, %v", disk.Grants, err)
	}
}
