package ribosome

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"go/build"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
)

// flags of every build. They are part of a build's key.
var flags = []string{"-trimpath", "-buildvcs=false", "-mod=readonly"}

// maxGoMod bounds what is read of a go.mod, in bytes.
const maxGoMod = 1 << 20

// maxOutput bounds what is kept of a failed build's output, in bytes.
const maxOutput = 64 << 10

// job is a build that is fully described.
type job struct {
	source Source
	root   string // of the module
	goMod  *modfile.File
	target string // the package to build, as in ./cmd/greeter
	tool   toolchain
	key    string
}

// prepare finds out what there is to build and with what.
func (r *Ribosome) prepare(ctx context.Context, s Source) (job, error) {
	j := job{source: s}
	fail := func(err error, hint string) (job, error) {
		return j, &Error{Name: s.Name, Err: err, Hint: hint}
	}
	dir, err := filepath.Abs(s.Dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return fail(err, "")
	}
	j.source.Dir = dir
	if j.root, j.goMod, err = findModule(dir); err != nil {
		hint := ""
		if errors.Is(err, ErrNoModule) {
			hint = "make a cell with: cell new " + string(s.Name)
		}
		return fail(err, hint)
	}
	if hint, err := r.checkSDK(j); err != nil {
		return fail(err, hint)
	}
	if j.target, err = findProgram(dir, string(s.Name)); err != nil {
		hint := ""
		if errors.Is(err, ErrNoProgram) {
			hint = fmt.Sprintf("put package main into %s, or name in Cell.toml what is built under cmd", filepath.Join(dir, "cmd", string(s.Name)))
		}
		return fail(err, hint)
	}
	if j.tool, err = r.findToolchain(ctx); err != nil {
		if errors.Is(err, ErrNoToolchain) {
			return fail(err, "install Go "+r.modules.goVersion+" or newer from https://go.dev/dl and see that the node's PATH leads to the go command")
		}
		return j, err
	}
	if j.key, err = j.computeKey(); err != nil {
		return fail(err, "")
	}
	return j, nil
}

// findModule finds the module that dir belongs to, as the go command does.
func findModule(dir string) (root string, f *modfile.File, err error) {
	for root = dir; ; root = filepath.Dir(root) {
		file := filepath.Join(root, "go.mod")
		b, err := readGoMod(file)
		if err == nil {
			f, err = modfile.Parse(file, b, nil)
			return root, f, err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", nil, err
		}
		if root == filepath.Dir(root) {
			return "", nil, fmt.Errorf("%w in %s or above", ErrNoModule, dir)
		}
	}
}

// readGoMod reads a go.mod, which in a strange source may be a link to anything.
func readGoMod(file string) ([]byte, error) {
	st, err := os.Stat(file)
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", file)
	case st.Size() > maxGoMod:
		return nil, fmt.Errorf("%s has %d bytes, %d are allowed", file, st.Size(), maxGoMod)
	}
	return os.ReadFile(file)
}

// findProgram is the package to build: dir itself or cmd/name below it.
func findProgram(dir, name string) (string, error) {
	c := build.Default
	c.CgoEnabled = false
	for _, target := range []string{".", "./cmd/" + name} {
		p, err := c.ImportDir(filepath.Join(dir, filepath.FromSlash(target)), 0)
		if err == nil && p.Name == "main" {
			return target, nil
		}
		// What is broken is for go to say, in its own words.
		if err != nil && len(p.GoFiles)+len(p.InvalidGoFiles) > 0 && (target != "." || p.Name == "main") {
			return target, nil
		}
	}
	return "", fmt.Errorf("%w: neither %s nor its folder cmd/%s holds package main", ErrNoProgram, dir, name)
}

// computeKey digests all that decides what is built. Replacements of modules by
// folders outside of the source count like the source.
func (j job) computeKey() (string, error) {
	h := sha256.New()
	rel, err := filepath.Rel(j.root, j.source.Dir)
	if err != nil {
		return "", err
	}
	for _, s := range append([]string{"cell/build/1", j.tool.version, runtime.GOOS, runtime.GOARCH, string(j.source.Name), filepath.ToSlash(rel), j.target}, flags...) {
		addText(h, s)
	}
	roots := []string{j.root}
	for _, r := range j.goMod.Replace {
		if r.New.Version == "" && modfile.IsDirectoryPath(r.New.Path) {
			dir := filepath.FromSlash(r.New.Path)
			if !filepath.IsAbs(dir) {
				dir = filepath.Join(j.root, dir)
			}
			roots = append(roots, dir)
		}
	}
	for _, root := range roots {
		addText(h, "tree")
		if err := hashTree(h, root); err != nil {
			return "", fmt.Errorf("read source: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// make runs go build and installs what it made.
func (r *Ribosome) make(ctx context.Context, j job, progress io.Writer) (Artefact, error) {
	began := time.Now()
	if _, err := os.Stat(r.goCache); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintln(progress, "the first build compiles the standard library too and takes longer")
	}
	tmp, err := os.MkdirTemp(r.tmpDir(), "build-")
	if err != nil {
		return Artefact{}, fmt.Errorf("build %s: %w", j.source.Name, err)
	}
	defer os.RemoveAll(tmp)
	program := filepath.Join(tmp, string(j.source.Name))
	args := append(append([]string{"build"}, flags...), "-o", program, j.target)
	cmd := r.command(ctx, j.tool, args...)
	cmd.Dir = j.source.Dir
	cmd.Env = r.environment(j.tool)
	out := &output{progress: progress}
	cmd.Stdout, cmd.Stderr = out, out
	runtime.LockOSThread()
	err = cmd.Run()
	runtime.UnlockOSThread()
	out.end()
	if ctx.Err() != nil {
		return Artefact{}, fmt.Errorf("build %s: %w", j.source.Name, context.Cause(ctx))
	}
	// The source may have changed under the compiler's hands: what it made, or
	// complained about, then belongs to no key.
	if key, keyErr := j.computeKey(); keyErr != nil || key != j.key {
		return Artefact{}, errors.Join(errChanged, keyErr)
	}
	if err != nil {
		return Artefact{}, &Error{Name: j.source.Name, Err: fmt.Errorf("%w: %w", ErrCompile, err), Output: out.String(), Hint: r.hint(j, j.tool, out.String())}
	}
	return r.install(j, tmp, time.Since(began))
}

// output takes what go prints: news of downloads are passed on at once, all
// else is kept, up to maxOutput bytes.
type output struct {
	progress io.Writer
	line     []byte // not yet ended
	kept     bytes.Buffer
	cut      bool
}

func (o *output) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, []byte("\n"))
		rest = after
		if len(o.line)+len(part) <= maxOutput {
			o.line = append(o.line, part...)
		}
		if ended {
			o.end()
		}
	}
	return len(b), nil
}

// end ends a line.
func (o *output) end() {
	line := strings.TrimRight(string(o.line), "\r")
	o.line = o.line[:0]
	switch {
	case line == "":
	case strings.HasPrefix(line, "go: downloading "):
		fmt.Fprintln(o.progress, strings.TrimPrefix(line, "go: "))
	case o.kept.Len()+len(line) < maxOutput:
		o.kept.WriteString(line + "\n")
	default:
		o.cut = true
	}
}

func (o *output) String() string {
	if o.cut {
		return o.kept.String() + "… and more\n"
	}
	return o.kept.String()
}
