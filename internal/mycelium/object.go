package mycelium

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Limits on the git objects of a release.
const (
	maxCommit = 64 << 10 // bytes
	maxTree   = 4 << 20  // bytes of one folder
	maxTrees  = 16 << 20 // bytes of all folders together
)

// ErrContent says that files are not what the release says.
var ErrContent = errors.New("the content is not that of the release")

// objectID is git's SHA-1 name of an object. It only finds objects: what
// counts is the SHA-256 sum of the tree.
type objectID [sha1.Size]byte

func (o objectID) String() string { return hex.EncodeToString(o[:]) }

func parseID(s string) (objectID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != sha1.Size {
		return objectID{}, fmt.Errorf("%w: %.50q is no git object", ErrContent, s)
	}
	return objectID(b), nil
}

// kind is the type of an object, with its number in a pack.
type kind uint8

const (
	kindCommit kind = 1
	kindTree   kind = 2
	kindBlob   kind = 3
)

func (k kind) String() string { return [...]string{"", "commit", "tree", "blob"}[k] }

// objects hands out git objects.
type objects interface {
	// next begins an object and returns its size in bytes; r holds the content
	// and is good until the next call. Whether it is what was asked for is not
	// known before all of it has been read.
	next(objectID, kind) (size int64, r io.Reader, err error)
}

// read copies one object to w and checks that it is what its name says.
func read(from objects, id objectID, k kind, limit int64, w io.Writer) (int64, error) {
	size, r, err := from.next(id, k)
	if err != nil {
		return 0, err
	}
	if size > limit {
		return 0, fmt.Errorf("%w: %s of %d bytes, %d are allowed", ErrTooBig, k, size, limit)
	}
	h := sha1.New()
	fmt.Fprintf(h, "%s %d\x00", k, size)
	n, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(r, size))
	if err != nil {
		return n, err
	}
	if n != size || objectID(h.Sum(nil)) != id {
		return n, fmt.Errorf("%w: %s %s is something else", ErrContent, k, id)
	}
	return n, nil
}

// object is a commit or a tree, whole.
type object struct {
	id   objectID
	kind kind
	data []byte
}

// walk reads a commit and its trees and returns the files, sorted by path, and
// the objects in the order in which they were read: the commit, then each tree
// once, where it comes first in a walk from the top, names sorted as git sorts
// them.
func walk(from objects, commit objectID, limit Limits) ([]file, []object, error) {
	w := walker{from: from, limit: limit, trees: make(map[objectID][]entry)}
	head, err := w.read(commit, kindCommit, maxCommit)
	if err != nil {
		return nil, nil, err
	}
	line, _, _ := strings.Cut(string(head), "\n")
	root, is := strings.CutPrefix(line, "tree ")
	id, err := parseID(root)
	if !is || err != nil {
		return nil, nil, fmt.Errorf("%w: commit without a tree", ErrContent)
	}
	if err := w.walk(id, "", 0); err != nil {
		return nil, nil, err
	}
	slices.SortFunc(w.files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	return w.files, w.objects, nil
}

type walker struct {
	from    objects
	limit   Limits
	trees   map[objectID][]entry
	size    int64 // of all trees
	files   []file
	objects []object
}

func (w *walker) read(id objectID, k kind, limit int64) ([]byte, error) {
	var b bytes.Buffer
	if _, err := read(w.from, id, k, limit, &b); err != nil {
		return nil, err
	}
	w.objects = append(w.objects, object{id, k, b.Bytes()})
	return b.Bytes(), nil
}

// walk visits a folder; prefix is empty or ends with a slash. A folder that is
// in many places is read once but counts each time, and none is empty, so that
// the limit of files bounds the time too.
func (w *walker) walk(id objectID, prefix string, depth int) error {
	if depth >= maxDepth {
		return fmt.Errorf("%w: folders nested more than %d deep", ErrTree, maxDepth)
	}
	entries, known := w.trees[id]
	if !known {
		data, err := w.read(id, kindTree, min(maxTree, maxTrees-w.size))
		if err != nil {
			return err
		}
		w.size += int64(len(data))
		if entries, err = parseTree(data); err != nil {
			return fmt.Errorf("in /%s: %w", prefix, err)
		}
		if len(entries) == 0 {
			return fmt.Errorf("%w: empty folder /%s", ErrTree, prefix)
		}
		w.trees[id] = entries
	}
	for _, e := range entries {
		path := prefix + e.name
		if len(path) > maxPath {
			return fmt.Errorf("%w: a path of %d bytes", ErrTree, len(path))
		}
		if e.mode == modeDir {
			if err := w.walk(e.id, path+"/", depth+1); err != nil {
				return err
			}
			continue
		}
		if len(w.files) == w.limit.Files {
			return fmt.Errorf("%w: more than %d files", ErrTooBig, w.limit.Files)
		}
		w.files = append(w.files, file{path: path, mode: e.mode, id: e.id})
	}
	return nil
}
