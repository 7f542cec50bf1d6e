package capsid

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"cell.network/cell/internal/membrane"
	"golang.org/x/sys/unix"
)

// system is what a Capsid has on this system.
type system struct{}

// Probe says what this system has.
func (c *Capsid) Probe() Support {
	return Support{Sandbox: "there is none on this system", Rung: RungNone, Missing: []string{
		"namespaces, control groups, Landlock and a filter of system calls: this system has none",
	}}
}

// start runs the program in a process group of its own. s.Limits is not used:
// nothing here can set the limits of another process.
func (c *Capsid) start(ctx context.Context, s Spec) (*proc, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	link, end, err := membrane.NewLink()
	if err != nil {
		return nil, err
	}
	defer end.Close()
	p := &proc{link: link, out: newOutput(s.Log), done: make(chan struct{}), rung: RungNone, limits: s.Limits}
	p.enforced = []string{"ends with its process group"}
	p.notEnforced = []string{
		"there is no sandbox on this system",
		"processes that leave the group, or outlive a node that was killed, do not end",
		"the folder of its data is not bounded",
		"files, network, processes, CPU and memory are those of the node's user, without limits",
	}
	p.cmd = exec.Command(s.Path, s.Args...)
	p.cmd.Env = append([]string{}, s.Env...)
	p.cmd.Dir = "/"
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, end)
	p.cmd.WaitDelay = outputGrace
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.status = p.commandStatus
	p.terminate = func() error {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("ask program to end: %w", err)
		}
		return nil
	}
	p.kill = func() error {
		if err := syscall.Kill(-p.PID(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill program: %w", err)
		}
		return nil
	}
	c.thread.do(func() { err = p.cmd.Start() })
	if err != nil {
		link.Close()
		return nil, err
	}
	forget, err := c.remember(p.PID(), s.Path, false, nil)
	if err == nil {
		p.after = append(p.after, forget)
	}
	go p.watch()
	if err != nil {
		_ = p.Kill()
		<-p.done
		link.Close()
		return nil, err
	}
	return p, nil
}

// identify says which process has a number now.
func identify(pid int) (process, error) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return process{}, fmt.Errorf("read state of process %d: %w", pid, err)
	}
	if int(info.Proc.P_pid) != pid {
		return process{}, syscall.ESRCH
	}
	boot, err := unix.SysctlTimeval("kern.boottime")
	if err != nil {
		return process{}, fmt.Errorf("read boot time: %w", err)
	}
	t := info.Proc.P_starttime
	return process{PID: pid, Start: uint64(t.Sec)*1_000_000 + uint64(t.Usec), Boot: strconv.FormatInt(boot.Sec, 10)}, nil
}

// end ends the group of a recorded process if that is still the one on record,
// and waits for its end. was reports whether it was.
func end(r running) (was bool, err error) {
	if now, err := identify(r.PID); r.PID <= 1 || err != nil || now != r.process {
		return false, nil //nolint:nilerr // it has ended
	}
	if err := syscall.Kill(-r.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return true, fmt.Errorf("kill process %d: %w", r.PID, err)
	}
	for deadline := time.Now().Add(reapGrace); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if now, err := identify(r.PID); err != nil || now != r.process {
			return true, nil //nolint:nilerr // it has ended
		}
	}
	return true, fmt.Errorf("process %d does not end", r.PID)
}
