package capsid

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rootSize bounds what the sandbox's root holds beside /tmp: a few folders.
const rootSize = "size=64k,nr_inodes=64,mode=755"

// programName is argument 0 of a program in its sandbox.
const programName = "/cell"

// sandboxEnforced says what becomeProgram brings about.
func sandboxEnforced(l Limits) (yes, no []string) {
	yes = []string{
		"sees no files but its own: empty root, /tmp of " + bytesText(l.Scratch) + ", /proc, /dev/null, /dev/zero, /dev/urandom",
		"has no network",
		"sees and signals no other processes",
		"has no capabilities and cannot gain any",
		"ends as a whole, and with its node",
		fmt.Sprintf("at most %d processes and threads", l.Procs),
		fmt.Sprintf("at most %d open descriptors in each process", l.Files),
	}
	no = []string{
		"system calls are not filtered",
		"share of CPU is not limited",
	}
	if l.Memory > 0 {
		yes = append(yes, memoryText(l.Memory))
		no = append(no, "memory of all its processes together is not limited")
	} else {
		no = append(no, "memory is not limited")
	}
	return yes, no
}

// becomeProgram turns this process, the first in fresh namespaces, into the
// program. It returns only on failure, or after a probe.
func becomeProgram(o order, control *os.File) error {
	// The thread that main runs on need not be the one that the node made.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("tie to the node's life: %w", err)
	}
	if hungUp(control) { // the node died before the line above
		return errors.New("the node is gone")
	}
	// No namespaces within this one: they are the usual way to the kernel's
	// weak spots. Where the file is read-only, as in containers, so be it.
	_ = os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0)
	// Nor the keys of the session that the node was started in. Where this is
	// refused, the program's own attempts at keys are refused as well.
	_, _ = unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
	if err := ownRoot(o); err != nil {
		return err
	}
	_ = unix.Sethostname([]byte("cell"))
	if err := limit(o.Limits, true); err != nil {
		return err
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	if err := json.NewEncoder(control).Encode(report{Ready: true}); err != nil || o.Probe {
		return err
	}
	return execute(fdProgram, append([]string{programName}, o.Args...), o.Env, o.Limits.Memory)
}

func hungUp(control *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(control.Fd())}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1 && fds[0].Revents&unix.POLLHUP != 0
}

// ownRoot replaces the whole file tree.
func ownRoot(o order) error {
	const base = "/tmp" // any folder: what is put over it is seen by nobody else
	steps := []struct {
		what string
		do   func() error
	}{
		{"make mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"make program read-only", func() error { return lockProgram(o) }},
		{"mount root", func() error { return unix.Mount("cell", base, "tmpfs", unix.MS_NOSUID, rootSize) }},
		{"make folders", func() error {
			return errors.Join(os.Mkdir(base+"/tmp", 0o755), os.Mkdir(base+"/proc", 0o755), os.Mkdir(base+"/dev", 0o755))
		}},
		{"mount devices", func() error { return errors.Join(device(base, "null"), device(base, "zero"), device(base, "urandom")) }},
		{"mount /tmp", func() error {
			return unix.Mount("cell", base+"/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d,mode=1777", o.Limits.Scratch))
		}},
		{"mount /proc", func() error {
			// Only processes, not the machine. In a container it may be refused; programs live without.
			_ = unix.Mount("proc", base+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "subset=pid")
			return nil
		}},
		{"enter root", func() error { return unix.Chdir(base) }},
		{"change root", func() error { return unix.PivotRoot(".", ".") }}, // the old root now lies over the new one
		{"leave old root", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
		{"enter new root", func() error { return unix.Chdir("/") }},
		{"make root read-only", func() error {
			return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID, "")
		}},
		{"enter /tmp", func() error { return unix.Chdir("/tmp") }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return nil
}

// device puts a device of the machine into a root, since none can be made here.
func device(base, name string) error {
	at := base + "/dev/" + name
	f, err := os.Create(at)
	if err != nil {
		return err
	}
	f.Close()
	return unix.Mount("/dev/"+name, at, "", unix.MS_BIND, "")
}

// lockProgram puts a descriptor of a read-only mount in the place of the
// program's. A program that belongs to the sandbox's user could otherwise
// write over itself by way of /proc/self/exe, in the node's cache.
func lockProgram(o order) error {
	var given, found unix.Stat_t
	if err := unix.Fstat(fdProgram, &given); err != nil {
		return err
	}
	if o.Probe || int(given.Uid) != os.Getuid() { // to write it, or to change its mode, takes the owner
		return nil
	}
	if err := unix.Mount(o.Path, o.Path, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(o.Path, &fs); err != nil {
		return err
	}
	kept := uintptr(fs.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC) // what may not be taken off
	if err := unix.Mount("", o.Path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|kept, ""); err != nil {
		return err
	}
	fd, err := unix.Open(o.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &found); err != nil {
		return err
	}
	if found.Dev != given.Dev || found.Ino != given.Ino {
		return errors.New("it was replaced just now")
	}
	return unix.Dup3(fd, fdProgram, unix.O_CLOEXEC)
}

// dropCapabilities gives up all of root's powers for good.
func dropCapabilities() error {
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) { // past the last one that the kernel knows
			break
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	return nil
}

// execute becomes the program behind a descriptor, which needs no path in the
// new root. It returns only on failure.
func execute(fd int, argv, env []string, memory int64) error {
	args, err := syscall.SlicePtrFromStrings(argv)
	if err != nil {
		return errors.New("an argument holds a zero byte")
	}
	vars, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return errors.New("an environment variable holds a zero byte")
	}
	empty := []byte{0}
	if memory > 0 { // now, because from here on it binds this process as well
		if err := unix.Setrlimit(unix.RLIMIT_DATA, memoryLimit(memory)); err != nil {
			return fmt.Errorf("limit memory: %w", err)
		}
	}
	for try := 0; ; try++ {
		_, _, e := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&empty[0])),
			uintptr(unsafe.Pointer(&args[0])), uintptr(unsafe.Pointer(&vars[0])), unix.AT_EMPTY_PATH, 0)
		// The kernel refuses for a moment while the runtime starts a thread, or
		// while a file is still open for writing in a process about to exec.
		if (e != unix.EAGAIN && e != unix.ETXTBSY) || try == 20 {
			return explain(fd, e)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// explain says what the kernel's answer to exec means in a sandbox.
func explain(fd int, e syscall.Errno) error {
	switch e {
	case unix.ENOENT: // the file is open: what is missing is what it names as its interpreter
		var head [2]byte
		if n, _ := unix.Pread(fd, head[:], 0); n == 2 && string(head[:]) == "#!" {
			return errors.New("it is a script, and there is no interpreter in the sandbox")
		}
		return errors.New("it is dynamically linked, and there are no libraries in the sandbox (build it with CGO_ENABLED=0)")
	case unix.ENOEXEC:
		return fmt.Errorf("it is not a program for %s/%s", runtime.GOOS, runtime.GOARCH)
	case unix.EACCES:
		return errors.New("it may not be executed by the sandbox's user, or lies where nothing may (run: chmod o+rx)")
	}
	return fmt.Errorf("execute: %w", e)
}
