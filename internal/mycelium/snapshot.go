package mycelium

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"cell.network/cell/internal/record"
)

// Names in the folder in which a release is put together.
const (
	partTree  = "tree"
	partPack  = "pack"
	partIndex = "idx"
)

// pack writes a commit without its history as a pack: the objects of walk, then
// each content once, by the first path that has it.
func pack(from objects, commit objectID, limit Limits, to io.Writer) error {
	files, objs, err := walk(from, commit, limit)
	if err != nil {
		return err
	}
	contents := make(map[objectID]bool)
	for _, f := range files {
		contents[f.id] = true
	}
	p, err := newPackWriter(to, len(objs)+len(contents))
	if err != nil {
		return err
	}
	for _, o := range objs {
		if err := p.add(o.kind, int64(len(o.data)), func(w io.Writer) error { _, err := w.Write(o.data); return err }); err != nil {
			return err
		}
	}
	left := limit.Unpacked
	for _, f := range files {
		if !contents[f.id] {
			continue
		}
		contents[f.id] = false
		size, r, err := from.next(f.id, kindBlob)
		if err != nil {
			return err
		}
		if size > limit.File {
			return fmt.Errorf("%w: %q has %d bytes, %d are allowed in one file", ErrTooBig, f.path, size, limit.File)
		}
		if left -= size; left < 0 {
			return fmt.Errorf("%w: more than %d bytes", ErrTooBig, limit.Unpacked)
		}
		if err := p.add(kindBlob, size, func(w io.Writer) error { _, err := io.CopyN(w, r, size); return err }); err != nil {
			return err
		}
	}
	return p.end()
}

// contents is what a pack turned out to hold.
type contents struct {
	tree  [sha256.Size]byte
	size  int64
	files int
}

// unpack reads the pack of a commit from r and lays out in dir, which is empty,
// the pack, its index and the tree of files. Nothing is believed: each object
// must be the next that the commit leads to, and have its name. What comes out
// is for the caller to compare with the release.
func unpack(r io.Reader, commit objectID, limit Limits, dir string) (contents, error) {
	out, err := os.OpenFile(filepath.Join(dir, partPack), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o444)
	if err != nil {
		return contents{}, err
	}
	defer out.Close()
	p, err := newPackReader(r, out, limit.Packed)
	if err != nil {
		return contents{}, err
	}
	files, _, err := walk(p, commit, limit)
	if err != nil {
		return contents{}, err
	}
	l := layout{root: filepath.Join(dir, partTree), limit: limit, first: make(map[objectID]int)}
	if err := l.write(p, files); err != nil {
		return contents{}, err
	}
	objs, sum, err := p.end()
	if err != nil {
		return contents{}, err
	}
	index, err := os.OpenFile(filepath.Join(dir, partIndex), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o444)
	if err != nil {
		return contents{}, err
	}
	defer index.Close()
	if err := writeIndex(index, objs, sum); err != nil {
		return contents{}, err
	}
	return contents{hashFiles(files), l.size, len(files)}, nil
}

// layout writes a tree of files.
type layout struct {
	root  string
	limit Limits
	size  int64
	first map[objectID]int // content to the index of the first file that has it
	made  string           // the folder that was made last
}

func (l *layout) write(from objects, files []file) error {
	if err := os.Mkdir(l.root, 0o755); err != nil {
		return err
	}
	links := make(map[int]string)
	for i := range files {
		f := &files[i]
		var target string
		var err error
		if j, again := l.first[f.id]; again {
			target, err = l.copy(f, &files[j], links[j])
		} else {
			l.first[f.id] = i
			target, err = l.receive(from, f)
		}
		if err != nil {
			return err
		}
		if l.size += f.size; l.size > l.limit.Unpacked {
			return fmt.Errorf("%w: more than %d bytes", ErrTooBig, l.limit.Unpacked)
		}
		if f.mode == modeLink {
			if err := checkLink(f.path, target); err != nil {
				return err
			}
		}
		links[i] = target
	}
	for i, f := range files { // last, so that nothing is ever written through one
		if f.mode == modeLink {
			if err := l.link(f, links[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *layout) place(f *file) string { return filepath.Join(l.root, filepath.FromSlash(f.path)) }

// folder makes the folders that a file is in.
func (l *layout) folder(f *file) error {
	dir := filepath.Dir(l.place(f))
	if dir == l.made {
		return nil
	}
	l.made = dir
	return os.MkdirAll(dir, 0o755)
}

// create makes the file and the folders that it is in.
func (l *layout) create(f *file) (*os.File, error) {
	if err := l.folder(f); err != nil {
		return nil, err
	}
	perm := os.FileMode(0o444)
	if f.mode == modeProg {
		perm = 0o555
	}
	return os.OpenFile(l.place(f), os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm)
}

// receive writes a file with the object that comes next. What a link leads to
// it returns instead.
func (l *layout) receive(from objects, f *file) (target string, err error) {
	h := sha256.New()
	if f.mode == modeLink {
		var b limited
		b.left = maxPath
		f.size, err = read(from, f.id, kindBlob, maxPath, io.MultiWriter(&b, h))
		f.sum = [sha256.Size]byte(h.Sum(nil))
		return b.String(), err
	}
	out, err := l.create(f)
	if err != nil {
		return "", err
	}
	f.size, err = read(from, f.id, kindBlob, min(l.limit.File, l.limit.Unpacked-l.size), io.MultiWriter(out, h))
	f.sum = [sha256.Size]byte(h.Sum(nil))
	if e := out.Close(); err == nil {
		err = e
	}
	return "", err
}

// copy writes a file with the content that another file has, or that a link
// leads to.
func (l *layout) copy(f, other *file, target string) (string, error) {
	f.size, f.sum = other.size, other.sum
	if l.size+f.size > l.limit.Unpacked {
		return "", fmt.Errorf("%w: more than %d bytes", ErrTooBig, l.limit.Unpacked)
	}
	var content []byte
	var err error
	switch {
	case other.mode == modeLink:
		content = []byte(target)
	case f.mode == modeLink && f.size > maxPath:
		return "", fmt.Errorf("%w: link %.80q", ErrTree, f.path)
	default:
		content, err = os.ReadFile(l.place(other))
	}
	if err != nil || f.mode == modeLink {
		return string(content), err
	}
	out, err := l.create(f)
	if err != nil {
		return "", err
	}
	_, err = out.Write(content)
	if e := out.Close(); err == nil {
		err = e
	}
	return "", err
}

func (l *layout) link(f file, target string) error {
	if err := l.folder(&f); err != nil {
		return err
	}
	return os.Symlink(filepath.FromSlash(target), l.place(&f))
}

// receive unpacks the pack of a release into dir and checks that it is just
// what the author signed.
func receive(r io.Reader, s record.Spore, limit Limits, dir string) error {
	if err := limit.admit(s); err != nil {
		return err
	}
	commit, err := parseID(s.Commit)
	if err != nil {
		return err
	}
	limit.Unpacked, limit.Files = s.Size, s.Files
	got, err := unpack(r, commit, limit, dir)
	if err != nil {
		return err
	}
	if got != (contents{s.Tree, s.Size, s.Files}) {
		return fmt.Errorf("%w: tree %x with %d bytes in %d files, signed was %x with %d in %d", ErrContent, got.tree[:8], got.size, got.files, s.Tree[:8], s.Size, s.Files)
	}
	return nil
}
