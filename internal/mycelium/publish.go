package mycelium

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

var (
	// ErrDirty says that a folder holds changes that are in no commit: see [Dirty].
	ErrDirty = errors.New("there are changes that are not committed")
	// ErrNoRepository says that a folder is not the top of a git work tree with a commit.
	ErrNoRepository = errors.New("not the top of a git work tree with a commit")
	// ErrVersion says that another release with other content has that name already.
	ErrVersion = errors.New("version is taken")
)

// maxDirty is how many names a [Dirty] holds.
const maxDirty = 20

// Dirty is an [ErrDirty] that names the files.
type Dirty struct{ Files []string } // at most maxDirty

// Error names the first files.
func (d *Dirty) Error() string {
	return fmt.Sprintf("%v: %s", ErrDirty, strings.Join(d.Files[:min(3, len(d.Files))], ", "))
}

// Unwrap returns ErrDirty.
func (d *Dirty) Unwrap() error { return ErrDirty }

// Publication is what an author says of a release.
type Publication struct {
	Author  identity.Private
	Name    identity.Name
	Version string
	Serve   record.Serve
	Life    time.Duration // default record.DefaultSporeLife
	MinSeq  uint64        // releases below it are withdrawn; default: as the one before
	Grants  [][]byte      // raw grants of the author that travel with the release, at most MaxGrants

	// Seeds finds who has releases of the cell already, which the author may
	// have published from another machine. Nil: nobody is asked.
	Seeds func(context.Context) []Seed
}

// Publish signs the commit that is checked out in dir as a release and installs
// it here. Nothing that is not committed is ever part of one: such changes are
// a [Dirty] error. The release's number is one above all that are known here,
// from the tags in dir and to the seeds that answer within some seconds. A
// version that one of these has for other files is an [ErrVersion], and where
// two of them contradict each other the error is a [Fork]. The signed tag is
// written into dir's repository too, for the author to push to mirrors.
func (s *Store) Publish(ctx context.Context, dir string, p Publication) (Release, error) {
	fail := func(err error) (Release, error) { return Release{}, fmt.Errorf("publish %s: %w", p.Name, err) }
	if p.Author.IsZero() {
		return fail(errors.New("there is no author's key"))
	}
	if p.Life == 0 {
		p.Life = record.DefaultSporeLife
	}
	if len(p.Grants) > MaxGrants {
		return fail(fmt.Errorf("%d grants, %d are allowed", len(p.Grants), MaxGrants))
	}
	s.publishing.Lock()
	defer s.publishing.Unlock()
	commit, err := s.checkedOut(ctx, dir)
	if err != nil {
		return fail(err)
	}
	tmp, remove, err := s.quarantine()
	if err != nil {
		return fail(err)
	}
	defer remove()
	got, err := s.snapshot(ctx, dir, commit, tmp)
	if err != nil {
		return fail(err)
	}
	cell := identity.Cell{Author: p.Author.Public(), Name: p.Name}
	before, used, err := s.history(ctx, dir, cell, p)
	var fork *Fork
	if errors.As(err, &fork) {
		err = errors.Join(err, s.keepFork(fork))
	}
	if err == nil {
		err = before.free(p.Version, got.tree)
	}
	if err != nil {
		return fail(err)
	}
	last := before.last()
	spore := record.Spore{
		Cell: cell, Epoch: last.Epoch, Seq: used + 1, MinSeq: max(p.MinSeq, last.MinSeq), Version: p.Version, Commit: commit.String(),
		Tree: got.tree, Size: got.size, Files: got.files, Serve: p.Serve, Issued: time.Now(), Expires: time.Now().Add(p.Life),
	}
	if last.Seq > 0 {
		spore.Prev = last.Hash()
	}
	if spore, err = record.SignSpore(p.Author, spore); err != nil {
		return fail(err)
	}
	r, err := parcel{Spore: spore.Raw, Grants: p.Grants}.open(s.conf.Network.ID(), time.Now())
	if err != nil {
		return fail(err)
	}
	if len(r.Grants) != len(p.Grants) {
		return fail(fmt.Errorf("%w: not the author's, or not valid now", record.ErrGrant))
	}
	// From here on the number is used up, whatever happens.
	if err := s.tag(ctx, dir, spore); err != nil {
		return fail(err)
	}
	r.Source = "author"
	if r, err = s.install(r, tmp, ""); err != nil {
		return fail(err)
	}
	return r, nil
}

// head returns the commit that is checked out in the top folder of a work tree.
func (s *Store) head(ctx context.Context, dir string) (objectID, error) {
	if dir == "" {
		return objectID{}, ErrNoRepository
	}
	top, err := s.git.run(ctx, dir, true, nil, "rev-parse", "--show-toplevel", "--show-object-format", "--verify", "HEAD^{commit}")
	if errors.Is(err, ErrNoGit) || ctx.Err() != nil {
		return objectID{}, err
	}
	if err != nil {
		return objectID{}, fmt.Errorf("%w: %s: %w", ErrNoRepository, dir, err)
	}
	f := strings.Split(strings.TrimSuffix(top, "\n"), "\n")
	if len(f) != 3 || f[1] != "sha1" || !sameDir(f[0], dir) {
		return objectID{}, fmt.Errorf("%w: %s", ErrNoRepository, dir)
	}
	return parseID(f[2])
}

// checkedOut returns the commit of a clean work tree.
func (s *Store) checkedOut(ctx context.Context, dir string) (objectID, error) {
	commit, err := s.head(ctx, dir)
	if err != nil {
		return objectID{}, err
	}
	status, err := s.git.run(ctx, dir, true, nil, "status", "--porcelain=v1", "-z", "--untracked-files=all", "--ignore-submodules=none", "--no-renames")
	if err != nil && !errors.Is(err, ErrTooBig) {
		return objectID{}, err
	}
	var dirty Dirty
	for line := range strings.SplitSeq(status, "\x00") {
		if len(line) > 3 && len(dirty.Files) < maxDirty {
			dirty.Files = append(dirty.Files, strconv.Quote(line[3:]))
		}
	}
	if len(dirty.Files) > 0 || err != nil {
		return objectID{}, &dirty
	}
	return commit, nil
}

func sameDir(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// snapshot packs a commit of a repository and unpacks it into tmp as everybody
// will who gets it.
func (s *Store) snapshot(ctx context.Context, repo string, commit objectID, tmp string) (contents, error) {
	name := filepath.Join(tmp, "snapshot")
	if err := s.packCommit(ctx, repo, commit, name); err != nil {
		return contents{}, err
	}
	defer os.Remove(name)
	in, err := os.Open(name)
	if err != nil {
		return contents{}, err
	}
	defer in.Close()
	return unpack(in, commit, s.conf.Limits, tmp)
}

func (s *Store) packCommit(ctx context.Context, repo string, commit objectID, file string) error {
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	b, err := s.git.newBatch(ctx, repo)
	if err != nil {
		return err
	}
	defer b.close()
	if err := pack(b, commit, s.conf.Limits, out); err != nil {
		return err
	}
	return out.Close()
}

// tag writes a release's tag into the author's repository.
func (s *Store) tag(ctx context.Context, dir string, p record.Spore) error {
	id, err := s.git.run(ctx, dir, true, p.Raw, "hash-object", "-t", "tag", "-w", "--stdin")
	if err != nil {
		return err
	}
	_, err = s.git.run(ctx, dir, true, nil, "update-ref", p.Ref(), strings.TrimSpace(id), strings.Repeat("0", 40))
	return err
}
