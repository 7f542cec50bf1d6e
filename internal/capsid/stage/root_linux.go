package stage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"unsafe"
)

// rootSize bounds what the sandbox's root holds beside /tmp: a few folders.
const rootSize = "size=64k,nr_inodes=128,mode=755"

// quotas are per-user limits that the kernel keeps for a user namespace as
// well as for the user, whom other sandboxes may share. No namespaces within
// this one: they are the usual way to the kernel's weak spots.
var quotas = map[string]int{
	"max_user_namespaces":   0,
	"max_fanotify_groups":   0,
	"max_inotify_instances": InotifyInstances,
	"max_inotify_watches":   InotifyWatches,
}

// enter makes this process, the first in fresh namespaces, see nothing but the
// sandbox.
func enter(o Order) error {
	for name, n := range quotas {
		_ = os.WriteFile("/proc/sys/user/"+name, []byte(strconv.Itoa(n)), 0) // where the file is read-only, as in containers, so be it
	}
	_ = syscall.Sethostname([]byte("cell"))
	if o.Sandbox.Loopback {
		if err := raiseLoopback(); err != nil {
			return fmt.Errorf("make a network: %w", err)
		}
	}
	const base = "/tmp" // any folder: what is put over it is seen by nobody else
	s := o.Sandbox
	steps := []struct {
		what string
		do   func() error
	}{
		{"make mounts private", func() error { return syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "") }},
		{"open mounts", func() error { return open(s.Mounts) }}, // before any of them is hidden by the next step
		{"mount root", func() error { return syscall.Mount("cell", base, "tmpfs", syscall.MS_NOSUID, rootSize) }},
		{"make devices", func() error { return devices(base) }},
		{"mount /tmp", func() error { return scratch(base+"/tmp", s.Scratch) }},
		{"mount /cell/data", func() error { return scratch(base+"/cell/data", s.Data) }},
		{"mount /proc", func() error {
			if err := os.Mkdir(base+"/proc", 0o755); err != nil {
				return err
			}
			// Only processes, not the machine. In a container it may be refused; programs live without.
			_ = syscall.Mount("proc", base+"/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, "subset=pid")
			return nil
		}},
		{"place mounts", func() error { return place(base, s.Mounts) }},
		{"enter root", func() error { return syscall.Chdir(base) }},
		{"change root", func() error { return syscall.PivotRoot(".", ".") }}, // the old root now lies over the new one
		{"leave old root", func() error { return syscall.Unmount(".", syscall.MNT_DETACH) }},
		{"enter new root", func() error { return syscall.Chdir("/") }},
		{"make root read-only", func() error {
			return syscall.Mount("", "/", "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY|syscall.MS_NOSUID, "")
		}},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return nil
}

// scratch mounts memory as a folder for the program.
func scratch(at string, size int64) error {
	if err := os.MkdirAll(at, 0o755); err != nil || size <= 0 {
		return err
	}
	return syscall.Mount("cell", at, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, fmt.Sprintf("size=%d,nr_inodes=%d,mode=1777", size, 1024+size>>13))
}

// devices puts some of the machine's devices into a root, since none can be
// made here, and what else programs look for in /dev.
func devices(base string) error {
	if err := os.Mkdir(base+"/dev", 0o755); err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "urandom"} {
		at := base + "/dev/" + name
		f, err := os.Create(at)
		if err != nil {
			return err
		}
		_ = f.Close()
		if err := syscall.Mount("/dev/"+name, at, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for name, to := range map[string]string{
		"random": "urandom", "shm": "/tmp", "fd": "/proc/self/fd",
		"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(to, base+"/dev/"+name); err != nil {
			return err
		}
	}
	return nil
}

// open makes a detached mount of everything that is to be shown, with no more
// rights than it will have: a program could otherwise write over itself by way
// of /proc/self/exe, in the node's cache.
func open(mounts []Mount) error {
	for i := range mounts {
		m := &mounts[i]
		if m.FD == 0 {
			fd, err := pathCall(sysOpenTree, atFDCWD, m.From, openTreeClone|atRecursive|syscall.O_CLOEXEC)
			if err != nil {
				return explainMount(m.From, err)
			}
			m.FD = fd
		}
		var st syscall.Stat_t
		if err := syscall.Fstat(m.FD, &st); err != nil {
			return explainMount(m.From, err)
		}
		m.File = st.Mode&syscall.S_IFMT != syscall.S_IFDIR
		attr := [4]uint64{mountNOSUID | mountNODEV}
		if !m.Write {
			attr[0] |= mountRDONLY
		}
		if _, err := pathCall(sysMountSetattr, uintptr(m.FD), "", atEmptyPath|atRecursive, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)); err != nil {
			return explainMount(m.From, err)
		}
	}
	return nil
}

func place(base string, mounts []Mount) error {
	for _, m := range mounts {
		at := filepath.Join(base, m.To)
		err := os.MkdirAll(filepath.Dir(at), 0o755)
		if err == nil && m.File {
			err = os.WriteFile(at, nil, 0o644)
		} else if err == nil {
			err = os.MkdirAll(at, 0o755)
		}
		if err != nil {
			return err
		}
		to, err := syscall.BytePtrFromString(at)
		if err != nil {
			return err
		}
		if _, err := pathCall(sysMoveMount, uintptr(m.FD), "", atFDCWD, uintptr(unsafe.Pointer(to)), moveEmptyPath); err != nil {
			return fmt.Errorf("%s: %w", m.To, err)
		}
		_ = syscall.Close(m.FD)
	}
	return nil
}

func explainMount(what string, err error) error {
	if errors.Is(err, syscall.ENOSYS) {
		return errors.New("needs Linux 5.12 or newer")
	}
	return fmt.Errorf("%s: %w", what, err)
}

// raiseLoopback makes 127.0.0.1 reachable in a network that has nothing else.
func raiseLoopback() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	var request struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:], "lo")
	request.flags = syscall.IFF_UP | syscall.IFF_RUNNING
	if _, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); e != 0 {
		return e
	}
	return nil
}
