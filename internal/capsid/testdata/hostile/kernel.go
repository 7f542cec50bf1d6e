package main

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call makes a system call whose success does no harm and leaves nothing.
func call(number uintptr, args ...uintptr) error {
	args = append(args, 0, 0, 0, 0, 0, 0)
	fd, _, e := syscall.Syscall6(number, args[0], args[1], args[2], args[3], args[4], args[5])
	if e == 0 && fd > 2 && fd < 1024 {
		_ = unix.Close(int(fd))
	}
	return errno(e)
}

// reaches tells whether the kernel looks at the arguments, which are wrong.
func reaches(number uintptr, wrong ...uintptr) error {
	err := call(number, wrong...)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EACCES) {
		return err
	}
	return nil
}

func text(s string) uintptr {
	p, _ := syscall.BytePtrFromString(s)
	kept = append(kept, p)
	return uintptr(unsafe.Pointer(p))
}

var kept []*byte

const bad = ^uintptr(0)

var kernel = map[string]attack{
	"mount":     powerful("mount", func(a []string) error { return syscall.Mount("evil", a[0], "tmpfs", 0, "size=4k") }),
	"mount-new": powerful("mount-new", func([]string) error { return call(unix.SYS_FSOPEN, text("tmpfs"), 0) }),
	"open-tree": powerful("open-tree", func([]string) error {
		return call(unix.SYS_OPEN_TREE, ^uintptr(99), text("/"), unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
	}),
	"unmount":    func([]string) error { return reaches(unix.SYS_UMOUNT2, text("/nowhere"), 0) },
	"pivot-root": powerful("pivot-root", func([]string) error { return reaches(unix.SYS_PIVOT_ROOT, text("/nowhere"), text("/nowhere")) }),
	"user-namespace": func([]string) error {
		c := again(true, "nothing")
		c.Stdout = nil
		err := c.Start()
		if err == nil {
			_ = c.Wait()
		}
		return err
	},
	"unshare": func([]string) error { return call(unix.SYS_UNSHARE, unix.CLONE_FILES) },
	"enter-namespace": powerful("enter-namespace", func([]string) error {
		f, err := os.Open("/proc/self/ns/net")
		if err != nil {
			return err
		}
		runtime.LockOSThread()
		return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
	}),
	"clone3": func([]string) error { return reaches(unix.SYS_CLONE3, bad, 0) },
	"trace-child": func([]string) error {
		c := again(false, "leaf")
		c.Stdout = nil
		if err := c.Start(); err != nil {
			return err
		}
		defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
		return trace(c.Process.Pid)
	},
	"add-key": func([]string) error {
		_, err := unix.AddKey("user", "evil", []byte("evil"), unix.KEY_SPEC_PROCESS_KEYRING)
		return err
	},
	"keyring": func([]string) error {
		_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_PROCESS_KEYRING, true)
		return err
	},
	"bpf": func([]string) error {
		attr := [16]uint32{2, 4, 4, 1} // an array of one
		return call(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	},
	"userfaultfd": func([]string) error { return call(unix.SYS_USERFAULTFD, 1) }, // of user mode only, as anybody may
	"io-uring": func([]string) error {
		var params [30]uint32
		return call(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)))
	},
	"perf": func([]string) error {
		attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_TASK_CLOCK, Bits: unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv}
		attr.Size = uint32(unsafe.Sizeof(attr))
		fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, 0)
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	},
	"read-own-memory-by-call": func([]string) error {
		b, c := make([]byte, 8), make([]byte, 8)
		local := []unix.Iovec{{Base: &b[0]}}
		local[0].SetLen(len(b))
		_, err := unix.ProcessVMReadv(os.Getpid(), local, []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&c[0])), Len: len(c)}}, 0)
		return err
	},
	"handle":      func([]string) error { _, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/", 0); return err },
	"open-handle": func([]string) error { return reaches(unix.SYS_OPEN_BY_HANDLE_AT, bad, text("12345678"), 0) },
	"kcmp":        func([]string) error { return call(unix.SYS_KCMP, uintptr(os.Getpid()), uintptr(os.Getpid()), 1) },
	"personality": func([]string) error { return call(unix.SYS_PERSONALITY, 0x0040000) }, // no randomised addresses
	"fanotify": func([]string) error {
		return call(unix.SYS_FANOTIFY_INIT, unix.FAN_CLASS_NOTIF|unix.FAN_REPORT_FID, unix.O_RDONLY)
	},
	"kernel-log":  func([]string) error { return call(unix.SYS_SYSLOG, 10) },
	"load-module": func([]string) error { return reaches(unix.SYS_INIT_MODULE, bad, 0, bad) },
	"load-kernel": func([]string) error { return reaches(unix.SYS_KEXEC_LOAD, 0, 0, bad, bad) },
	"swap":        func([]string) error { return reaches(unix.SYS_SWAPON, text("/nowhere"), 0) },
	"quota":       func([]string) error { return reaches(unix.SYS_QUOTACTL, bad, text("/nowhere"), 0) },
	"set-clock":   func([]string) error { return reaches(unix.SYS_CLOCK_SETTIME, bad, 0) },
	"shared-memory": func([]string) error {
		id, _, e := syscall.Syscall(unix.SYS_SHMGET, 0, 1<<20, 0o600|unix.IPC_CREAT)
		if e == 0 {
			_, _, _ = syscall.Syscall(unix.SYS_SHMCTL, id, unix.IPC_RMID, 0)
		}
		return errno(e)
	},
	"message-queue": func([]string) error {
		name := text("evil" + itoa(os.Getpid()))
		err := call(unix.SYS_MQ_OPEN, name, unix.O_CREAT|unix.O_RDWR, 0o600, 0)
		_ = call(unix.SYS_MQ_UNLINK, name)
		return err
	},
	"secret-memory": func([]string) error { return call(unix.SYS_MEMFD_SECRET, 0) },
	"foreign-calls": func([]string) error { return foreign() },
	"future-call":   func([]string) error { return reaches(unix.SYS_FUTEX_REQUEUE + 1000) },
	"host-name": func([]string) error { // the one it has
		var u unix.Utsname
		_ = unix.Uname(&u)
		return unix.Sethostname([]byte(unix.ByteSliceToString(u.Nodename[:])))
	},
	"nothing": func([]string) error { return nil },
}
