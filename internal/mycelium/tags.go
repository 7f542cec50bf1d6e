package mycelium

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// tag is a tag that has the name of a release.
type tag struct {
	seq uint64
	raw []byte // empty where it is no annotated tag, or too long
}

// maxTags is how many tags of one cell are looked at.
const maxTags = 1000

// tags lists a cell's tags in a repository, those that the arguments for git
// leave.
func (s *Store) tags(ctx context.Context, dir string, c identity.Cell, only ...string) ([]tag, error) {
	prefix := "refs/tags/cell/" + string(c.Name) + "/"
	args := append([]string{"for-each-ref", "--format=%(objecttype) %(refname)", fmt.Sprintf("--count=%d", maxTags), "--sort=-version:refname"}, only...)
	out, err := s.git.run(ctx, dir, false, nil, append(args, prefix)...)
	if err != nil {
		return nil, err
	}
	b, err := s.git.newBatch(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer b.close()
	var all []tag
	for line := range strings.Lines(out) {
		typ, ref, _ := strings.Cut(strings.TrimSpace(line), " ")
		seq, err := strconv.ParseUint(path.Base(ref), 10, 63)
		if err != nil || ref != prefix+strconv.FormatUint(seq, 10) {
			continue
		}
		t := tag{seq: seq}
		if typ == "tag" {
			size, r, err := b.named(ref, "tag")
			if err != nil {
				return nil, err
			}
			if size <= record.MaxSpore {
				t.raw = make([]byte, size)
				if _, err := io.ReadFull(r, t.raw); err != nil {
					return nil, err
				}
			}
		}
		all = append(all, t)
	}
	return all, nil
}

// signed checks a cell's tags and returns those that are releases that may be
// installed, the highest first. refused hears of each other one, and a [Fork]
// ends it. Grants are those that go with any of them.
func (s *Store) signed(tags []tag, c identity.Cell, want string, grants [][]byte, refused func(record.Spore, error)) ([]Release, error) {
	var releases []Release
	for _, t := range tags {
		r, err := s.check(parcel{Spore: t.raw, Grants: grants}, c, want)
		switch {
		case errors.Is(err, ErrFork):
			return nil, err
		case err != nil:
			refused(record.Spore{}, fmt.Errorf("tag %d: %w", t.seq, err))
		case r.Spore.Seq != t.seq: // somebody renamed it
			refused(r.Spore, fmt.Errorf("%w: tag %d is release %d", record.ErrMalformed, t.seq, r.Spore.Seq))
		default:
			releases = append(releases, r)
		}
	}
	slices.SortStableFunc(releases, func(a, b Release) int { return b.Spore.Order().Compare(a.Spore.Order()) })
	return releases, nil
}

// receiveFrom unpacks a release into dir from a git repository, with the checks
// of what a seed sends.
func (s *Store) receiveFrom(ctx context.Context, repo string, p record.Spore, dir string) error {
	commit, err := parseID(p.Commit)
	if err != nil {
		return err
	}
	packed := filepath.Join(dir, "packed")
	if err := s.packCommit(ctx, repo, commit, packed); err != nil {
		return err
	}
	defer os.Remove(packed)
	in, err := os.Open(packed)
	if err != nil {
		return err
	}
	defer in.Close()
	return receive(in, p, s.conf.Limits, dir)
}
