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

// Meter measures processes. A simulation has its own.
type Meter interface {
	// Sample measures the tree of processes under pid. Its error wraps
	// [ErrNotMeasured] where the system does not tell.
	Sample(pid int) (Usage, error)
}

// ErrNotMeasured says that this system does not tell what a process uses.
var ErrNotMeasured = errors.New("not measured on this system")

// SystemMeter asks the operating system.
type SystemMeter struct{}
