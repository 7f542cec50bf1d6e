package capsid

import (
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"cell.network/cell/internal/membrane"
)

// outputGrace is how long the output of an ended program may stay open in the
// hands of a process that escaped the end.
const outputGrace = 2 * time.Second

// proc is a program made of real processes.
type proc struct {
	cmd         *exec.Cmd
	link        membrane.Link
	out         *output
	enforced    []string
	notEnforced []string
	forget      func()       // drops the record for Reap
	kill        func() error // system dependent; called once
	status      func() (syscall.WaitStatus, error)

	killOnce sync.Once
	killErr  error

	done chan struct{} // closed after err is set
	err  error
}

func (p *proc) Link() membrane.Link   { return p.link }
func (p *proc) PID() int              { return p.cmd.Process.Pid }
func (p *proc) Enforced() []string    { return p.enforced }
func (p *proc) NotEnforced() []string { return p.notEnforced }

func (p *proc) Wait() error {
	<-p.done
	return p.err
}

func (p *proc) Kill() error {
	p.killOnce.Do(func() {
		select {
		case <-p.done:
		default:
			p.killErr = p.kill()
		}
	})
	return p.killErr
}

// watch waits for the end. It is the only caller of cmd.Wait.
func (p *proc) watch() {
	err := p.cmd.Wait()
	if _, isStatus := errors.AsType[*exec.ExitError](err); isStatus || errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the status says it better; escaped holders of the output are in NotEnforced
	}
	status, statusErr := p.status()
	p.out.flushNote()
	p.forget()
	switch {
	case err != nil:
		p.err = fmt.Errorf("wait for program: %w", err)
	case statusErr != nil:
		p.err = statusErr
	default:
		p.err = statusError(status)
	}
	close(p.done)
}

// statusError puts a wait status in words; nil for exit status 0.
func statusError(s syscall.WaitStatus) error {
	switch {
	case s.Signaled():
		return fmt.Errorf("signal: %s", s.Signal())
	case s.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", s.ExitStatus())
	}
	return nil
}

// commandStatus is how p's own process ended, once cmd.Wait has returned.
func (p *proc) commandStatus() (syscall.WaitStatus, error) {
	s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		return 0, errors.New("the system does not say how the program ended")
	}
	return s, nil
}
