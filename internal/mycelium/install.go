package mycelium

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cell.network/cell/internal/record"
)

// install moves a verified release from quarantine to its place. Its file under
// releases is written last of all but the head, so that a release that is there
// is whole, and the head only rises.
func (s *Store) install(r Release, dir, want string) (Release, error) {
	s.installing.Lock()
	defer s.installing.Unlock()
	s.mu.Lock()
	b := s.cells[r.Spore.Cell]
	err := b.admit(r.Spore, want) // it may have risen since
	first := b == nil || r.Spore.Order().Compare(b.head.Order()) > 0
	s.mu.Unlock()
	if err == nil {
		err = s.place(r, dir, first)
	}
	if err != nil {
		return Release{}, fmt.Errorf("install %s: %w", r.Spore.Cell.Short(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shelveLocked(r)
	if first {
		s.shelfLocked(r.Spore.Cell).head = r.Spore
	}
	source := r.Source
	i := slices.IndexFunc(s.cells[r.Spore.Cell].releases, func(o Release) bool { return o.Spore.Order() == r.Spore.Order() })
	r = s.cells[r.Spore.Cell].releases[i]
	r.Source = source
	return r, nil
}

// regrant adds grants that came later to an installed release. A newer one
// replaces an older one for the same.
func (s *Store) regrant(r Release, grants []record.Grant) (Release, error) {
	s.installing.Lock()
	defer s.installing.Unlock()
	hash := r.Spore.Hash()
	r, ok := s.find(r.Spore.Cell, "", hash[:])
	if !ok {
		return Release{}, fmt.Errorf("keep grants: %w", ErrNone)
	}
	all, better := slices.Clone(r.Grants), false
	for _, g := range grants {
		i := slices.IndexFunc(all, func(h record.Grant) bool { return h.Name == g.Name })
		switch {
		case i >= 0 && g.Order.Compare(all[i].Order) > 0:
			all[i], better = g, true
		case i < 0 && len(all) < MaxGrants:
			all, better = append(all, g), true
		}
	}
	if !better {
		return r, nil
	}
	r.Grants = all
	text, err := encoding.Marshal(r.parcel())
	if err == nil {
		err = replaceFile(s.releaseFile(r.Spore), text)
	}
	if err != nil {
		return Release{}, fmt.Errorf("keep grants: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shelveLocked(r)
	return r, nil
}

func (s *Store) place(r Release, dir string, first bool) error {
	s.step("verified")
	for _, part := range []string{partPack, partIndex} { // the tree can be made again from them
		if err := syncPath(filepath.Join(dir, part)); err != nil {
			return err
		}
	}
	s.step("synced")
	if err := s.placeTree(r, filepath.Join(dir, partTree)); err != nil {
		return err
	}
	s.step("tree")
	if err := s.placeGit(r, dir, first); err != nil {
		return err
	}
	s.step("repository")
	text, err := encoding.Marshal(r.parcel())
	if err != nil {
		return err
	}
	if err := replaceFile(s.releaseFile(r.Spore), text); err != nil {
		return err
	}
	s.step("release")
	if first {
		if err := replaceFile(filepath.Join(s.cellDir(r.Spore.Cell), "head"), text); err != nil {
			return err
		}
	}
	s.step("head")
	return nil
}

// placeTree puts the files where they belong, unless they are there.
func (s *Store) placeTree(r Release, tree string) error {
	place := s.treeDir(r.Spore.Tree)
	if have, err := hashDir(place, s.conf.Limits.Files); err == nil && have == r.Spore.Tree {
		return nil
	}
	if err := s.removeTree(place); err != nil {
		return err
	}
	if err := os.Rename(tree, place); err != nil {
		return err
	}
	return syncPath(filepath.Dir(place))
}

// placeGit adds the commit and the tag to the cell's repository, which git may
// read but never has to.
func (s *Store) placeGit(r Release, dir string, first bool) error {
	repo := s.repoDir(r.Spore.Cell)
	if err := initRepo(repo); err != nil {
		return err
	}
	pack := s.packFile(r.Spore)
	if err := os.Rename(filepath.Join(dir, partPack), pack); err != nil {
		return err
	}
	s.step("pack")
	if err := os.Rename(filepath.Join(dir, partIndex), strings.TrimSuffix(pack, ".pack")+".idx"); err != nil {
		return err
	}
	if err := syncPath(filepath.Dir(pack)); err != nil {
		return err
	}
	// Without its history the commit is shallow, in git's words.
	shallow := filepath.Join(repo, "shallow")
	have, err := os.ReadFile(shallow)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !bytes.Contains(have, []byte(r.Spore.Commit)) {
		if err := replaceFile(shallow, append(have, r.Spore.Commit+"\n"...)); err != nil {
			return err
		}
	}
	tag, err := writeTag(repo, r.Spore.Raw)
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(repo, filepath.FromSlash(r.Spore.Ref())), []byte(tag.String()+"\n")); err != nil {
		return err
	}
	if !first {
		return nil
	}
	return replaceFile(filepath.Join(repo, "refs", "heads", "main"), []byte(r.Spore.Commit+"\n"))
}

// initRepo makes an empty bare git repository, or what is missing of one.
func initRepo(repo string) error {
	for _, d := range []string{"objects/pack", "objects/info", "refs/heads", "refs/tags"} {
		if err := os.MkdirAll(filepath.Join(repo, filepath.FromSlash(d)), 0o755); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"config": "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n[gc]\n\tauto = 0\n",
		"HEAD":   "ref: refs/heads/main\n",
	} {
		if _, err := os.Stat(filepath.Join(repo, name)); err == nil {
			continue
		}
		if err := replaceFile(filepath.Join(repo, name), []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

// writeTag adds a tag object to a repository.
func writeTag(repo string, raw []byte) (objectID, error) {
	object := append([]byte(fmt.Sprintf("tag %d\x00", len(raw))), raw...)
	id := objectID(sha1.Sum(object))
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	_, _ = z.Write(object)
	_ = z.Close() // a buffer takes everything
	name := id.String()
	return id, replaceFile(filepath.Join(repo, "objects", name[:2], name[2:]), b.Bytes())
}

// replaceFile writes a file in one step and makes it durable, with the folders
// that it is in.
func replaceFile(path string, content []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".new-*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	if e := tmp.Sync(); err == nil {
		err = e
	}
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return err
	}
	return syncPath(dir)
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
