package mycelium

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// MaxGrants is how many grants travel with a release.
const MaxGrants = 4

var (
	// ErrNone says that there is no such release here.
	ErrNone = errors.New("no such release")
	// ErrDamaged says that a release's files on disk are no longer what its
	// author signed. The release has been thrown away: fetch it again.
	ErrDamaged = errors.New("release damaged on disk")
)

// Release is a release on this machine.
type Release struct {
	Spore  record.Spore
	Grants []record.Grant // the author's, valid when they came
	Dir    string         // the files; read-only, and shared by releases with the same tree
	Source string         // where it came from: "cache", "seed z6Mk…", a mirror's URL, "folder" or "author"
	Bytes  int64          // of the pack
}

// parcel is a record with what travels beside it.
type parcel struct {
	_      struct{} `cbor:",toarray"`
	Spore  []byte
	Grants [][]byte
}

// open checks a parcel. Grants that do not hold, or are not the author's, are
// left out.
func (p parcel) open(n identity.NetworkID, now time.Time) (Release, error) {
	s, err := record.ParseSpore(p.Spore)
	if err != nil {
		return Release{}, err
	}
	r := Release{Spore: s}
	for _, raw := range p.Grants {
		if g, err := record.OpenGrant(raw, n, now); err == nil && g.Signer == s.Cell.Author && len(r.Grants) < MaxGrants {
			r.Grants = append(r.Grants, g)
		}
	}
	return r, nil
}

func (r Release) parcel() parcel {
	p := parcel{Spore: r.Spore.Raw}
	for _, g := range r.Grants {
		p.Grants = append(p.Grants, g.Raw)
	}
	return p
}

// shelf is what is known of one cell.
type shelf struct {
	head     record.Spore // the highest ever installed
	releases []Release    // installed, the highest first
}

// admit checks a record against what was seen before. Only a release that was
// asked for by its name may be older than the highest, unless the author has
// withdrawn it.
func (b *shelf) admit(s record.Spore, want string) error {
	if b == nil || b.head.Seq == 0 {
		return nil
	}
	switch c := s.Order().Compare(b.head.Order()); {
	case c >= 0 && contradict(b.head, s):
		return &Fork{b.head, s}
	case c >= 0:
		return nil
	case want == "":
		return fmt.Errorf("%w: release %d, %d has been seen", record.ErrOrder, s.Seq, b.head.Seq)
	case s.Epoch < b.head.Epoch || s.Seq < b.head.MinSeq:
		return fmt.Errorf("%w: the author has withdrawn release %d", record.ErrOrder, s.Seq)
	}
	for _, r := range b.releases {
		if r.Spore.Order() == s.Order() && r.Spore.Hash() != s.Hash() {
			return &Fork{r.Spore, s}
		}
	}
	return nil
}

func (s *Store) admit(p record.Spore, want string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cells[p.Cell].admit(p, want)
}

