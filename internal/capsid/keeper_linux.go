package capsid

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

func keeperEnforced(l Limits) []string {
	yes := []string{
		"ends as a whole, and with its node",
		fmt.Sprintf("at most %d open descriptors in each process", l.Files),
	}
	if l.Memory > 0 {
		yes = append(yes, memoryText(l.Memory))
	}
	return yes
}

func keeperNotEnforced(why string) []string {
	return []string{
		why,
		"reads and writes every file that the node may",
		"uses the network as the node may",
		"sees and signals the processes of the node's user, its keeper and the node among them",
		"number of processes, share of CPU and memory of all its processes together are not limited",
	}
}

// keep starts the program as a child and sees to it that its whole tree ends:
// when the program does, when the node says so by closing its end of the
// connection, and when the node dies, which closes it too. Processes that lose
// their parent, however hard they tried to, become children of the keeper.
func keep(o order, control *os.File) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("adopt orphans: %w", err)
	}
	if err := limit(o.Limits, false); err != nil {
		return err
	}
	var ending atomic.Bool
	end := func() {
		ending.Store(true)
		killChildren()
	}
	// Asked to end before the program is there, it must not stay.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	pid, err := syscall.ForkExec(o.Path, append([]string{o.Path}, o.Args...), &syscall.ProcAttr{
		Dir:   "/",
		Env:   o.Env,
		Files: []uintptr{0, 1, 2, fdLink},
		Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return explainKept(o.Path, err)
	}
	unix.Close(fdLink) // or the node would never see the program's end of it close
	if o.Limits.Memory > 0 {
		_ = unix.Prlimit(pid, unix.RLIMIT_DATA, memoryLimit(o.Limits.Memory), nil)
	}
	reports := json.NewEncoder(control)
	_ = reports.Encode(report{Ready: true})
	go func() { <-signals; end() }()
	go func() { _, _ = io.Copy(io.Discard, control); end() }()

	var status syscall.WaitStatus
	for {
		var s syscall.WaitStatus
		child, err := syscall.Wait4(-1, &s, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.ECHILD): // the tree is gone
			return reports.Encode(report{Ended: true, Status: int(status)})
		case err != nil:
			return fmt.Errorf("wait for program: %w", err)
		case child == pid:
			status = s
			ending.Store(true)
		}
		if ending.Load() { // its children have just become ours
			killChildren()
		}
	}
}

// killChildren kills whoever is a child of this process now. Their children
// become ours when they have ended: the caller comes again then.
func killChildren() {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, e := range all {
		var pid int
		if n, _ := fmt.Sscanf(e.Name(), "%d", &pid); n != 1 {
			continue
		}
		if st, err := readStat(pid); err == nil && st.parent == os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// explainKept says what the kernel's answer to exec means outside of a sandbox.
func explainKept(path string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT):
		return errors.New("the interpreter or loader that it names is not on this machine")
	case errors.Is(err, syscall.ENOEXEC):
		return explain(fdProgram, syscall.ENOEXEC)
	case errors.Is(err, syscall.EACCES):
		return errors.New("it may not be executed by this user, or lies where nothing may")
	}
	return fmt.Errorf("execute: %w", err)
}

// stat is what the kernel says about a process.
type stat struct {
	parent int
	start  uint64 // clock ticks since boot
	zombie bool
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The second field is the program's name in parentheses, with anything in it.
	_, rest, ok := strings.Cut(string(b[max(0, strings.LastIndexByte(string(b), ')')):]), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return stat{}, fmt.Errorf("read state of process %d: unknown form", pid)
	}
	var s stat
	s.zombie = f[0] == "Z" || f[0] == "X"
	_, err1 := fmt.Sscan(f[1], &s.parent)
	_, err2 := fmt.Sscan(f[19], &s.start)
	return s, errors.Join(err1, err2)
}
