package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var files = map[string]attack{
	"read-host":  func(a []string) error { return read(a[0]) },
	"write-host": func(a []string) error { return os.WriteFile(a[0]+"/evil", []byte("evil"), 0o666) },
	"make-folder": func(a []string) error {
		return os.Mkdir(a[0]+"/evil.d", 0o777)
	},
	"delete-host": func(a []string) error { return os.Remove(a[0]) },
	"change-mode": func(a []string) error { return os.Chmod(a[0], 0o777) },
	"list-host": func(a []string) error {
		all, err := os.ReadDir("/")
		if err == nil && len(all) < 8 {
			err = errNothing
		}
		return err
	},
	"read-by-symlink": func(a []string) error {
		at := a[1] + "/link"
		_ = os.Remove(at)
		if err := os.Symlink(a[0], at); err != nil {
			return err
		}
		return read(at)
	},
	"read-by-proc-root": func(a []string) error {
		err := read("/proc/1/root" + a[0])
		for _, p := range []string{"/proc/self/root", "/proc/self/cwd/../../../../../.."} {
			if err != nil {
				err = read(p + a[0])
			}
		}
		return err
	},
	"read-by-descriptor": func(a []string) error { // one that was left open by whoever came before
		for fd := 3; fd < 256; fd++ {
			f, err := unix.Openat(fd, strings.TrimPrefix(a[0], "/"), unix.O_RDONLY, 0)
			if err == nil {
				return unix.Close(f)
			}
		}
		return read(a[0])
	},
	"chroot-out": func(a []string) error {
		dir, err := os.Open("/")
		if err != nil {
			return err
		}
		if err := os.MkdirAll(a[1]+"/jail", 0o777); err != nil {
			return err
		}
		if err := syscall.Chroot(a[1] + "/jail"); err != nil { // the way out of a chroot leads through a second one
			c := again(true, "chroot")
			c.Stdout = nil
			if c.Run() != nil {
				return err
			}
			return nil
		}
		if err := dir.Chdir(); err != nil {
			return err
		}
		return read(strings.TrimPrefix(a[0], "/"))
	},
	"chroot":         powerful("chroot", func([]string) error { return syscall.Chroot("/") }),
	"overwrite-self": overwriteSelf,
	"core-dump":      coreDump,
	"crash": func(a []string) error {
		var l syscall.Rlimit
		_ = syscall.Getrlimit(syscall.RLIMIT_CORE, &l)
		l.Cur = l.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &l)
		debug.SetTraceback("crash")
		var p *int
		*p = 1
		return nil
	},
	"make-device": func(a []string) error {
		return syscall.Mknod(a[1]+"/memory", syscall.S_IFCHR|0o666, 1<<8|1)
	},
	"write-proc": func([]string) error { // who is ended first where memory runs out
		return os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)
	},
}

func read(path string) error {
	_, err := os.ReadFile(path)
	return err
}

// overwriteSelf writes over the program's file by way of a copy that runs.
func overwriteSelf(a []string) error {
	if len(a) > 2 { // this is the copy, and descriptor 9 the file
		if err := os.NewFile(9, "program").Chmod(0o777); err != nil {
			return err
		}
		f, err := os.OpenFile("/proc/self/fd/9", os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.Write([]byte("evil"))
		return err
	}
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := unix.Dup3(int(program.Fd()), 9, 0); err != nil {
		return err
	}
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := os.WriteFile(a[1]+"/copy", b, 0o755); err != nil {
		return err
	}
	return syscall.Exec(a[1]+"/copy", []string{"hostile", "overwrite-self", a[0], a[1], "copy"}, nil)
}

func coreDump(a []string) error {
	if err := os.Chdir(a[1]); err != nil {
		return err
	}
	c := again(false, "crash")
	c.Stdout, c.Stderr = nil, nil
	_ = c.Run()
	if found, _ := filepath.Glob("core*"); len(found) == 0 {
		return errNothing
	}
	return nil
}

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

// lives are attempts to stay, or to end what must stay.
var lives = map[string]attack{
	"ignore-terminate": func([]string) error {
		ignoreAll()
		println("ignoring")
		time.Sleep(20 * time.Second)
		return nil
	},
	"kill-keeper": func([]string) error { // alone it would end with exit status 3
		keeper := os.Getppid()
		for _, s := range []syscall.Signal{syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGPIPE, syscall.SIGSYS, syscall.SIGALRM, syscall.SIGKILL} {
			if err := syscall.Kill(keeper, s); err != nil {
				return err
			}
		}
		time.Sleep(100 * time.Millisecond)
		return errNothing
	},
	"stop-keeper": func([]string) error {
		keeper := os.Getppid()
		if err := syscall.Kill(keeper, syscall.SIGSTOP); err != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
		b, err := os.ReadFile("/proc/" + itoa(keeper) + "/stat")
		if err != nil {
			return err
		}
		defer func() { _ = syscall.Kill(keeper, syscall.SIGCONT) }()
		if !bytes.Contains(b, []byte(") T ")) {
			return errNothing
		}
		return nil
	},
	"own-keeper": func([]string) error { // its memory, and the node's connection
		keeper := itoa(os.Getppid())
		f, err := os.OpenFile("/proc/"+keeper+"/mem", os.O_RDWR, 0)
		if err == nil {
			return f.Close()
		}
		for fd := range 16 {
			if f, e := os.OpenFile("/proc/"+keeper+"/fd/"+itoa(fd), os.O_RDWR, 0); e == nil {
				return f.Close()
			}
			if takeDescriptorNumber(os.Getppid(), fd) == nil {
				return nil
			}
		}
		if e := trace(os.Getppid()); e == nil {
			return nil
		}
		return err
	},
	"become-other": func([]string) error {
		_, _, e := syscall.RawSyscall(syscall.SYS_SETUID, 12345, 0, 0)
		return errno(e)
	},
	"gain-powers": func([]string) error { // as the file of a program may give them: sudo, su, mount
		for _, p := range []string{"/usr/bin/su", "/bin/su", "/usr/bin/mount", "/bin/mount", "/usr/bin/passwd"} {
			if st, err := os.Stat(p); err == nil && st.Mode()&os.ModeSetuid != 0 {
				b, err := os.ReadFile("/proc/self/status")
				if err == nil && bytes.Contains(b, []byte("NoNewPrivs:\t1")) {
					err = errors.New("no new privileges")
				}
				return err
			}
		}
		return os.ErrNotExist
	},
}