// load reads what is installed.
func (s *Store) load() error {
	heads, err := filepath.Glob(filepath.Join(s.conf.Dir, "cells", "*", "*", "head"))
	if err != nil {
		return err
	}
	installed, err := filepath.Glob(filepath.Join(s.conf.Dir, "cells", "*", "*", "releases", "*.*"))
	if err != nil {
		return err
	}
	for _, f := range append(heads, installed...) {
		if strings.HasPrefix(filepath.Base(f), ".") { // half-written by a killed node
			_ = os.Remove(f)
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		var p parcel
		var r Release
		if err = decoding.Unmarshal(b, &p); err == nil {
			r, err = p.open(s.conf.Network.ID(), time.Now())
		}
		if err == nil && !strings.HasPrefix(f, s.cellDir(r.Spore.Cell)+string(filepath.Separator)) {
			err = record.ErrCell
		}
		switch {
		case err == nil:
		case filepath.Base(f) == "head": // without it an old release could pass for the newest
			return fmt.Errorf("read %s, which says what has been seen of a cell: %w", f, err)
		default:
			if err := os.Remove(f); err != nil { // to be fetched again
				return err
			}
			continue
		}
		shelf := s.shelfLocked(r.Spore.Cell)
		if r.Spore.Order().Compare(shelf.head.Order()) > 0 {
			shelf.head = r.Spore
		}
		if filepath.Base(f) != "head" {
			s.shelveLocked(r)
		}
	}
	return nil
}

func (s *Store) shelfLocked(c identity.Cell) *shelf {
	b := s.cells[c]
	if b == nil {
		b = &shelf{}
		s.cells[c] = b
	}
	return b
}

// shelveLocked adds an installed release to those in memory.
func (s *Store) shelveLocked(r Release) {
	r.Dir, r.Source = s.treeDir(r.Spore.Tree), "cache"
	if st, err := os.Stat(s.packFile(r.Spore)); err == nil {
		r.Bytes = st.Size()
	}
	b := s.shelfLocked(r.Spore.Cell)
	b.releases = slices.DeleteFunc(b.releases, func(o Release) bool { return o.Spore.Order() == r.Spore.Order() })
	b.releases = append(b.releases, r)
	slices.SortFunc(b.releases, func(x, y Release) int { return y.Spore.Order().Compare(x.Spore.Order()) })
}

// Releases lists what is installed, by cell, the highest release first.
func (s *Store) Releases() []Release {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Release
	for _, b := range s.cells {
		all = append(all, b.releases...)
	}
	slices.SortStableFunc(all, func(a, b Release) int {
		return cmp.Or(strings.Compare(a.Spore.Cell.String(), b.Spore.Cell.String()), b.Spore.Order().Compare(a.Spore.Order()))
	})
	return all
}

// Head returns the record of the highest release of a cell that was ever
// installed here.
func (s *Store) Head(c identity.Cell) (record.Spore, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.cells[c]
	if b == nil {
		return record.Spore{}, false
	}
	return b.head, b.head.Seq > 0
}

// seen returns the highest record of a cell that was ever installed, or that of
// the highest installed release that is called version.
func (s *Store) seen(c identity.Cell, version string) (record.Spore, bool) {
	if version == "" {
		return s.Head(c)
	}
	r, ok := s.find(c, version, nil)
	return r.Spore, ok
}

// find returns an installed release: that with the given hash, or else the
// highest, or the highest that is called version.
func (s *Store) find(c identity.Cell, version string, hash []byte) (Release, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.cells[c]; b != nil {
		for _, r := range b.releases {
			h := r.Spore.Hash()
			if version != "" && version != r.Spore.Version || len(hash) > 0 && string(hash) != string(h[:]) {
				continue
			}
			return r, true
		}
	}
	return Release{}, false
}

// Open returns an installed release of a cell: the highest, or the highest that
// is called version. It reads all files and checks that they are what the
// author signed, whoever has been at the disk since; if not, they are made again
// from the pack, and where that is damaged too the error is an [ErrDamaged]. An
// expired release is opened all the same: see Spore.Check.
func (s *Store) Open(c identity.Cell, version string) (Release, error) {
	r, ok := s.find(c, version, nil)
	if !ok {
		return Release{}, fmt.Errorf("open %s: %w", c.Short(), ErrNone)
	}
	if tree, err := hashDir(r.Dir, s.conf.Limits.Files); err == nil && tree == r.Spore.Tree {
		return r, nil
	}
	err := s.repair(r)
	if err == nil {
		return r, nil
	}
	if e := s.discard(r); e != nil {
		err = errors.Join(err, e)
	}
	return Release{}, fmt.Errorf("open %s: %w: %w", c.Short(), ErrDamaged, err)
}

// repair makes a release's tree again from its pack.
func (s *Store) repair(r Release) error {
	in, err := os.Open(s.packFile(r.Spore))
	if err != nil {
		return err
	}
	defer in.Close()
	dir, remove, err := s.quarantine()
	if err != nil {
		return err
	}
	defer remove()
	if err := receive(in, r.Spore, s.conf.Limits, dir); err != nil {
		return err
	}
	s.installing.Lock()
	defer s.installing.Unlock()
	return s.placeTree(r, filepath.Join(dir, partTree))
}

// discard removes a release whose files are damaged, with all others that share
// them. The head stays: what has been seen, has been seen.
func (s *Store) discard(damaged Release) error {
	s.installing.Lock()
	defer s.installing.Unlock()
	s.mu.Lock()
	var gone []Release
	for _, b := range s.cells {
		b.releases = slices.DeleteFunc(b.releases, func(r Release) bool {
			if r.Spore.Tree != damaged.Spore.Tree {
				return false
			}
			gone = append(gone, r)
			return true
		})
	}
	s.mu.Unlock()
	for _, r := range gone {
		if err := os.Remove(s.releaseFile(r.Spore)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return s.removeTree(damaged.Dir)
}

// removeTree takes a tree out of its place in one step.
func (s *Store) removeTree(dir string) error {
	trash, remove, err := s.quarantine()
	if err != nil {
		return err
	}
	defer remove()
	if err := os.Rename(dir, filepath.Join(trash, partTree)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s *Store) releaseFile(p record.Spore) string {
	return filepath.Join(s.cellDir(p.Cell), "releases", fmt.Sprintf("%d.%d", p.Epoch, p.Seq))
}
