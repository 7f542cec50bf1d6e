package capsid

import (
	"fmt"
	"math"
)

// Defaults of [Limits].
const (
	DefaultProcs   = 512
	DefaultFiles   = 1024
	DefaultScratch = 64 << 20
	DefaultData    = 256 << 20
)

// Limits bound what a program uses. A zero field takes its default.
type Limits struct {
	Memory  int64   // bytes, of all its processes where there are control groups; a Go program is told as well; default: no limit
	CPU     float64 // of one processor, 1.5 is one and a half; holds with control groups only, a Go program is told; default: no limit
	Procs   int     // processes and threads at once; default [DefaultProcs]; in a sandbox or control group only
	Files   int     // open descriptors of each process; default [DefaultFiles]
	Scratch int64   // bytes under /tmp, which are memory; default [DefaultScratch]; in a sandbox only
	Data    int64   // bytes under /cell/data; default [DefaultData]
}

func (l Limits) withDefaults() Limits {
	if l.Procs == 0 {
		l.Procs = DefaultProcs
	}
	if l.Files == 0 {
		l.Files = DefaultFiles
	}
	if l.Scratch == 0 {
		l.Scratch = DefaultScratch
	}
	if l.Data == 0 {
		l.Data = DefaultData
	}
	return l
}

// hints are what a program is told of its limits, for those that heed it: Go's
// collector keeps to nine tenths of its memory, and Go uses no more threads at
// once than it has CPU.
func hints(l Limits) []string {
	var env []string
	if l.Memory > 0 {
		env = append(env, fmt.Sprintf("GOMEMLIMIT=%d", l.Memory/10*9))
	}
	if l.CPU > 0 {
		env = append(env, fmt.Sprintf("GOMAXPROCS=%d", int(max(1, math.Ceil(l.CPU)))))
	}
	return env
}

func bytesText(n int64) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}
