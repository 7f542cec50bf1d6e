package mycelium

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// Limits on one fetch.
const (
	MaxSeeds   = 16 // seeds that are asked; the first ones
	MaxMirrors = 4  // mirrors that are tried; the first ones
)

// bestWait is how long a fetch waits for seeds that know of a newer release,
// after the first answer.
const bestWait = 300 * time.Millisecond

// StepKind says what a fetch is doing.
type StepKind string

// The kinds of steps.
const (
	StepFound   StepKind = "found"   // a source has a release with a good record
	StepRefused StepKind = "refused" // a source failed, or what it has is not good: Err says why
	StepCopy    StepKind = "copy"    // the files of a release are being copied from a source
	StepInstall StepKind = "install" // they have been verified and are put in their place
)

// Step is news of a fetch.
type Step struct {
	Kind   StepKind
	Source string       // as in Release.Source
	Spore  record.Spore // zero in StepRefused where no record was good
	Err    error        // of StepRefused
}

// Attempt is a source that did not help, and why.
type Attempt struct {
	Source string
	Err    error
}

// FetchError is a fetch that found no release. It unwraps to what went wrong at
// each source, and is an [ErrNone] too.
type FetchError struct {
	Cell     identity.Cell
	Want     string
	Attempts []Attempt
}

// Error names every source that was tried.
func (e *FetchError) Error() string {
	name := e.Cell.Short()
	if e.Want != "" {
		name += ":" + e.Want
	}
	var why []string
	for _, a := range e.Attempts {
		why = append(why, fmt.Sprintf("%s: %v", a.Source, a.Err))
	}
	if len(why) == 0 {
		why = []string{"there is nobody to ask"}
	}
	return fmt.Sprintf("fetch %s: %s", name, strings.Join(why, "; "))
}

// Unwrap returns the errors of all attempts, and ErrNone.
func (e *FetchError) Unwrap() []error {
	all := []error{ErrNone}
	for _, a := range e.Attempts {
		all = append(all, a.Err)
	}
	return all
}

// Fetch gets a release of a cell onto this machine: the highest that any seed
// has, or the highest that is called want. It asks seeds, then mirrors, and
// where they have nothing newer returns what is installed. A version that is
// installed is returned without asking anybody.
//
// A record counts only with the author's signature and while it holds, and
// none that is older than one seen before; where the author signed two
// histories the error is a [Fork]. Files are unpacked aside, and installed once
// all of them are what was signed. Callers that want the same at the same time
// share one fetch. progress may be nil; it is called by one goroutine at a time.
func (s *Store) Fetch(ctx context.Context, c identity.Cell, want string, seeds []Seed, mirrors []string, progress func(Step)) (Release, error) {
	return s.fetches.do(ctx, c.String()+":"+want, progress, func(ctx context.Context, report func(Step)) (Release, error) {
		f := fetch{store: s, cell: c, want: want, report: report}
		return f.run(ctx, seeds[:min(len(seeds), MaxSeeds)], mirrors[:min(len(mirrors), MaxMirrors)])
	})
}

// fetch is one Fetch under way.
type fetch struct {
	store    *Store
	cell     identity.Cell
	want     string
	report   func(Step)
	found    []found
	attempts []Attempt
}

// found is a good record and who has it.
type found struct {
	release Release
	seed    Seed
	tried   bool
}

// untried returns the best of what has been found and not tried.
func (f *fetch) untried() *found {
	i := slices.IndexFunc(f.found, func(o found) bool { return !o.tried })
	if i < 0 {
		return nil
	}
	return &f.found[i]
}

func (f *fetch) run(ctx context.Context, seeds []Seed, mirrors []string) (Release, error) {
	cached, err := f.store.Open(f.cell, f.want)
	have := err == nil
	if f.want != "" && have {
		if err := f.store.admit(cached.Spore, f.want); err != nil {
			return Release{}, fmt.Errorf("fetch %s: %w", f.cell.Short(), err)
		}
		return cached, nil
	}
	r, err := f.fromSeeds(ctx, seeds, cached)
	for i := 0; errors.Is(err, ErrNone) && i < len(mirrors) && ctx.Err() == nil; i++ {
		r, err = f.fromMirror(ctx, mirrors[i], cached)
	}
	var fork *Fork
	if errors.As(err, &fork) {
		err = errors.Join(err, f.store.keepFork(fork))
	}
	switch {
	case err == nil:
		return r, nil
	case ctx.Err() != nil:
		return Release{}, fmt.Errorf("fetch %s: %w", f.cell.Short(), context.Cause(ctx))
	case !errors.Is(err, ErrNone):
		return Release{}, fmt.Errorf("fetch %s: %w", f.cell.Short(), err)
	case have:
		return cached, nil
	}
	return Release{}, &FetchError{f.cell, f.want, f.attempts}
}

