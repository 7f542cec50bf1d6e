package capsid

import "runtime"

// thread is one operating system thread that makes all child processes. Linux
// kills a child when the thread that made it ends, not when the process does;
// an ordinary goroutine's thread may end at any time.
type thread struct {
	work chan func()
	done chan struct{}
}

func newThread() thread {
	t := thread{make(chan func()), make(chan struct{})}
	go func() {
		defer close(t.done)
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		for f := range t.work {
			f()
		}
	}()
	return t
}

// do runs f on the thread and waits for it.
func (t thread) do(f func()) {
	d := make(chan struct{})
	t.work <- func() { defer close(d); f() }
	<-d
}

// stop ends the thread, and with it every child that is still there.
func (t thread) stop() {
	close(t.work)
	<-t.done
}
