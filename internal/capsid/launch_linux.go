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
	"syscall"
	"time"

	"cell.network/cell/internal/capsid/stage"
	"golang.org/x/sys/unix"
)

// killGrace is how long a keeper may take to end its program's tree.
const killGrace = 3 * time.Second

// launch runs the stage, gives it its order and hears how it went.
func (c *Capsid) launch(ctx context.Context, p *proc, l launch) error {
	control, far, err := controlPair()
	if err != nil {
		return err
	}
	defer far.Close()
	sandbox := l.order.Sandbox != nil
	p.cmd = stageCommand(p.out, l, far)
	c.thread.do(func() { err = l.group.start(p.cmd) })
	if err != nil {
		control.Close()
		return fmt.Errorf("run sandbox stage: %w", err)
	}
	far.Close()

	// From here on there is a process, and watch is what waits for it.
	heard := json.NewDecoder(io.LimitReader(control, stage.MaxReports))
	p.status = func() (syscall.WaitStatus, error) {
		defer control.Close()
		status, err := endStatus(control, heard)
		if err != nil && sandbox { // with process 1 all the others were killed
			return p.commandStatus()
		}
		return status, err
	}
	direct := func() error { // in a sandbox the stage is process 1, hence all end
		defer l.group.kill()
		if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("kill program: %w", err)
		}
		return nil
	}
	p.terminate = func() error { return request(control, syscall.SIGTERM) }
	p.kill = direct
	if !sandbox {
		p.kill = func() error { return killKept(control, p.done, direct) }
	}
	if !l.order.Probe { // while the stage comes into being
		var forget func()
		if forget, err = c.remember(p.PID(), l.program, !sandbox, l.group.folders()); err == nil {
			p.after = append(p.after, forget)
		}
	}
	if err == nil {
		err = give(ctx, control, l.order, heard)
	}
	go p.watch()
	if err != nil {
		_ = direct()
		<-p.done
		if ended := p.err; errors.Is(err, errNoReport) && ended != nil {
			err = fmt.Errorf("%w: %w", err, ended)
		}
	}
	return err
}

// stageCommand is this executable, run again as a stage.
func stageCommand(out io.Writer, l launch, control *os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{stage.Name}
	cmd.Env = []string{"GOMAXPROCS=2", "GOGC=off", "GODEBUG=containermaxprocs=0"} // it has next to nothing to do
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = append([]*os.File{l.link, control}, l.mounts...)
	cmd.WaitDelay = outputGrace
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if l.order.Sandbox == nil { // a keeper learns of the node's end from its control connection
		return cmd
	}
	a := cmd.SysProcAttr
	a.Pdeathsig = syscall.SIGKILL
	a.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	uid, gid := os.Geteuid(), os.Getegid()
	if l.uid != uid {
		uid, gid = l.uid, l.uid
		a.GidMappingsEnableSetgroups = true // so that root's groups can be given up
		a.Credential = &syscall.Credential{}
	}
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	return cmd
}

// controlPair makes the connection between node and stage.
func controlPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make control connection: %w", err)
	}
	// The stage's end blocks: it has nothing else to do.
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
var errNoReport = errors.New("the sandbox stage ended without a report")

// give sends the order and waits until the program runs.
func give(ctx context.Context, control *net.UnixConn, o stage.Order, heard *json.Decoder) error {
	defer context.AfterFunc(ctx, func() { _ = control.SetDeadline(time.Now()) })()
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, _ = control.Write(append(b, '\n')) // where this fails the stage has ended, and may have said why
	var r stage.Report
	err = heard.Decode(&r)
	switch {
	case err == nil && r.Error != "":
		return errors.New(r.Error)
	case err == nil && r.Ready:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("it did not come into being in time: %w", context.Cause(ctx))
	}
	return errNoReport
}

// killKept tells the keeper to end the tree, and kills the keeper itself if it
// takes too long.
func killKept(control *net.UnixConn, done chan struct{}, direct func() error) error {
	_ = control.CloseWrite()
	time.AfterFunc(killGrace, func() {
		select {
		case <-done:
		default:
			_ = direct()
		}
	})
	return nil
}

// request has the stage send a signal to the program.
func request(control *net.UnixConn, signal syscall.Signal) error {
	b, err := json.Marshal(stage.Request{Signal: int(signal)})
	if err != nil {
		return err
	}
	if _, err := control.Write(append(b, '\n')); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("signal program: %w", err)
	}
	return nil
}

// endStatus reads the stage's last report, which holds the program's status.
func endStatus(control *net.UnixConn, heard *json.Decoder) (syscall.WaitStatus, error) {
	_ = control.SetReadDeadline(time.Now().Add(outputGrace)) // the stage has ended: what it said is here
	var r stage.Report
	if err := heard.Decode(&r); err != nil || !r.Ended {
		return 0, errors.New("its keeper was killed")
	}
	return syscall.WaitStatus(r.Status), nil
}