func (f *fetch) refuse(source string, p record.Spore, err error) {
	f.attempts = append(f.attempts, Attempt{source, err})
	f.report(Step{Kind: StepRefused, Source: source, Spore: p, Err: err})
}

// fromSeeds asks all seeds at once and takes the highest release, from one after
// the other of those that have it. It fails with ErrNone where none gave one.
func (f *fetch) fromSeeds(ctx context.Context, seeds []Seed, cached Release) (Release, error) {
	type reply struct {
		seed    Seed
		release Release
		err     error
	}
	replies := make(chan reply, len(seeds))
	ctx, cancel := context.WithCancel(ctx)
	for _, seed := range seeds {
		go func() {
			r, err := f.store.askRecord(ctx, seed, f.cell, f.want)
			replies <- reply{seed, r, err}
		}()
	}
	pending := len(seeds)
	defer func() {
		cancel()
		for ; pending > 0; pending-- {
			<-replies
		}
	}()
	for {
		var enough <-chan time.Time
		for wait := true; wait && pending > 0; {
			if enough == nil && f.untried() != nil {
				enough = time.After(bestWait)
			}
			select {
			case r := <-replies:
				pending--
				if err := f.heard(r.seed, r.release, r.err); err != nil {
					return Release{}, err
				}
			case <-enough:
				wait = false
			}
		}
		best := f.untried()
		if best == nil {
			return Release{}, ErrNone
		}
		best.tried = true
		if best.release.Spore.Order() == cached.Spore.Order() {
			return f.store.regrant(cached, best.release.Grants)
		}
		r, err := f.copy(ctx, best.release, best.seed.source(), func(dir string) error {
			return f.store.askPack(ctx, best.seed, best.release.Spore, dir)
		})
		if err == nil || ctx.Err() != nil || errors.Is(err, ErrFork) {
			return r, err
		}
	}
}

// heard takes note of what a seed said. It fails on a fork.
func (f *fetch) heard(seed Seed, r Release, err error) error {
	if err != nil {
		f.refuse(seed.source(), record.Spore{}, err)
		if errors.Is(err, ErrFork) {
			return err
		}
		return nil
	}
	for _, o := range f.found {
		if o.release.Spore.Order() == r.Spore.Order() && o.release.Spore.Hash() != r.Spore.Hash() {
			return &Fork{o.release.Spore, r.Spore}
		}
	}
	f.report(Step{Kind: StepFound, Source: seed.source(), Spore: r.Spore})
	f.found = append(f.found, found{release: r, seed: seed})
	slices.SortStableFunc(f.found, func(a, b found) int { return b.release.Spore.Order().Compare(a.release.Spore.Order()) })
	return nil
}

// copy has get unpack a release into quarantine and installs it.
func (f *fetch) copy(ctx context.Context, r Release, source string, get func(dir string) error) (Release, error) {
	f.report(Step{Kind: StepCopy, Source: source, Spore: r.Spore})
	dir, remove, err := f.store.quarantine()
	if err != nil {
		return Release{}, err
	}
	defer remove()
	if err = get(dir); err == nil {
		f.report(Step{Kind: StepInstall, Source: source, Spore: r.Spore})
		r.Source = source
		r, err = f.store.install(r, dir, f.want)
	}
	if err != nil {
		f.refuse(source, r.Spore, err)
		return Release{}, err
	}
	return r, nil
}

// fromMirror copies what a git repository elsewhere has of the cell. It fails
// with ErrNone where that is nothing.
func (f *fetch) fromMirror(ctx context.Context, url string, cached Release) (Release, error) {
	none := func(err error) (Release, error) {
		f.refuse(url, record.Spore{}, err)
		if errors.Is(err, ErrFork) {
			return Release{}, err
		}
		return Release{}, ErrNone
	}
	tmp, remove, err := f.store.quarantine()
	if err != nil {
		return Release{}, err
	}
	defer remove()
	repo := filepath.Join(tmp, "mirror.git")
	if err := f.store.conf.Mirror.Copy(ctx, url, f.cell, repo); err != nil {
		return none(err)
	}
	tags, err := f.store.tags(ctx, repo, f.cell)
	if err != nil {
		return none(err)
	}
	releases, err := f.store.signed(tags, f.cell, f.want, nil, func(p record.Spore, err error) { f.refuse(url, p, err) })
	if err != nil {
		return none(err)
	}
	for _, r := range releases {
		if r.Spore.Order() == cached.Spore.Order() {
			return cached, nil
		}
		got, err := f.copy(ctx, r, url, func(dir string) error { return f.store.receiveFrom(ctx, repo, r.Spore, dir) })
		if err == nil || ctx.Err() != nil || errors.Is(err, ErrFork) {
			return got, err
		}
	}
	return none(ErrNone)
}
