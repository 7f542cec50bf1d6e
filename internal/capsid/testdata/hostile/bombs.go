package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The first argument of a bomb is its size, in pieces or MiB; the second, where
// it takes one, a folder.
var bombs = map[string]attack{
	"fork": func(a []string) error {
		var made []*exec.Cmd
		defer func() {
			for _, c := range made {
				_ = c.Process.Kill()
				_ = c.Wait()
			}
		}()
		for range number(a, 0) {
			c := again(false, "leaf")
			c.Stdout, c.Stderr = nil, nil
			c.Env = []string{"GOMAXPROCS=1"}
			if err := c.Start(); err != nil {
				return fmt.Errorf("after %d: %w", len(made), err)
			}
			made = append(made, c)
		}
		return nil
	},
	"memory":        func(a []string) error { return fill(number(a, 0), unix.MAP_PRIVATE) },
	"memory-shared": func(a []string) error { return fill(number(a, 0), unix.MAP_SHARED) },
	"memory-spread": func(a []string) error { // over processes, each of which stays small
		n := number(a, 0)
		var made []*exec.Cmd
		defer func() {
			for _, c := range made {
				_ = c.Process.Kill()
				_ = c.Wait()
			}
		}()
		for range 4 {
			c := again(false, "memory-held", itoa(n/4))
			c.Stdout, c.Stderr = nil, nil
			out, err := c.StdoutPipe()
			if err != nil {
				return err
			}
			if err := c.Start(); err != nil {
				return err
			}
			made = append(made, c)
			if _, err := out.Read(make([]byte, 2)); err != nil {
				return err
			}
		}
		for _, c := range made {
			if pid, _ := syscall.Wait4(c.Process.Pid, nil, syscall.WNOHANG, nil); pid != 0 {
				return errNothing // one had to go for the next
			}
		}
		return nil
	},
	"memory-held": func(a []string) error {
		if err := fill(number(a, 0), unix.MAP_PRIVATE); err != nil {
			return err
		}
		os.Stdout.WriteString("up\n")
		time.Sleep(20 * time.Second)
		return nil
	},
	"memory-file": func(a []string) error {
		fd, err := unix.MemfdCreate("bomb", 0)
		if err != nil {
			return err
		}
		return pour(os.NewFile(uintptr(fd), "bomb"), number(a, 0))
	},
	"disk": func(a []string) error {
		f, err := os.Create(a[1] + "/bomb")
		if err != nil {
			return err
		}
		defer os.Remove(f.Name())
		return pour(f, number(a, 0))
	},
	"disk-linger": func(a []string) error { // whoever looks each second has to see it
		f, err := os.Create(a[1] + "/bomb")
		if err != nil {
			return err
		}
		if err := pour(f, number(a, 0)); err != nil {
			return err
		}
		os.Stdout.WriteString("poured\n")
		time.Sleep(20 * time.Second)
		return nil
	},
	"small-files": func(a []string) error {
		for i := range number(a, 0) {
			name := a[1] + "/small" + itoa(i)
			if err := os.WriteFile(name, nil, 0o600); err != nil {
				return fmt.Errorf("after %d: %w", i, err)
			}
			defer os.Remove(name)
		}
		return nil
	},
	"descriptors": func(a []string) error {
		var l syscall.Rlimit
		_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
		l.Cur = l.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
		for i := range number(a, 0) {
			if _, err := unix.Dup(1); err != nil {
				return fmt.Errorf("after %d: %w", i, err)
			}
		}
		return nil
	},
	"inotify": func(a []string) error {
		for i := range number(a, 0) {
			if _, err := unix.InotifyInit1(0); err != nil {
				return fmt.Errorf("after %d: %w", i, err)
			}
		}
		return nil
	},
	"lock-memory": func(a []string) error {
		b, err := unix.Mmap(-1, 0, number(a, 0)<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		return unix.Mlock(b)
	},
	"priority": func([]string) error { return syscall.Setpriority(syscall.PRIO_PROCESS, 0, -20) },
	"realtime": func([]string) error {
		return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
	},
	"cpu": func(a []string) error { // in hundredths of a second, and for two seconds at most
		end := time.Now().Add(2 * time.Second)
		var u syscall.Rusage
		for time.Now().Before(end) {
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
			if used := time.Duration(u.Utime.Nano() + u.Stime.Nano()); used >= time.Duration(number(a, 0))*10*time.Millisecond {
				return nil
			}
		}
		return fmt.Errorf("used %d ms", (u.Utime.Nano()+u.Stime.Nano())/1e6)
	},
}

// fill touches n MiB that the kernel has to find.
func fill(n, kind int) error {
	b, err := unix.Mmap(-1, 0, n<<20, unix.PROT_READ|unix.PROT_WRITE, kind|unix.MAP_ANON)
	if err != nil {
		return err
	}
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	return nil
}

// pour writes n MiB.
func pour(f *os.File, n int) error {
	b := make([]byte, 1<<20)
	b[0] = 1
	for i := range n {
		if _, err := f.Write(b); err != nil {
			return fmt.Errorf("after %d MiB: %w", i, err)
		}
	}
	return nil
}
