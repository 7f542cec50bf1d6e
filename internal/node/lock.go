package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"cell.network/cell/internal/home"
)

// ErrLocked says that another node runs on the same home.
var ErrLocked = errors.New("another node runs on this home")

// lock keeps a second node off a home for as long as the process lives: the
// system releases it at any death.
type lock struct{ f *os.File }

func takeLock(h home.Home) (*lock, error) {
	f, err := os.OpenFile(filepath.Join(h.Runtime, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock home: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := make([]byte, 32)
		n, _ := f.ReadAt(holder, 0)
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: process %s, home %s", ErrLocked, strings.TrimSpace(string(holder[:n])), h.Runtime)
		}
		return nil, fmt.Errorf("lock home: %w", err)
	}
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(pid), 0)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock home: %w", err)
		}
	}
	return &lock{f}, nil
}

func (l *lock) release() { l.f.Close() }
