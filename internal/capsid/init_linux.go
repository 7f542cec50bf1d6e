package capsid

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// stageName is argument 0 by which [Init] knows that it is to be a stage. It is
// what ps shows of a keeper.
const stageName = "cell: keeper"

// Descriptors that a stage is given. The program keeps the first.
const (
	fdLink    = 3
	fdControl = 4
	fdProgram = 5
)

// What node and stage say over the control connection: one JSON value each way,
// and a second from a keeper at the end.
const (
	maxOrder   = 8 << 20 // bytes; the kernel allows about 2 MiB of arguments and environment
	maxReports = 16 << 10
)

// order is what the node wants of a stage.
type order struct {
	Path    string
	Args    []string
	Env     []string
	Limits  Limits
	Sandbox bool // become the program in a sandbox; otherwise keep it
	Probe   bool // enter the sandbox, report and exit
}

// report is what a stage answers.
type report struct {
	Error  string `json:",omitempty"` // there is no program, and why
	Ready  bool   `json:",omitempty"` // the program runs, or is about to
	Ended  bool   `json:",omitempty"` // the program's tree has ended with Status
	Status int    `json:",omitempty"` // as wait(2) gives it
}

// Init must be the first statement of main in every program that starts
// others with a [Capsid]. It returns at once unless this process is such a
// start's stage between node and program; then it does not return.
func Init() {
	if len(os.Args) != 1 || os.Args[0] != stageName {
		return
	}
	runtime.LockOSThread() // capabilities and the parent's death belong to one thread
	if err := runStage(); err != nil {
		fmt.Fprintln(os.Stderr, "cell: error:", err)
		syscall.Exit(1)
	}
	syscall.Exit(0) // os.Exit would run hooks of the node's, such as the race detector's
}

// keepDescriptors lets the program have none but 0, 1, 2 and fdLink. Whoever
// started the node may have left others open in it: one of a folder would lead
// out of any sandbox.
func keepDescriptors() error {
	if unix.CloseRange(fdLink+1, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return nil
	}
	open, err := os.ReadDir("/proc/self/fd") // a kernel before 5.11
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > fdLink {
			unix.CloseOnExec(fd)
		}
	}
	return err
}

func runStage() error {
	for fd := fdLink; fd <= fdProgram; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return errors.New("this process is a part of cell that is not started by hand")
		}
	}
	if err := keepDescriptors(); err != nil {
		return fmt.Errorf("close descriptors: %w", err)
	}
	control := os.NewFile(fdControl, "control")
	var o order
	if err := json.NewDecoder(io.LimitReader(control, maxOrder)).Decode(&o); err != nil {
		return fmt.Errorf("read order: %w", err)
	}
	var err error
	if o.Sandbox {
		err = becomeProgram(o, control)
	} else {
		err = keep(o, control)
	}
	if err != nil {
		// Said to the node, which says it to the user: not printed as well.
		_ = json.NewEncoder(control).Encode(report{Error: err.Error()})
	}
	return nil
}
