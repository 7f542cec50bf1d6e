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
	rung        Rung
	limits      Limits
	kill        func() error // system dependent, as is the rest; called once
	terminate   func() error
	status      func() (syscall.WaitStatus, error)
	outOfMemory func() bool // nil: not known
	after       []func()    // once it has ended

	mu     sync.Mutex
	reason string // why it was ended, guarded by mu

	killOnce sync.Once
	killErr  error

	done chan struct{} // closed after err is set
	err  error
}

func (p *proc) Link() membrane.Link   { return p.link }
func (p *proc) PID() int              { return p.cmd.Process.Pid }
func (p *proc) Enforced() []string    { return p.enforced }
func (p *proc) NotEnforced() []string { return p.notEnforced }
func (p *proc) Rung() Rung            { return p.rung }
func (p *proc) Terminate() error      { return p.terminate() }

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

// condemn kills the program for a reason that Wait then gives.
func (p *proc) condemn(reason string) {
	p.mu.Lock()
	if p.reason == "" {
		p.reason = reason
	}
	p.mu.Unlock()
	_ = p.Kill()
}

// finish lets go of what only a running program needs.
func (p *proc) finish() {
	for i := len(p.after) - 1; i >= 0; i-- {
		p.after[i]()
	}
	p.after = nil
}

// watch waits for the end. It is the only caller of cmd.Wait.
func (p *proc) watch() {
	err := p.cmd.Wait()
	if _, isStatus := errors.AsType[*exec.ExitError](err); isStatus || errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the status says it better; escaped holders of the output are in NotEnforced
	}
	status, statusErr := p.status()
	p.out.flushNote()
	if p.outOfMemory != nil && p.outOfMemory() {
		p.condemn("it used more than its " + bytesText(p.limits.Memory) + " of memory")
	}
	p.finish()
	switch {
	case err != nil:
		p.err = fmt.Errorf("wait for program: %w", err)
	case statusErr != nil:
		p.err = statusErr
	default:
		p.err = statusError(status)
	}
	p.mu.Lock()
	if p.reason != "" && p.err != nil {
		p.err = fmt.Errorf("%w: %s", p.err, p.reason)
	}
	p.mu.Unlock()
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
