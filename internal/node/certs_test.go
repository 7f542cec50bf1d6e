package node

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

var someDay = time.Date(2026, time.August, 22, 12, 0, 0, 0, time.UTC)

func ring(seed byte) KeyRing {
	key := func(role byte) identity.Private {
		return identity.PrivateFromSeed([32]byte{seed, role})
	}
	return KeyRing{Node: key(1), Author: key(2), Colony: key(3)}
}

func TestCreateKeys(t *testing.T) {
	h := tempHome(t)
	if _, err := LoadKeys(h); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no keys: got %v, want ErrNotExist", err)
	}
	first, created, err := CreateKeys(h, "lab")
	if err != nil || len(created) != 3 {
		t.Fatalf("created %v, %v; want three keys", created, err)
	}
	again, created, err := CreateKeys(h, "lab")
	if err != nil || len(created) != 0 {
		t.Fatalf("again: created %v, %v; want none", created, err)
	}
	loaded, err := LoadKeys(h)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []KeyRing{again, loaded} {
		if r.Node.Public() != first.Node.Public() || r.Author.Public() != first.Author.Public() || r.Colony.Public() != first.Colony.Public() {
			t.Error("the keys changed")
		}
	}
	if err := os.Chmod(h.Key(RoleColony), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKeys(h); !errors.Is(err, identity.ErrKeyMode) {
		t.Errorf("readable by others: got %v, want ErrKeyMode", err)
	}
	if _, _, err := CreateKeys(h, "lab"); !errors.Is(err, identity.ErrKeyMode) {
		t.Errorf("readable by others: got %v, want ErrKeyMode", err)
	}
}

func TestIssueOwn(t *testing.T) {
	h, keys := tempHome(t), ring(1)
	const lab = identity.Network("lab")
	cell := identity.Cell{Author: keys.Author.Public(), Name: "greeter"}
	issue := func(at time.Time, want int) {
		t.Helper()
		got, err := IssueOwn(h, lab, keys, at)
		if err != nil || len(got) != want {
			t.Fatalf("issued %q, %v; want %d", got, err, want)
		}
	}
	issue(someDay, 2)
	issue(someDay.Add(time.Hour), 0)
	issue(someDay.Add(CertTTL/3*2-time.Hour), 0)
	issue(someDay.Add(CertTTL/3*2+time.Hour), 2) // a third is left

	c, err := LoadCerts(h, lab, someDay.Add(CertTTL))
	if err != nil || len(c.Refused) != 0 {
		t.Fatal(err, c.Refused)
	}
	grant, member, err := c.For(cell, keys.Node.Public())
	if err != nil || len(grant) == 0 || len(member) == 0 {
		t.Fatalf("for own cell: %v", err)
	}
	if _, err := record.SignLease(keys.Node, lab.ID(), record.Offer{
		Cell: cell, State: record.StateAlive, Grant: grant, Member: member, Issued: someDay.Add(CertTTL), TTL: time.Minute,
	}); err != nil {
		t.Errorf("a lease under them is refused: %v", err)
	}
	stranger := identity.Cell{Author: ring(2).Author.Public(), Name: "greeter"}
	if _, _, err := c.For(stranger, keys.Node.Public()); !errors.Is(err, ErrNoGrant) {
		t.Errorf("for a stranger's cell: got %v, want ErrNoGrant", err)
	}

	// Another network shares nothing, and what expired is told.
	if c, err := LoadCerts(h, "other", someDay); err != nil || c.Member != nil || len(c.Grants) != 0 {
		t.Errorf("other network: %+v, %v", c, err)
	}
	if c, err := LoadCerts(h, lab, someDay.Add(3*CertTTL)); err != nil || c.Member != nil || len(c.Refused) != 2 {
		t.Errorf("expired: %+v, %v", c, err)
	}
}

func TestAdmitted(t *testing.T) {
	operator, machine := ring(1), ring(2)
	const lab = identity.Network("lab")
	there := tempHome(t)
	if _, err := IssueOwn(there, lab, machine, someDay); err != nil {
		t.Fatal(err)
	}
	member, err := record.SignMember(operator.Colony, lab.ID(), machine.Node.Public(), someDay, CertTTL)
	if err != nil {
		t.Fatal(err)
	}
	colony := []record.Subject{{Kind: record.SubjectColony, Key: operator.Colony.Public()}}
	all, err := record.SignGrant(operator.Author, lab.ID(), "", colony, someDay, CertTTL)
	if err != nil {
		t.Fatal(err)
	}
	one, err := record.SignGrant(operator.Author, lab.ID(), "ledger", colony, someDay, CertTTL)
	if err != nil {
		t.Fatal(err)
	}
	if err := SaveCerts(there, lab, &member, all, one); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to do
		if _, err := IssueOwn(there, lab, machine, someDay.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := LoadCerts(there, lab, someDay)
	if err != nil || c.Member == nil || c.Member.Signer != operator.Colony.Public() {
		t.Fatalf("the foreign membership was not kept: %+v, %v", c.Member, err)
	}
	node := machine.Node.Public()
	grant, m, err := c.For(identity.Cell{Author: operator.Author.Public(), Name: "greeter"}, node)
	if err != nil || !slices.Equal(grant, all.Raw) || !slices.Equal(m, member.Raw) {
		t.Errorf("the operator's cell: %v", err)
	}
	if grant, _, err = c.For(identity.Cell{Author: operator.Author.Public(), Name: "ledger"}, node); err != nil || !slices.Equal(grant, one.Raw) {
		t.Errorf("a grant for one cell does not go first: %v", err)
	}
	if _, m, err = c.For(identity.Cell{Author: machine.Author.Public(), Name: "mine"}, node); err != nil || m != nil {
		t.Errorf("the machine's own cell: member %x, %v", m, err)
	}

	// With the node key alone the machine makes no keys of its own in this network.
	for _, role := range []string{RoleAuthor, RoleColony} {
		if err := os.RemoveAll(there.Key(role)); err != nil {
			t.Fatal(err)
		}
	}
	if _, created, err := CreateKeys(there, lab); err != nil || !slices.Equal(created, []string{RoleNode}) {
		t.Errorf("created %v, %v; want the node key only", created, err)
	}
}

func TestLoadCertsDamaged(t *testing.T) {
	h := tempHome(t)
	if _, err := IssueOwn(h, "lab", ring(1), someDay); err != nil {
		t.Fatal(err)
	}
	path := certPath(h, "lab", memberFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(certPath(h, "lab", "grant-x.rec"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadCerts(h, "lab", someDay)
	if err != nil || c.Member != nil || len(c.Refused) != 2 || len(c.Grants) != 1 {
		t.Errorf("got %+v, %v", c, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}
