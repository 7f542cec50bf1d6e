package capsid

import (
	"fmt"

	"cell.network/cell/internal/capsid/stage"
	"golang.org/x/sys/unix"
)

// memorySlack is added to [Limits.Memory] where it is enforced for each process
// by itself, because the Go runtime sets aside, and the kernel then counts, far
// more than a program uses.
const memorySlack = 128 << 20

// rlimits are the limits of each process of a program. sandbox tells whether
// what the kernel counts by user is the program's own.
func rlimits(l Limits, g cgroups, sandbox bool) []stage.Rlimit {
	all := []stage.Rlimit{
		// One byte, not none: where cores go to a program, as to
		// systemd-coredump, 0 lets them through and 1 does not.
		{What: "core dumps", Resource: unix.RLIMIT_CORE, N: 1},
		{What: "open descriptors", Resource: unix.RLIMIT_NOFILE, N: uint64(l.Files)},
		{What: "locked memory", Resource: unix.RLIMIT_MEMLOCK, N: 64 << 10},
		{What: "message queues", Resource: unix.RLIMIT_MSGQUEUE, N: 0},
		{What: "pending signals", Resource: unix.RLIMIT_SIGPENDING, N: 1024},
		{What: "priority", Resource: unix.RLIMIT_NICE, N: 0},
		{What: "realtime priority", Resource: unix.RLIMIT_RTPRIO, N: 0},
	}
	if size := max(l.Scratch, l.Data); sandbox && size > 0 {
		all = append(all, stage.Rlimit{What: "size of files", Resource: unix.RLIMIT_FSIZE, N: uint64(size)})
	}
	if sandbox { // outside, all processes of the user would count
		all = append(all, stage.Rlimit{What: "processes", Resource: unix.RLIMIT_NPROC, N: uint64(l.Procs + stage.Threads)})
	}
	if l.Memory > 0 && g.parents["memory"] == "" {
		all = append(all, stage.Rlimit{What: "memory", Resource: unix.RLIMIT_DATA, N: uint64(l.Memory + memorySlack)})
	}
	return all
}

// limitTexts say what of l holds.
func limitTexts(l Limits, g cgroups, sandbox bool) (yes, no []string) {
	by := " (" + string(g.rung) + ")"
	yes = append(yes, fmt.Sprintf("at most %d open descriptors in each process", l.Files), "leaves no core dumps")
	switch {
	case g.parents["pids"] != "":
		yes = append(yes, fmt.Sprintf("at most %d processes and threads%s", l.Procs, by))
	case sandbox:
		yes = append(yes, fmt.Sprintf("at most %d processes and threads", l.Procs))
	default:
		no = append(no, "number of processes is not limited")
	}
	switch {
	case l.Memory == 0:
		no = append(no, "memory is not limited: [limits] names none")
	case g.parents["memory"] != "":
		yes = append(yes, fmt.Sprintf("at most %s of memory%s", bytesText(l.Memory), by))
	default:
		yes = append(yes, "each process is refused private memory beyond "+bytesText(l.Memory+memorySlack))
		no = append(no, "memory of all its processes together, and memory that they share, is not limited")
	}
	switch {
	case l.CPU == 0:
		no = append(no, "share of CPU is not limited: [limits] names none")
	case g.parents["cpu"] != "":
		yes = append(yes, fmt.Sprintf("at most %g CPUs%s", l.CPU, by))
	default:
		no = append(no, "share of CPU is not limited, a Go program is only told")
	}
	return yes, no
}
