package node

import (
	"errors"
	"time"
)

// Usage is what a process and all that it started have used.
type Usage struct {
	CPU    time.Duration // since the start
	Memory int64         // resident bytes now
}

// Machine is what a host has and what is left of it.
type Machine struct {
	Cores      float64
	CPUFree    float64 // share of all cores that was idle since the last look, 0 to 1
	Memory     int64   // bytes; 0: not known
	MemoryFree int64   // bytes that new programs could have
}

// Meter measures processes and their machine. A simulation has its own.
type Meter interface {
	// Sample measures the tree of processes under pid. Its error wraps
	// [ErrNotMeasured] where the system does not tell.
	Sample(pid int) (Usage, error)
	// Machine measures the host. The same error.
	Machine() (Machine, error)
}

// ErrNotMeasured says that this system does not tell what a process uses.
var ErrNotMeasured = errors.New("not measured on this system")

// SystemMeter asks the operating system. Make it with [NewSystemMeter].
type SystemMeter struct {
	look *machineLook
}

// NewSystemMeter returns a meter of this machine.
func NewSystemMeter() SystemMeter { return SystemMeter{look: new(machineLook)} }
