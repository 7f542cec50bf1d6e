package stage

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"
)

// What package syscall leaves out. The numbers from 424 on are the same on
// every architecture.
const (
	sysOpenTree              = 428
	sysMoveMount             = 429
	sysCloseRange            = 436
	sysMountSetattr          = 442
	sysLandlockCreateRuleset = 444
	sysLandlockAddRule       = 445
	sysLandlockRestrictSelf  = 446

	prSetPdeathsig      = 1
	prSetDumpable       = 4
	prCapbsetDrop       = 24
	prSetChildSubreaper = 36
	prSetNoNewPrivs     = 38

	keyctlJoinSession = 1
	closeRangeCloexec = 4

	atFDCWD        = ^uintptr(99) // -100
	atEmptyPath    = 0x1000
	atRecursive    = 0x8000
	openTreeClone  = 1
	moveEmptyPath  = 4
	mountRDONLY    = 1
	mountNOSUID    = 2
	mountNODEV     = 4
	oPath          = 0x200000
	landlockPath   = 1
	seccompSet     = 1 // SECCOMP_SET_MODE_FILTER
	seccompThreads = 1 // SECCOMP_FILTER_FLAG_TSYNC
	capVersion3    = 0x20080522
)

func prctl(option, arg uintptr) error {
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, option, arg, 0, 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

// setDefault gives a signal its default effect, whatever the runtime wants.
func setDefault(s syscall.Signal) {
	var action [4]uint64 // handler, flags, restorer, mask; mask third where there is no restorer
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
}

// pathCall makes a system call whose second argument is a path.
func pathCall(number, dir uintptr, path string, rest ...uintptr) (int, error) {
	p, err := syscall.BytePtrFromString(path)
	if err != nil {
		return -1, err
	}
	rest = append(rest, 0, 0, 0, 0)
	n, _, e := syscall.Syscall6(number, dir, uintptr(unsafe.Pointer(p)), rest[0], rest[1], rest[2], rest[3])
	if e != 0 {
		return -1, e
	}
	return int(n), nil
}

// Stat is what the kernel says about a process.
type Stat struct {
	Parent int
	Start  uint64 // clock ticks since boot
	Zombie bool
}

// ReadStat reads /proc/PID/stat.
func ReadStat(pid int) (Stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Stat{}, err
	}
	// The second field is the program's name in parentheses, with anything in it.
	_, rest, ok := strings.Cut(string(b[max(0, strings.LastIndexByte(string(b), ')')):]), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return Stat{}, fmt.Errorf("read state of process %d: unknown form", pid)
	}
	s := Stat{Zombie: f[0] == "Z" || f[0] == "X"}
	if _, err := fmt.Sscan(f[1]+" "+f[19], &s.Parent, &s.Start); err != nil {
		return Stat{}, fmt.Errorf("read state of process %d: %w", pid, err)
	}
	return s, nil
}
