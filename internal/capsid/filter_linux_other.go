//go:build linux && !amd64 && !arm64

package capsid

import "golang.org/x/sys/unix"

// No filter has been written for this architecture.
const (
	auditArch    = 0
	foreignCalls = 0x40000000
)

var refusedHere map[unix.Errno][]uint32
