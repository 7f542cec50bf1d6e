package record

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"cell.network/cell/internal/identity"
)

// Limits on spores.
const (
	MaxSpore         = 4 << 10 // bytes
	DefaultSporeLife = 30 * 24 * time.Hour
	MaxSporeLife     = 400 * 24 * time.Hour
	MaxColonies      = 8
	MaxArtefacts     = 8
)

// ErrCell says that a spore is of another cell than the one asked for. It
// counts as [ErrDomain] in [Reason].
var ErrCell = fmt.Errorf("%w: release of another cell", ErrDomain)

// Spore is an author's statement that a tree of files is a release of his cell.
// It is the one record that is not CBOR: its bytes are an annotated git tag
// with an SSH signature, which plain git verifies too, so that the same bytes
// stand in a git repository and travel between nodes. It is not bound to a
// network. ASCII, LF, these lines in this order and nothing else:
//
//	object <commit, 40 hex>
//	type commit
//	tag cell/<name>/<seq>
//	tagger cell <z6Mk…@cell> <issued, Unix seconds> +0000
//
//	cell-record 1
//	cell <name>@<z6Mk…>
//	epoch <n>
//	seq <n>
//	version <text>
//	prev sha256:<64 hex>             or: prev none
//	tree sha256:<64 hex>
//	size <bytes> <files>
//	serve colony <z6Mk…>[,<z6Mk…>]   or: serve open
//	issued <2006-01-02T15:04:05Z>
//	expires <2006-01-02T15:04:05Z>
//	min-seq <n>
//	artefact <os/arch> sha256:<64 hex> <bytes>     0 to 8 times, sorted
//	-----BEGIN SSH SIGNATURE-----    SSHSIG: ssh-ed25519, namespace git, sha512
//	…base64, 70 characters a line…
//	-----END SSH SIGNATURE-----
type Spore struct {
	Cell      identity.Cell
	Epoch     uint64
	Seq       uint64            // from 1; orders releases within an epoch
	Version   string            // what people call the release
	Prev      [sha256.Size]byte // Hash of the release before, or zero
	Tree      [sha256.Size]byte // of the content, see package mycelium
	Commit    string            // git commit, 40 hex digits
	Size      int64             // bytes of all files together
	Files     int               // at least 1
	Serve     Serve
	Issued    time.Time // whole seconds
	Expires   time.Time // whole seconds, at most MaxSporeLife after Issued
	MinSeq    uint64    // releases of this epoch below it must not be used any more
	Artefacts []Artefact
	Raw       []byte // as received; do not modify
}

// Serve is an author's default of who may serve his cell.
type Serve struct {
	Open     bool           // everybody
	Colonies []identity.Key // the machines of these colonies; 1 to MaxColonies unless Open
}

// Artefact is a built program of a release.
type Artefact struct {
	Platform string // as in linux/amd64
	Sum      [sha256.Size]byte
	Size     int64 // bytes
}

// SignSpore signs what s says, with the author's key, and checks it as a
// stranger would. s.Raw is ignored; times are cut to seconds.
func SignSpore(author identity.Private, s Spore) (Spore, error) {
	if author.IsZero() || author.Public() != s.Cell.Author {
		return Spore{}, fmt.Errorf("sign release: the key is not that of %s", s.Cell.Author.Short())
	}
	s.Issued, s.Expires = s.Issued.UTC().Truncate(time.Second), s.Expires.UTC().Truncate(time.Second)
	text := s.text()
	return OpenSpore(append(text, armour(author.Public(), author.Sign(sshSigned(text)))...), s.Cell, s.Issued)
}

// OpenSpore is [ParseSpore] for a release of cell that holds at now.
func OpenSpore(raw []byte, cell identity.Cell, now time.Time) (Spore, error) {
	s, err := ParseSpore(raw)
	if err != nil {
		return Spore{}, err
	}
	if s.Cell != cell {
		return Spore{}, fmt.Errorf("%w: %s, want %s", ErrCell, s.Cell.Short(), cell.Short())
	}
	if err := s.Check(now); err != nil {
		return Spore{}, err
	}
	return s, nil
}

