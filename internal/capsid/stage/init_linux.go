package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"
)

func init() {
	if len(os.Args) != 1 || os.Args[0] != Name {
		return
	}
	runtime.LockOSThread() // capabilities, Landlock and the parent's death belong to one thread
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "cell: error:", err)
		syscall.Exit(1)
	}
	syscall.Exit(0) // os.Exit would run hooks of the node's, such as the race detector's
}

func run() error {
	for _, fd := range []int{FDLink, FDControl} {
		if _, _, e := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0); e != 0 {
			return errors.New("this process is a part of cell that is not started by hand")
		}
	}
	if err := keepDescriptors(); err != nil {
		return fmt.Errorf("close descriptors: %w", err)
	}
	control := os.NewFile(FDControl, "control")
	heard := json.NewDecoder(io.LimitReader(control, MaxOrder))
	var o Order
	if err := heard.Decode(&o); err != nil {
		return fmt.Errorf("read order: %w", err)
	}
	if err := obey(o, control, heard); err != nil {
		// Said to the node, which says it to the user: not printed as well.
		_ = json.NewEncoder(control).Encode(Report{Error: err.Error()})
	}
	return nil
}

// obey returns when all has ended, or why there is no program.
func obey(o Order, control *os.File, heard *json.Decoder) error {
	// Nor the keys of the session that the node was started in. Where this is
	// refused, the program's own attempts at keys are refused as well.
	_, _, _ = syscall.RawSyscall(syscall.SYS_KEYCTL, keyctlJoinSession, 0, 0)
	k := &keeper{order: o, reports: json.NewEncoder(control), heard: heard, started: make(chan struct{}), done: make(chan error)}
	listening := k.listen() // on other processors, while this one makes the file tree
	expose := sacrifice()
	if o.Sandbox != nil {
		// The thread that this runs on need not be the one that the node made.
		// A keeper must outlive its node, to end the program.
		if err := prctl(prSetPdeathsig, uintptr(syscall.SIGKILL)); err != nil {
			return fmt.Errorf("tie to the node's life: %w", err)
		}
		if err := enter(o); err != nil {
			return err
		}
	} else if err := prctl(prSetChildSubreaper, 1); err != nil {
		return fmt.Errorf("adopt orphans: %w", err)
	}
	listening.Wait()
	for _, l := range o.Rlimits {
		if err := syscall.Setrlimit(l.Resource, &syscall.Rlimit{Cur: l.N, Max: l.N}); err != nil {
			return fmt.Errorf("limit %s to %d: %w", l.What, l.N, err)
		}
	}
	if err := o.Guards.raise(o.Sandbox != nil); err != nil {
		return err
	}
	if o.Probe {
		return k.reports.Encode(Report{Ready: true})
	}
	if err := k.start(); err != nil {
		return err
	}
	expose()
	return <-k.done
}

// sacrifice makes this process the first that the kernel ends where memory runs
// out, for the program to inherit; the function it returns takes that back.
func sacrifice() func() {
	f, err := os.OpenFile("/proc/self/oom_score_adj", os.O_RDWR, 0)
	if err != nil {
		return func() {}
	}
	var own [16]byte
	n, _ := f.Read(own[:])
	_, _ = f.WriteAt([]byte("900"), 0)
	return func() {
		_, _ = f.WriteAt(own[:n], 0)
		_ = f.Close()
	}
}

// keepDescriptors lets the program have none but 0, 1, 2 and FDLink. Whoever
// started the node may have left others open in it: one of a folder would lead
// out of any sandbox.
func keepDescriptors() error {
	if _, _, e := syscall.RawSyscall(sysCloseRange, FDLink+1, 1<<31-1, closeRangeCloexec); e == 0 {
		return nil
	}
	open, err := os.ReadDir("/proc/self/fd") // a kernel before 5.11
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > FDLink {
			syscall.CloseOnExec(fd)
		}
	}
	return err
}
