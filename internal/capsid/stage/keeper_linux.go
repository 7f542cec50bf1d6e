package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// execTries is how often an exec is tried that the kernel refuses for a moment.
const execTries = 20

// keeper starts the program as a child and sees to it that its whole tree ends:
// when the program does, when the node says so by closing its end of the
// connection, and when the node dies, which closes it too.
type keeper struct {
	order   Order
	reports *json.Encoder
	heard   *json.Decoder
	started chan struct{} // closed when the program runs
	done    chan error    // how the reaping went

	mu     sync.Mutex // guards pid and ending
	pid    int        // of the program; 0: not yet
	ending bool
}

// unharmed are signals that the Go runtime would die of and that process 1 of a
// sandbox, at their default, does not hear from inside.
var unharmed = []syscall.Signal{
	syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGSYS, syscall.SIGSTKFLT,
}

// listen begins to hear the node and signals, and to reap. Each goroutine has a
// thread of its own from the beginning: a program that makes as many processes
// as it may would leave none to be made later.
func (k *keeper) listen() *sync.WaitGroup {
	if k.order.Sandbox != nil {
		for _, s := range unharmed {
			setDefault(s)
		}
	}
	heard := make(chan os.Signal, 64)
	signal.Notify(heard, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	ready := new(sync.WaitGroup)
	for _, work := range []func(){
		func() {
			for s := range heard {
				if s == syscall.SIGTERM && k.order.Sandbox == nil { // so that a later node can end it
					k.end()
					continue
				}
				k.signal(s.(syscall.Signal))
			}
		},
		func() {
			for {
				var r Request
				if err := k.heard.Decode(&r); err != nil {
					k.end()
					return
				}
				k.signal(syscall.Signal(r.Signal))
			}
		},
		func() {
			<-k.started
			k.done <- k.reap()
		},
	} {
		ready.Add(1)
		go func() {
			runtime.LockOSThread()
			ready.Done()
			work()
		}()
	}
	return ready
}

func (k *keeper) signal(s syscall.Signal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pid > 0 {
		_ = syscall.Kill(k.pid, s)
	}
}

func (k *keeper) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ending = true
	if k.pid > 0 {
		k.killAll()
	}
}

// start makes the program, from the thread that all guards hold.
func (k *keeper) start() error {
	// What the program could otherwise read and write: this process's memory.
	if err := prctl(prSetDumpable, 0); err != nil {
		return fmt.Errorf("hide memory: %w", err)
	}
	o := k.order
	attr := &syscall.ProcAttr{Dir: o.Dir, Env: o.Env, Files: []uintptr{0, 1, 2, FDLink}, Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}}
	k.mu.Lock()
	defer k.mu.Unlock()
	var err error
	for try := 0; ; try++ {
		k.pid, err = syscall.ForkExec(o.Path, o.Args, attr)
		// The kernel refuses for a moment while a file is still open for
		// writing in a process about to exec.
		if (!errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.ETXTBSY)) || try == execTries {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		k.pid = 0
		return explain(o, err)
	}
	_ = syscall.Close(FDLink) // or the node would never see the program's end of it close
	close(k.started)
	if k.ending {
		k.killAll()
	}
	return k.reports.Encode(Report{Ready: true})
}

// reap waits for children until nobody is left. It runs on a thread that is
// free of guards.
func (k *keeper) reap() error {
	var status syscall.WaitStatus
	for {
		var s syscall.WaitStatus
		child, err := syscall.Wait4(-1, &s, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil && !errors.Is(err, syscall.ECHILD) {
			return fmt.Errorf("wait for program: %w", err)
		}
		k.mu.Lock()
		if child == k.pid {
			k.pid, status, k.ending = 0, s, true
		}
		// In a sandbox the kernel ends the others, and waits for them, when this
		// process exits.
		over := err != nil || (k.ending && k.pid == 0 && k.order.Sandbox != nil)
		if k.ending && !over {
			k.killAll() // orphans have just become children
		}
		k.mu.Unlock()
		if over {
			return k.reports.Encode(Report{Ended: true, Status: int(status)})
		}
	}
}

// killAll kills whoever is a child of this process now, or, in a sandbox,
// everybody. Outside of one their children become ours when they have ended:
// the caller comes again then.
func (k *keeper) killAll() {
	if k.order.Sandbox != nil {
		_ = syscall.Kill(-1, syscall.SIGKILL)
		return
	}
	all, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if st, err := ReadStat(pid); err == nil && st.Parent == os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// explain says what the kernel's answer to exec means.
func explain(o Order, err error) error {
	sandbox := o.Sandbox != nil
	switch {
	case errors.Is(err, syscall.ENOENT) && sandbox: // the file is there: what is missing is what it names
		var head [2]byte
		if f, err := os.Open(o.Path); err == nil {
			_, _ = f.Read(head[:])
			_ = f.Close()
		}
		if string(head[:]) == "#!" {
			return errors.New("it is a script, and there is no interpreter in the sandbox")
		}
		return errors.New("it is dynamically linked, and there are no libraries in the sandbox (build it with CGO_ENABLED=0)")
	case errors.Is(err, syscall.ENOENT):
		return errors.New("the interpreter or loader that it names is not on this machine")
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("it is not a program for %s/%s", runtime.GOOS, runtime.GOARCH)
	case errors.Is(err, syscall.EACCES) && sandbox:
		return errors.New("it may not be executed by the sandbox's user, or lies where nothing may (run: chmod o+rx)")
	case errors.Is(err, syscall.EACCES):
		return errors.New("it may not be executed by this user, or lies where nothing may")
	}
	return fmt.Errorf("execute: %w", err)
}
