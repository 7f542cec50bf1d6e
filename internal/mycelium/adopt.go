package mycelium

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// ErrNotRelease says that a folder is not just what an author released: no git
// work tree, no tag of a release of the cell at the commit that is checked out,
// or files that are not that commit's. In the last case it is a [Dirty] too.
var ErrNotRelease = errors.New("the folder is not a release")

// Adopt installs the release that is checked out in dir, where its tag is in
// dir's repository too, as if it had been fetched from there: with the same
// checks, and from the commit, never from the files that lie in dir. These must
// be the commit's byte for byte all the same, and nothing else may lie beside
// them but what git is told to ignore; else the error is an [ErrNotRelease].
// Any other error says what is wrong with a release that is one by its name.
//
// Grants are no part of a repository: those given, raw ones of the author,
// travel with the release from now on, as far as they are valid.
//
// The repository may be a stranger's. Nothing that is in it, its settings
// included, makes git run or fetch anything.
func (s *Store) Adopt(ctx context.Context, dir string, c identity.Cell, grants [][]byte) (Release, error) {
	r, err := s.adopt(ctx, dir, c, grants)
	var fork *Fork
	if errors.As(err, &fork) {
		err = errors.Join(err, s.keepFork(fork))
	}
	if err != nil {
		return Release{}, fmt.Errorf("adopt %s: %w", c.Short(), err)
	}
	return r, nil
}

func (s *Store) adopt(ctx context.Context, dir string, c identity.Cell, grants [][]byte) (Release, error) {
	r, err := s.tagged(ctx, dir, c, grants)
	if err != nil {
		return Release{}, err
	}
	tmp, remove, err := s.quarantine()
	if err != nil {
		return Release{}, err
	}
	defer remove()
	if err := s.receiveFrom(ctx, dir, r.Spore, tmp); err != nil {
		return Release{}, err
	}
	names, err := changed(filepath.Join(tmp, partTree), dir)
	if err != nil {
		return Release{}, err
	}
	if len(names) > 0 {
		return Release{}, notRelease(&Dirty{names})
	}
	hash := r.Spore.Hash()
	if have, ok := s.find(c, "", hash[:]); ok {
		s.installing.Lock()
		err := s.placeTree(have, filepath.Join(tmp, partTree)) // only where its files have been damaged
		s.installing.Unlock()
		if err != nil {
			return Release{}, err
		}
		return s.regrant(have, r.Grants)
	}
	r.Source = "folder"
	return s.install(r, tmp, "")
}

func notRelease(why error) error { return fmt.Errorf("%w: %w", ErrNotRelease, why) }

// tagged returns the release of a cell whose tag is at the commit that is
// checked out in dir; of several the highest that is good. It looks at the names
// of files that are no part of it, not yet at any content.
func (s *Store) tagged(ctx context.Context, dir string, c identity.Cell, grants [][]byte) (Release, error) {
	if _, err := os.Lstat(filepath.Join(dir, ".git")); err != nil { // most folders: not worth a process
		return Release{}, notRelease(ErrNoRepository)
	}
	commit, err := s.head(ctx, dir)
	if errors.Is(err, ErrNoRepository) || errors.Is(err, ErrNoGit) {
		return Release{}, notRelease(err)
	}
	if err != nil {
		return Release{}, err
	}
	tags, err := s.tags(ctx, dir, c, "--points-at="+commit.String())
	if err != nil {
		return Release{}, err
	}
	if len(tags) == 0 {
		return Release{}, notRelease(fmt.Errorf("no tag cell/%s/… at commit %.12s", c.Name, commit))
	}
	if err := s.alone(ctx, dir, commit); err != nil {
		return Release{}, err
	}
	var refused error
	releases, err := s.signed(tags, c, "", grants, func(_ record.Spore, err error) {
		if errors.Is(err, record.ErrCell) { // somebody else's, whose repository this was
			err = notRelease(err)
		}
		if refused == nil || errors.Is(refused, ErrNotRelease) {
			refused = err
		}
	})
	if err != nil {
		return Release{}, err
	}
	if len(releases) == 0 {
		return Release{}, refused
	}
	if r := releases[0]; r.Spore.Commit != commit.String() {
		return Release{}, fmt.Errorf("%w: release %d is commit %.12s, not %.12s", record.ErrMalformed, r.Spore.Seq, r.Spore.Commit, commit)
	}
	return releases[0], nil
}

// alone fails where dir holds files that are in no commit, or that git is about
// to put into one. Unlike git status it reads no content, which a repository
// could have a program of its own do.
func (s *Store) alone(ctx context.Context, dir string, commit objectID) error {
	var dirty Dirty
	for _, args := range [][]string{
		{"ls-files", "-z", "--others", "--exclude-standard"},
		{"diff-index", "-z", "--cached", "--name-only", "--no-renames", "--ignore-submodules=none", commit.String(), "--"},
	} {
		out, err := s.git.run(ctx, dir, true, nil, args...)
		if err != nil && !errors.Is(err, ErrTooBig) {
			return err
		}
		if err != nil {
			return notRelease(&Dirty{})
		}
		for name := range strings.SplitSeq(out, "\x00") {
			if name != "" && len(dirty.Files) < maxDirty {
				dirty.Files = append(dirty.Files, strconv.Quote(name))
			}
		}
	}
	if len(dirty.Files) > 0 {
		return notRelease(&dirty)
	}
	return nil
}

// changed names files of tree, a release, that are not the same in dir; at most
// maxDirty.
func changed(tree, dir string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(tree, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(tree, p)
		if err != nil {
			return err
		}
		same, err := sameFile(p, filepath.Join(dir, rel))
		if err != nil || same {
			return err
		}
		if names = append(names, strconv.Quote(filepath.ToSlash(rel))); len(names) == maxDirty {
			return fs.SkipAll
		}
		return nil
	})
	return names, err
}

// sameFile reports whether b is what a is: a file with the same content that may
// be run or not, or a link to the same.
func sameFile(a, b string) (bool, error) {
	x, err := os.Lstat(a)
	if err != nil {
		return false, err
	}
	y, err := os.Lstat(b)
	if err != nil {
		return false, nil
	}
	switch {
	case x.Mode().Type() != y.Mode().Type():
		return false, nil
	case x.Mode().Type() == fs.ModeSymlink:
		to, err := os.Readlink(a)
		if err != nil {
			return false, err
		}
		other, err := os.Readlink(b)
		return err == nil && to == other, nil
	case x.Size() != y.Size() || (x.Mode()^y.Mode())&0o100 != 0:
		return false, nil
	}
	_, sum, err := hashFile(a)
	if err != nil {
		return false, err
	}
	_, other, err := hashFile(b)
	return err == nil && sum == other, nil
}
