package mycelium

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits on paths.
const (
	maxName  = 255  // bytes of one name
	maxDepth = 64   // names in a path
	maxPath  = 1024 // bytes of a path, and of what a link leads to
)

// ErrTree says that a tree of files may not be part of a release: a path that
// some system reads as something else, a link that leads out, a submodule.
var ErrTree = errors.New("not allowed in a release")

// mode is a file's mode as git writes it.
type mode string

const (
	modeDir  mode = "40000"
	modeFile mode = "100644"
	modeProg mode = "100755"
	modeLink mode = "120000"
)

// file is one file of a tree.
type file struct {
	path string // slash-separated
	mode mode
	id   objectID          // git's name of the content
	size int64             // bytes; known once read, as is sum
	sum  [sha256.Size]byte // of the content, or of what a link leads to
}

// hashFiles is the hash of a tree that a release is signed over; files are
// sorted by path.
func hashFiles(files []file) [sha256.Size]byte {
	h := sha256.New()
	fmt.Fprint(h, "cell-tree 1\n")
	for _, f := range files {
		fmt.Fprintf(h, "%s %d %x %s\n", f.mode, f.size, f.sum, f.path)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func hashFile(path string) (int64, [sha256.Size]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, [sha256.Size]byte{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return n, [sha256.Size]byte(h.Sum(nil)), err
}

// hashDir is hashFiles of what lies on disk under dir. It fails where the tree
// would not be allowed, or has more than limit files.
func hashDir(dir string, limit int) ([sha256.Size]byte, error) {
	var files []file
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		f := file{path: filepath.ToSlash(rel)}
		if len(files) == limit {
			return fmt.Errorf("%w: more than %d files", ErrTree, limit)
		}
		switch st, err := e.Info(); {
		case err != nil:
			return err
		case st.Mode().IsRegular():
			f.mode = modeFile
			if st.Mode().Perm()&0o100 != 0 {
				f.mode = modeProg
			}
			if f.size, f.sum, err = hashFile(p); err != nil {
				return err
			}
		case st.Mode().Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			f.mode, f.size, f.sum = modeLink, int64(len(target)), sha256.Sum256([]byte(target))
		default:
			return fmt.Errorf("%w: %q is neither file nor link", ErrTree, f.path)
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	return hashFiles(files), nil
}

// entry is one line of a git tree.
type entry struct {
	mode mode
	name string
	id   objectID
}

// parseTree reads a git tree and refuses what a release may not hold.
func parseTree(b []byte) ([]entry, error) {
	var entries []entry
	folded := make(map[string]string)
	last := ""
	for len(b) > 0 {
		head, rest, ok := bytes.Cut(b, []byte{0})
		m, name, ok2 := strings.Cut(string(head), " ")
		if !ok || !ok2 || len(rest) < len(objectID{}) {
			return nil, fmt.Errorf("%w: malformed git tree", ErrContent)
		}
		e := entry{mode(m), name, objectID(rest)}
		b = rest[len(e.id):]
		order := name
		switch e.mode {
		case modeDir:
			order += "/"
		case modeFile, modeProg, modeLink:
		case "160000":
			return nil, fmt.Errorf("%w: %q is a submodule", ErrTree, name)
		default:
			return nil, fmt.Errorf("%w: %q has the mode %.10q", ErrTree, name, m)
		}
		if err := checkName(name); err != nil {
			return nil, err
		}
		if order <= last {
			return nil, fmt.Errorf("%w: git tree that is not sorted", ErrContent)
		}
		last = order
		f := fold(name)
		if other, twice := folded[f]; twice {
			return nil, fmt.Errorf("%w: %q and %q are one file on some systems", ErrTree, other, name)
		}
		folded[f] = name
		entries = append(entries, e)
	}
	return entries, nil
}

// checkName checks one name of a path. Beyond ASCII only letters and digits are
// allowed that have one form only, so that no two names look or fold alike.
func checkName(name string) error {
	bad := func(why string) error { return fmt.Errorf("%w: the name %.80q %s", ErrTree, name, why) }
	switch {
	case name == "" || name == "." || name == "..":
		return bad("is no name")
	case len(name) > maxName:
		return bad("is too long")
	case !utf8.ValidString(name):
		return bad("is not UTF-8")
	case strings.HasSuffix(name, ".") || strings.HasSuffix(name, " "):
		return bad("ends with a dot or a space")
	}
	for _, r := range name {
		switch {
		case r < 0x20 || r == 0x7f:
			return bad("has a control character")
		case r == '/' || r == '\\' || r == ':':
			return bad("has a slash, backslash or colon")
		case r > 0x7f && (!unicode.IsLetter(r) && !unicode.IsDigit(r) || ambiguous(r)):
			return bad("has characters that systems do not agree on")
		}
	}
	switch f := fold(name); {
	case f == ".GIT" || f == ".GITMODULES":
		return bad("means something to git")
	case strings.HasPrefix(f, "GIT~") && strings.Trim(f[4:], "0123456789") == "":
		return bad("is .git on Windows")
	}
	return nil
}

// ambiguous letters have a second spelling that some file systems turn them
// into: conjoining Hangul, compatibility ideographs and singletons.
func ambiguous(r rune) bool {
	return r >= 0x1100 && r <= 0x11ff || r >= 0xa960 && r <= 0xa97f || r >= 0xd7b0 && r <= 0xd7ff ||
		r >= 0xf900 && r <= 0xfaff || r >= 0x2f800 && r <= 0x2fa1f || r >= 0x2100 && r <= 0x214f
}

// fold maps names that some systems take for one to one text, in capitals where
// there are any.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		for least := r; ; { // the smallest of those that fold together
			if r = unicode.SimpleFold(r); r == least {
				return least
			} else if r < least {
				least = r
			}
		}
	}, name)
}

// checkLink checks what a link at path leads to. Leading ".." go up through
// real folders and the rest only down, so no chain of links leads out.
func checkLink(path, target string) error {
	bad := func(why string) error { return fmt.Errorf("%w: link %.80q to %.80q %s", ErrTree, path, target, why) }
	if target == "" || len(target) > maxPath {
		return bad("leads nowhere")
	}
	parts, up, depth := strings.Split(target, "/"), 0, strings.Count(path, "/")
	for up < len(parts) && parts[up] == ".." {
		up++
	}
	if up > depth {
		return bad("leads out of the release")
	}
	for _, p := range parts[up:] {
		if p == ".." || p == "" {
			return bad("does not lead straight to a file of the release")
		}
		if p != "." && checkName(p) != nil {
			return bad("does not lead straight to a file of the release")
		}
	}
	return nil
}
