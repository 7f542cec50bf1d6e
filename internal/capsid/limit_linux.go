package capsid

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// memorySlack is added to [Limits.Memory] before it is enforced, because the Go
// runtime sets aside, and the kernel counts, far more than a program uses. The
// bare figure is what GOMEMLIMIT tells a Go program to keep to by itself.
const memorySlack = 128 << 20

// limit sets the limits of this process and all that it starts.
func limit(l Limits, sandbox bool) error {
	set := func(what string, resource int, n int64) error {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: uint64(n), Max: uint64(n)}); err != nil {
			return fmt.Errorf("limit %s to %d: %w", what, n, err)
		}
		return nil
	}
	if err := errors.Join(set("core dumps", unix.RLIMIT_CORE, 0), set("open descriptors", unix.RLIMIT_NOFILE, int64(l.Files))); err != nil {
		return err
	}
	if sandbox { // outside, all processes of the user would count
		if err := set("processes", unix.RLIMIT_NPROC, int64(l.Procs)); err != nil {
			return err
		}
	}
	return nil
}

// memoryLimit is the kernel's limit for n bytes of memory.
func memoryLimit(n int64) *unix.Rlimit {
	return &unix.Rlimit{Cur: uint64(n + memorySlack), Max: uint64(n + memorySlack)}
}

func memoryText(n int64) string {
	return "each process is refused private memory beyond " + bytesText(n+memorySlack)
}

func bytesText(n int64) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}