// ParseSpore checks a spore's size, form and signature by the author that it
// names. It judges neither whose it is nor its age nor its order.
func ParseSpore(raw []byte) (Spore, error) {
	if len(raw) > MaxSpore {
		return Spore{}, fmt.Errorf("%w: release of %d bytes, %d are allowed", ErrSize, len(raw), MaxSpore)
	}
	s, text, err := parseSpore(raw)
	if err != nil {
		return Spore{}, fmt.Errorf("%w: release: %v", ErrMalformed, err)
	}
	sig, err := unarmour(s.Cell.Author, raw[len(text):])
	if err != nil {
		return Spore{}, fmt.Errorf("release: %w", err)
	}
	if !s.Cell.Author.Verify(sshSigned(text), sig) {
		return Spore{}, fmt.Errorf("release: %w", ErrSignature)
	}
	s.Raw = raw
	return s, nil
}

// Check fails with [ErrStale] once the release has expired, and with [ErrClock]
// where it comes from the future, give or take [MaxSkew].
func (s Spore) Check(now time.Time) error {
	h := Header{Issued: s.Issued, TTL: s.Expires.Sub(s.Issued)}
	if err := h.window(now); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	return nil
}

// Order ranks the releases of one cell: by epoch, then by sequence.
func (s Spore) Order() Order { return Order{Incarnation: s.Epoch, Sequence: s.Seq} }

// Hash is the SHA-256 sum of the record's bytes.
func (s Spore) Hash() [sha256.Size]byte { return sha256.Sum256(s.Raw) }

// Ref is the name of the tag in a git repository, as in refs/tags/cell/greeter/3.
func (s Spore) Ref() string { return "refs/tags/" + s.tag() }

// AllowedSigners is the line of the file gpg.ssh.allowedSignersFile with which
// git verify-tag accepts an author's releases.
func AllowedSigners(author identity.Key) string {
	return sshPrincipal(author) + ` namespaces="git" ` + sshPublic(author)
}

// checkForm checks what the form of each line does not say.
func (s Spore) checkForm() error {
	life := s.Expires.Sub(s.Issued)
	switch {
	case s.Seq == 0 || s.MinSeq > s.Seq:
		return fmt.Errorf("sequence %d with min-seq %d", s.Seq, s.MinSeq)
	case s.Files < 1 || s.Size < 0:
		return fmt.Errorf("size %d %d", s.Size, s.Files)
	case s.Issued.Unix() <= 0 || s.Expires.Year() > 9999 || life <= 0 || life > MaxSporeLife:
		return fmt.Errorf("it holds for %v", life)
	case s.Serve.Open != (len(s.Serve.Colonies) == 0) || len(s.Serve.Colonies) > MaxColonies:
		return fmt.Errorf("%d colonies may serve", len(s.Serve.Colonies))
	case len(s.Artefacts) > MaxArtefacts:
		return fmt.Errorf("%d artefacts", len(s.Artefacts))
	}
	if len(s.Commit) != 40 || strings.Trim(s.Commit, "0123456789abcdef") != "" {
		return errors.New("the commit is not 40 hex digits")
	}
	if _, err := identity.ParseName(string(s.Cell.Name)); err != nil {
		return err
	}
	if r, err := identity.ParseRef("cell:" + s.Version); err != nil || r.Version == "" {
		return fmt.Errorf("bad version %q", s.Version)
	}
	for i, a := range s.Artefacts {
		if i > 0 && s.Artefacts[i-1].Platform >= a.Platform || a.Size < 0 || !isPlatform(a.Platform) {
			return fmt.Errorf("artefact %q of %d bytes", a.Platform, a.Size)
		}
	}
	return nil
}
