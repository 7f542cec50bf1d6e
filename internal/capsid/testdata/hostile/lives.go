package main

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"time"
)

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
