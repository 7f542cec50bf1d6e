package capsid

import "golang.org/x/sys/unix"

const (
	auditArch    = unix.AUDIT_ARCH_AARCH64
	foreignCalls = 0x40000000 // none: 32-bit programs show as another architecture
)

var refusedHere = map[unix.Errno][]uint32{unix.EPERM: {unix.SYS_KEXEC_FILE_LOAD}}
