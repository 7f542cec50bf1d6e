package main

import (
	"bytes"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

var others = map[string]attack{
	"read-memory":         func(a []string) error { return eachOther(a, readMem) },
	"read-memory-by-call": func(a []string) error { return eachOther(a, readCall) },
	"read-environment": func(a []string) error {
		return eachOther(a, func(p string, _ int) error { return read("/proc/" + p + "/environ") })
	},
	"signal-others": func(a []string) error {
		return eachOther(a, func(_ string, pid int) error { return syscall.Kill(pid, syscall.SIGUSR2) })
	},
	"trace-others": func(a []string) error { return eachOther(a, func(_ string, pid int) error { return trace(pid) }) },
	"take-descriptor": func(a []string) error {
		return eachOther(a, func(_ string, pid int) error { return takeDescriptor(pid) })
	},
	"slow-others": func(a []string) error {
		return eachOther(a, func(_ string, pid int) error { return syscall.Setpriority(syscall.PRIO_PROCESS, pid, 19) })
	},
}

// eachOther tries f on the process that has a[0] among its arguments, and
// where none is seen, on the numbers that it may have.
func eachOther(a []string, f func(text string, pid int) error) error {
	err, found := error(errNothing), false
	try := func(pid int) bool {
		e := f(itoa(pid), pid)
		if e != nil && !errors.Is(e, os.ErrNotExist) && !errors.Is(e, syscall.ESRCH) {
			err = e
		}
		return e == nil
	}
	for pid := 1; pid <= number(a, 1); pid++ {
		line, _ := os.ReadFile("/proc/" + itoa(pid) + "/cmdline")
		if bytes.Contains(line, []byte(a[0])) && !bytes.Contains(line, []byte(os.Args[1])) {
			found = true
			if try(pid) {
				return nil
			}
		}
	}
	if _, e := os.ReadDir("/proc"); found || e == nil && hostRoot() {
		return err
	}
	for pid := 2; pid <= number(a, 1); pid++ {
		if own, e := os.Readlink("/proc/" + itoa(pid) + "/exe"); e == nil || own != "" {
			continue // one of the few that it may see
		}
		if pid != os.Getpid() && pid != os.Getppid() && syscall.Kill(pid, 0) == nil && try(pid) {
			return nil
		}
	}
	return err
}

func readMem(text string, pid int) error {
	maps, err := os.ReadFile("/proc/" + text + "/maps")
	if err != nil {
		return err
	}
	from := hex(string(maps[:bytes.IndexByte(maps, '-')]))
	f, err := os.Open("/proc/" + text + "/mem")
	if err != nil {
		return err
	}
	_, err = f.ReadAt(make([]byte, 64), from)
	return err
}

func readCall(text string, pid int) error {
	from := int64(0x400000) // where Go programs lie
	b := make([]byte, 64)
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	_, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(from), Len: len(b)}}, 0)
	return err
}

func trace(pid int) error {
	const seize = 0x4206
	_, _, e := syscall.Syscall6(syscall.SYS_PTRACE, seize, uintptr(pid), 0, 0, 0, 0)
	return errno(e)
}

func takeDescriptor(pid int) error { return takeDescriptorNumber(pid, 0) }

func takeDescriptorNumber(pid, number int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	got, err := unix.PidfdGetfd(fd, number, 0)
	if err == nil {
		err = unix.Close(got)
	}
	return err
}
