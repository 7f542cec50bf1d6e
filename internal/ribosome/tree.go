package ribosome

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Limits of a cell's source.
const (
	maxFiles = 100_000
	maxBytes = 2 << 30
)

// errTooBig says that a folder can hardly be the source of a cell.
var errTooBig = fmt.Errorf("the source has more than %d files or %d GiB", maxFiles, maxBytes>>30)

// hashTree adds to h every file under root: path, whether it is executable,
// and content. Links to files count as what they lead to; git's own folder
// does not count. What go build ignores counts all the same, since that is
// for go to know.
func hashTree(h hash.Hash, root string) error {
	var files, size int64
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if e.Name() == ".git" {
				return fs.SkipDir
			}
			return nil
		}
		st, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // a link to nowhere, or a file just deleted
			return nil
		case err != nil:
			return err
		case !st.Mode().IsRegular(): // pipes must not be opened; a link to a folder is not followed by go
			return nil
		}
		files++
		size += st.Size()
		if files > maxFiles || size > maxBytes {
			return errTooBig
		}
		sum, err := hashFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		addText(h, filepath.ToSlash(rel))
		h.Write([]byte{byte(st.Mode().Perm() >> 6 & 1)})
		h.Write(sum)
		return nil
	})
}

// addText adds a text with its length, so that two texts are never taken for one.
func addText(h hash.Hash, s string) {
	_ = binary.Write(h, binary.BigEndian, uint32(len(s)))
	_, _ = io.WriteString(h, s)
}

func hashFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}
