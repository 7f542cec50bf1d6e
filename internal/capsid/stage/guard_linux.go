package stage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"
)

// raise puts the guards up, for this thread and what it starts. In a sandbox
// the filter holds all of this process: its other threads keep capabilities
// within the sandbox, of which none is then left that does anything.
func (g Guards) raise(sandbox bool) error {
	if g.Drop {
		if err := dropCapabilities(); err != nil {
			return err
		}
	}
	if g.Landlock != nil {
		if err := g.Landlock.restrict(); err != nil {
			return fmt.Errorf("restrict by Landlock: %w", err)
		}
	}
	if len(g.Filter) > 0 {
		if err := g.install(sandbox); err != nil {
			return fmt.Errorf("filter system calls: %w", err)
		}
	}
	return nil
}

// dropCapabilities gives up all of root's powers for good.
func dropCapabilities() error {
	for c := uintptr(0); ; c++ {
		err := prctl(prCapbsetDrop, c)
		// Past the last one that the kernel knows; or there are none to drop with.
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EPERM) {
			break
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	header := struct {
		version uint32
		pid     int32
	}{capVersion3, 0}
	var none [6]uint32
	if _, _, e := syscall.RawSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0); e != 0 {
		return fmt.Errorf("drop capabilities: %w", e)
	}
	if err := prctl(prSetNoNewPrivs, 1); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	return nil
}

func (l *Landlock) restrict() error {
	attr := [3]uint64{l.FS, l.Net, l.Scoped}
	ruleset, _, e := syscall.RawSyscall(sysLandlockCreateRuleset, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if e != 0 {
		return fmt.Errorf("make ruleset: %w", e)
	}
	defer syscall.Close(int(ruleset))
	for _, r := range l.Rules {
		fd, err := syscall.Open(r.Path, oPath|syscall.O_CLOEXEC, 0)
		if err != nil {
			continue // what is not there need not be allowed
		}
		var rule [12]byte // packed: u64 allowed, s32 descriptor
		binary.NativeEndian.PutUint64(rule[:], r.Allow)
		binary.NativeEndian.PutUint32(rule[8:], uint32(fd))
		_, _, e := syscall.RawSyscall6(sysLandlockAddRule, ruleset, landlockPath, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
		_ = syscall.Close(fd)
		if e != 0 {
			return fmt.Errorf("allow %s: %w", r.Path, e)
		}
	}
	if _, _, e := syscall.RawSyscall(sysLandlockRestrictSelf, ruleset, 0, 0); e != 0 {
		return e
	}
	return nil
}

func (g Guards) install(threads bool) error {
	program := struct {
		length uint16
		filter *byte
	}{uint16(len(g.Filter) / 8), &g.Filter[0]}
	var flags uintptr
	if threads {
		flags = seccompThreads
	}
	n, _, e := syscall.RawSyscall(g.Seccomp, seccompSet, flags, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(g.Filter)
	if e != 0 {
		return e
	}
	if n != 0 {
		return fmt.Errorf("thread %d does not follow", n)
	}
	return nil
}
