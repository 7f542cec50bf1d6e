package node

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// CertTTL is how long a certificate that a machine issues to itself holds. It
// is renewed when a third is left.
const CertTTL = 365 * 24 * time.Hour

// The roles of key files, for [home.Home.Key].
const (
	RoleAuthor = "author" // signs grants, later spores
	RoleColony = "colony" // certifies the operator's machines
	RoleNode   = "node"   // signs leases, is the address of the node
)

// KeyRing is the keys that a machine holds. Author and Colony are zero where the secret is elsewhere.
type KeyRing struct {
	Node           identity.Private
	Author, Colony identity.Private
}

// LoadKeys reads the keys that are there. A missing node key is an error that
// wraps [fs.ErrNotExist]; a file that others may read one that wraps
// [identity.ErrKeyMode].
func LoadKeys(h home.Home) (KeyRing, error) {
	var r KeyRing
	for role, into := range r.roles() {
		k, err := identity.LoadPrivate(h.Key(role))
		if errors.Is(err, fs.ErrNotExist) && role != RoleNode {
			continue
		}
		if err != nil {
			return KeyRing{}, err
		}
		*into = k
	}
	return r, nil
}

// CreateKeys reads the keys of all three roles and makes those that are
// missing; it returns the roles of the new ones. Where the machine has been
// admitted to a colony whose secret is elsewhere, author and colony stay so.
func CreateKeys(h home.Home, network identity.Network) (KeyRing, []string, error) {
	if err := h.Make(); err != nil {
		return KeyRing{}, nil, err
	}
	_, err := os.Stat(certPath(h, network, memberFile))
	admitted := err == nil
	var r KeyRing
	var created []string
	for _, role := range []string{RoleAuthor, RoleColony, RoleNode} {
		path := h.Key(role)
		if _, err := os.Lstat(path); admitted && role != RoleNode && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		k, fresh, err := identity.LoadOrCreate(path)
		if err != nil {
			return KeyRing{}, created, err
		}
		if fresh {
			created = append(created, role)
		}
		*r.roles()[role] = k
	}
	return r, created, nil
}

func (r *KeyRing) roles() map[string]*identity.Private {
	return map[string]*identity.Private{RoleAuthor: &r.Author, RoleColony: &r.Colony, RoleNode: &r.Node}
}

// Certs are the certificates of one network that this machine keeps:
// <config>/certs/<network>/member.rec and grant-<author>[-<name>].rec, raw records.
type Certs struct {
	Member  *record.Member // nil: the node is in no colony
	Grants  []record.Grant
	Refused []error // files that do not hold any more, and why
}

const (
	memberFile  = "member.rec"
	grantPrefix = "grant-"
	maxGrants   = 1024
)

func certPath(h home.Home, n identity.Network, file string) string {
	return filepath.Join(h.Config, "certs", string(n), file)
}

// LoadCerts reads and verifies the certificates of a network at now. One that
// is broken or expired is left out and told in Refused; a folder that cannot be
// read is an error.
func LoadCerts(h home.Home, n identity.Network, now time.Time) (Certs, error) {
	var c Certs
	dir := certPath(h, n, "")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("read certificates: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		isGrant := strings.HasPrefix(name, grantPrefix) && filepath.Ext(name) == ".rec"
		if name != memberFile && !isGrant || isGrant && len(c.Grants) >= maxGrants {
			continue
		}
		raw, err := readRecord(filepath.Join(dir, name))
		if err == nil && isGrant {
			var g record.Grant
			if g, err = record.OpenGrant(raw, n.ID(), now); err == nil {
				c.Grants = append(c.Grants, g)
			}
		} else if err == nil {
			var m record.Member
			if m, err = record.OpenMember(raw, n.ID(), now); err == nil {
				c.Member = &m
			}
		}
		if err != nil {
			c.Refused = append(c.Refused, fmt.Errorf("read certificate %s: %w", filepath.Join(dir, name), err))
		}
	}
	return c, nil
}

func readRecord(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, record.MaxSize+1)) // Open refuses what is longer
}

// ErrNoGrant says that no certificate lets this node serve a cell.
var ErrNoGrant = errors.New("no grant")

