//go:build !linux

package mycelium

import (
	"io/fs"
	"path/filepath"
	"syscall"
)

// dieWithNode does nothing: here a git whose node was killed ends when its
// pipes do.
func dieWithNode(*syscall.SysProcAttr) {}

// syncTree makes durable what lies under a folder.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() && !e.Type().IsRegular() {
			return err
		}
		return syncPath(p)
	})
}
