package main

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

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
