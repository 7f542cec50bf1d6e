// Package ribosome builds the source of cells into programs with the go
// command, keeps what it built, and writes the source of new cells.
//
// A build takes from its surroundings the source, the Go toolchain and modules
// that go.sum names, and nothing else: no cgo, no go.work, no generators, no
// downloaded toolchains. The SDK and what it needs come from the node itself,
// so that a cell that needs no more is built without a network. Everything
// lies under one folder:
//
//	proxy/   modules that the node brings along, in the form of a Go module proxy
//	mod/     unpacked modules (GOMODCACHE)
//	go/      compiled packages (GOCACHE)
//	bin/     one folder for each build, named by its key: the program and artefact.json
//	tmp/     builds in progress
package ribosome

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cell.network/cell/internal/identity"
)

// maxBuilds is how many builds run at once; the go command uses all processors
// for each.
const maxBuilds = 1

// maxChanges is how often a build starts anew because the source was edited
// while it ran.
const maxChanges = 3

// Source is a cell's source code on this machine.
type Source struct {
	Dir  string        // holds Cell.toml; go.mod is here or in a folder above
	Name identity.Name // which program: package main in Dir, or else in Dir/cmd/Name
}

// Artefact is a program that was built.
type Artefact struct {
	Path      string        // the program
	Key       string        // 64 hex digits: the same for the same source, toolchain and platform
	Toolchain string        // as in go1.26.8
	Cached    bool          // it was there before the call
	Took      time.Duration // how long Build took
}

// Builder makes programs of source code; [Ribosome] does it with the go command.
type Builder interface {
	// Build builds s, unless it is built already. Lines about what is going on
	// are written to progress, which may be nil. Errors that the user can act
	// on are of type [*Error].
	Build(ctx context.Context, s Source, progress io.Writer) (Artefact, error)
}

// Config of a [Ribosome].
type Config struct {
	Cache   string // folder that belongs to this Ribosome alone; made if need be
	SDK     fs.FS  // the sources of module cell.network/cell that cells are built with
	Version string // version of that module as in v0.1.0; default v0.1.0. [Ribosome.SDKVersion] adds a digest
	Proxy   string // GOPROXY for all other modules; default: what the go command is set to
}

// Ribosome builds cells. It is safe for concurrent use.
type Ribosome struct {
	cache    string
	goCache  string // GOCACHE
	modCache string // GOMODCACHE
	proxy    string // as Config has it
	goNames  []string
	modules  moduleSet
	flights  flights
	builds   chan struct{} // one taken for each build in progress
}

var _ Builder = (*Ribosome)(nil)

// New returns a Ribosome. It fails where the SDK is not a module that the go
// command would accept, or where the cache cannot be written.
func New(c Config) (*Ribosome, error) {
	cache, err := filepath.Abs(c.Cache)
	if err != nil || c.Cache == "" {
		return nil, fmt.Errorf("open build cache %q: %w", c.Cache, errors.Join(err, fs.ErrInvalid))
	}
	r := &Ribosome{
		cache:    cache,
		goCache:  filepath.Join(cache, "go"),
		modCache: filepath.Join(cache, "mod"),
		proxy:    c.Proxy,
		goNames:  []string{"go", "/usr/local/go/bin/go"}, // the second for a node that was started without a login shell
		builds:   make(chan struct{}, maxBuilds),
	}
	if r.modules, err = newModuleSet(c.SDK, c.Version); err != nil {
		return nil, err
	}
	for _, dir := range []string{r.tmpDir(), r.binDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open build cache: %w", err)
		}
	}
	r.removeTorn()
	if err := r.modules.write(r.proxyDir()); err != nil {
		return nil, fmt.Errorf("open build cache: %w", err)
	}
	return r, nil
}

func (r *Ribosome) proxyDir() string { return filepath.Join(r.cache, "proxy") }
func (r *Ribosome) binDir() string   { return filepath.Join(r.cache, "bin") }
func (r *Ribosome) tmpDir() string   { return filepath.Join(r.cache, "tmp") }

// SDKVersion is the version of module cell.network/cell that this node brings
// along. It is made of the content: another SDK has another version.
func (r *Ribosome) SDKVersion() string { return r.modules.sdk.version }

// Build implements [Builder]. Calls for the same source at the same time share
// one build; it ends early when all of them are cancelled.
func (r *Ribosome) Build(ctx context.Context, s Source, progress io.Writer) (Artefact, error) {
	began := time.Now()
	for range maxChanges {
		a, err := r.build(ctx, s, progress)
		if errors.Is(err, errChanged) {
			continue
		}
		a.Took = time.Since(began)
		return a, err
	}
	return Artefact{}, &Error{Name: s.Name, Err: errChanged, Hint: "wait until nothing writes to " + s.Dir}
}

func (r *Ribosome) build(ctx context.Context, s Source, progress io.Writer) (Artefact, error) {
	j, err := r.prepare(ctx, s)
	if err != nil {
		return Artefact{}, err
	}
	if a, ok := r.find(j); ok {
		return a, nil
	}
	return r.flights.do(ctx, j.key, progress, func(ctx context.Context, progress io.Writer) (Artefact, error) {
		select {
		case r.builds <- struct{}{}:
		default:
			fmt.Fprintln(progress, "waiting for another build to finish")
			select {
			case r.builds <- struct{}{}:
			case <-ctx.Done():
				return Artefact{}, context.Cause(ctx)
			}
		}
		defer func() { <-r.builds }()
		if a, ok := r.find(j); ok { // a build that ended between the look and the flight
			return a, nil
		}
		return r.make(ctx, j, progress)
	})
}
