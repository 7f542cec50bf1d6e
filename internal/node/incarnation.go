package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// nextIncarnation returns a number above that of every earlier start of this
// node, and makes it durable first: records of the last life then never
// outrank those of this one. It follows the clock, so that a lost file does no
// harm unless the clock went back as well.
func nextIncarnation(stateDir string, now time.Time) (uint64, error) {
	path := filepath.Join(stateDir, "incarnation")
	var last uint64
	b, err := os.ReadFile(path)
	switch {
	case err == nil:
		if last, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err != nil {
			last = 0 // torn by a crash; the clock takes over
		}
	case !errors.Is(err, fs.ErrNotExist):
		return 0, fmt.Errorf("read incarnation: %w", err)
	}
	next := max(uint64(now.UnixMilli()), last+1)
	if err := replaceFile(path, []byte(strconv.FormatUint(next, 10)+"\n")); err != nil {
		return 0, fmt.Errorf("write incarnation: %w", err)
	}
	return next, nil
}

// replaceFile puts content in the place of path so that a crash leaves the old
// or the new one.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}
