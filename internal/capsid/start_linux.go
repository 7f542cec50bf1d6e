package capsid

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"cell.network/cell/internal/membrane"
	"golang.org/x/sys/unix"
)

// nobody is who a program is, outside of its sandbox, when the node is root.
// Mapped to the real root it could write what /proc/sys guards by owner alone,
// and its number of processes would not be limited.
const nobody = 65534

// killGrace is how long a keeper may take to end its program's tree.
const killGrace = 3 * time.Second

// start makes the program behind its stage: the sandbox where that is wanted
// and to be had, the keeper otherwise. s.Limits is complete.
func (c *Capsid) start(ctx context.Context, s Spec) (*proc, error) {
	o := order{Path: s.Path, Args: s.Args, Env: s.Env, Limits: s.Limits}
	p := &proc{out: newOutput(s.Log)}
	if s.Isolation == None {
		p.notEnforced = keeperNotEnforced("it was asked for without a sandbox")
	} else if err := c.probe(); err != nil {
		p.notEnforced = keeperNotEnforced("there is no sandbox here: " + err.Error())
	} else {
		o.Sandbox = true
		p.enforced, p.notEnforced = sandboxEnforced(s.Limits)
	}
	if !o.Sandbox {
		p.enforced = keeperEnforced(s.Limits)
	}
	link, end, err := membrane.NewLink()
	if err != nil {
		return nil, err
	}
	defer end.Close()
	p.link = link
	program, err := os.Open(s.Path)
	if err != nil {
		link.Close()
		return nil, errors.Unwrap(err)
	}
	defer program.Close()
	if err := c.launch(ctx, p, o, end, program); err != nil {
		link.Close()
		return nil, err
	}
	return p, nil
}

// launch runs the stage, gives it its order and hears how it went.
func (c *Capsid) launch(ctx context.Context, p *proc, o order, link, program *os.File) error {
	control, far, err := controlPair()
	if err != nil {
		return err
	}
	defer far.Close()
	p.cmd = stage(o.Sandbox, p.out, link, far, program)
	c.thread.do(func() { err = p.cmd.Start() })
	if err != nil {
		control.Close()
		return fmt.Errorf("run sandbox stage: %w", err)
	}
	far.Close()

	// From here on there is a process, and watch is what waits for it.
	p.done = make(chan struct{})
	p.forget = func() {}
	heard := json.NewDecoder(io.LimitReader(control, maxReports))
	if o.Sandbox {
		p.kill = p.killDirect
		p.status = func() (syscall.WaitStatus, error) { control.Close(); return p.commandStatus() }
	} else {
		p.kill = func() error { return p.killKept(control) }
		p.status = func() (syscall.WaitStatus, error) { defer control.Close(); return keptStatus(control, heard) }
	}
	err = give(ctx, control, o, heard)
	if err == nil {
		p.forget, err = c.remember(p.PID(), o.Path, !o.Sandbox)
	}
	go p.watch()
	if err != nil {
		_ = p.killDirect()
		<-p.done
		if ended := p.err; errors.Is(err, errNoReport) && ended != nil {
			err = fmt.Errorf("%w: %w", err, ended)
		}
	}
	return err
}

// stage is this executable, run again as the init stage of a program.
func stage(sandbox bool, out io.Writer, files ...*os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{stageName}
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = files
	cmd.WaitDelay = outputGrace
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !sandbox { // a keeper learns of the node's end from its control connection
		return cmd
	}
	a := cmd.SysProcAttr
	a.Pdeathsig = syscall.SIGKILL
	a.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 && mayBecome(nobody) {
		uid, gid = nobody, nobody
		a.GidMappingsEnableSetgroups = true // so that root's groups can be given up
		a.Credential = &syscall.Credential{}
	}
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	return cmd
}

// mayBecome reports whether uid exists in the user namespace of this process:
// in a container that maps one user only, it does not.
func mayBecome(uid int) bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		var inside, outside, size int64
		if n, _ := fmt.Sscan(line, &inside, &outside, &size); n == 3 && int64(uid) >= inside && int64(uid) < inside+size {
			return true
		}
	}
	return false
}

// controlPair makes the connection between node and stage.
func controlPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make control connection: %w", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer near.Close()
	conn, err := net.FileConn(near)
	if err != nil {
		far.Close()
		return nil, nil, fmt.Errorf("make control connection: %w", err)
	}
	return conn.(*net.UnixConn), far, nil
}

// errNoReport says that a stage ended without a word.
var errNoReport = errors.New("the sandbox stage ended without a report (does main call capsid.Init first?)")

// give sends the order and waits until the program runs.
func give(ctx context.Context, control *net.UnixConn, o order, heard *json.Decoder) error {
	defer context.AfterFunc(ctx, func() { _ = control.SetDeadline(time.Now()) })()
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, _ = control.Write(append(b, '\n')) // where this fails the stage has ended, and may have said why
	for ready := false; ; {
		var r report
		err := heard.Decode(&r)
		switch {
		case err == nil && r.Error != "":
			return errors.New(r.Error)
		case err == nil && r.Ready && !o.Sandbox:
			return nil
		case err == nil && r.Ready:
			ready = true // next, exec closes the stage's end of the connection, or fails
		case errors.Is(err, io.EOF) && ready:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("it did not come into being in time (does main call capsid.Init first?): %w", context.Cause(ctx))
		default:
			return errNoReport
		}
	}
}

// killDirect kills the stage's process: in a sandbox process 1, hence all.
func (p *proc) killDirect() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill program: %w", err)
	}
	return nil
}

// killKept tells the keeper to end the tree, and kills the keeper itself if it
// takes too long.
func (p *proc) killKept(control *net.UnixConn) error {
	_ = control.CloseWrite()
	time.AfterFunc(killGrace, func() {
		select {
		case <-p.done:
		default:
			_ = p.killDirect()
		}
	})
	return nil
}

// keptStatus reads the keeper's last report, which holds the program's status.
func keptStatus(control *net.UnixConn, heard *json.Decoder) (syscall.WaitStatus, error) {
	_ = control.SetReadDeadline(time.Now().Add(outputGrace)) // the keeper has ended: what it said is here
	var r report
	if err := heard.Decode(&r); err != nil || !r.Ended {
		return 0, errors.New("its keeper was killed")
	}
	return syscall.WaitStatus(r.Status), nil
}

// probe finds out once whether a sandbox is to be had: nil, or why not.
func (c *Capsid) probe() error {
	c.probeOnce.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		null, err := os.Open(os.DevNull)
		if err != nil {
			c.probed = err
			return
		}
		defer null.Close()
		p := &proc{out: newOutput(nil)}
		o := order{Sandbox: true, Probe: true, Limits: Limits{}.withDefaults()}
		if c.probed = c.launch(ctx, p, o, null, null); c.probed == nil {
			<-p.done
		}
	})
	return c.probed
}