// For returns the raw grant, and the membership where the grant needs it, that
// let node serve cell. A grant for this cell alone goes before one for all
// cells of its author. Errors wrap [ErrNoGrant].
func (c Certs) For(cell identity.Cell, node identity.Key) (grant, member []byte, err error) {
	best := -1
	for i, g := range c.Grants {
		if time.Now().Before(g.Issued.Add(g.TTL)) && g.Allows(cell, node, c.Member) && (best < 0 || cmp.Compare(len(g.Name), len(c.Grants[best].Name)) > 0) {
			best = i
		}
	}
	if best < 0 {
		return nil, nil, fmt.Errorf("%w: no certificate lets this node serve %s", ErrNoGrant, cell.Short())
	}
	g := c.Grants[best]
	if !g.Allows(cell, node, nil) {
		member = c.Member.Raw
	}
	return g.Raw, member, nil
}

// SaveCerts writes certificates beside those that are there; of the same kind
// and subject the new one replaces the old.
func SaveCerts(h home.Home, n identity.Network, member *record.Member, grants ...record.Grant) error {
	if err := os.MkdirAll(certPath(h, n, ""), 0o700); err != nil {
		return fmt.Errorf("save certificates: %w", err)
	}
	for _, g := range grants {
		file := grantPrefix + g.Signer.String()
		if g.Name != "" {
			file += "-" + string(g.Name)
		}
		if err := replaceFile(certPath(h, n, file+".rec"), g.Raw); err != nil {
			return fmt.Errorf("save grant: %w", err)
		}
	}
	if member != nil {
		if err := replaceFile(certPath(h, n, memberFile), member.Raw); err != nil {
			return fmt.Errorf("save membership: %w", err)
		}
	}
	return nil
}

// IssueOwn makes the certificates that this machine can make for itself in a
// network: the author's grant to the colony, and the colony's certificate of
// the node. One that holds for another third of [CertTTL] stays. A membership
// of a foreign colony stays too; the author's grant then names this node
// as well, so that his own cells still run here. It returns what it issued, in words.
func IssueOwn(h home.Home, n identity.Network, keys KeyRing, now time.Time) ([]string, error) {
	have, err := LoadCerts(h, n, now)
	if err != nil {
		return nil, err
	}
	node, colony, author := keys.Node.Public(), keys.Colony.Public(), keys.Author.Public()
	fresh := func(h record.Header) bool { return h.Issued.Add(h.TTL).Sub(now) > CertTTL/3 }
	foreign := have.Member != nil && have.Member.Signer != colony && have.Member.Node == node
	var issued []string

	if !colony.IsZero() && !foreign && (have.Member == nil || have.Member.Node != node || !fresh(have.Member.Header)) {
		m, err := record.SignMember(keys.Colony, n.ID(), node, now, CertTTL)
		if err != nil {
			return nil, fmt.Errorf("issue membership: %w", err)
		}
		if err := SaveCerts(h, n, &m); err != nil {
			return nil, err
		}
		issued = append(issued, "membership of "+node.Short()+" in colony "+colony.Short())
	}
	if author.IsZero() || colony.IsZero() {
		return issued, nil
	}
	subjects := []record.Subject{{Kind: record.SubjectColony, Key: colony}}
	if foreign {
		subjects = append(subjects, record.Subject{Kind: record.SubjectNode, Key: node})
	}
	i := slices.IndexFunc(have.Grants, func(g record.Grant) bool {
		return g.Signer == author && g.Name == "" && slices.Equal(g.Subjects, subjects)
	})
	var g record.Grant
	switch {
	case i >= 0 && fresh(have.Grants[i].Header):
		return issued, nil
	case i >= 0: // the same for longer: machines that hold the old one keep their place
		g, err = have.Grants[i].Renew(keys.Author, now, CertTTL)
	default:
		g, err = record.SignGrant(keys.Author, n.ID(), "", subjects, now, CertTTL)
	}
	if err != nil {
		return nil, fmt.Errorf("issue grant: %w", err)
	}
	if err := SaveCerts(h, n, nil, g); err != nil {
		return nil, err
	}
	return append(issued, "grant of author "+author.Short()+" to colony "+colony.Short()), nil
}
