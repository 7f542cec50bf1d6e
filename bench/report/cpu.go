package report

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// CPU is the user and system time that this process has used, to the
// microsecond.
func CPU() time.Duration { return usage(syscall.RUSAGE_SELF) }

// treeCPU adds the children that have ended and been waited for.
func treeCPU() time.Duration { return CPU() + usage(syscall.RUSAGE_CHILDREN) }

func usage(who int) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		panic("report: getrusage: " + err.Error()) // only a bad argument makes it fail
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// machineCPU is the time that all processors were busy since the machine
// started, in steps of 10 ms; 0 where the system does not say.
func machineCPU() time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return busy(line)
}

// busy reads the first line of /proc/stat: user nice system idle iowait irq
// softirq steal, in ticks.
func busy(line string) time.Duration {
	const tick, idle, iowait, last = 10 * time.Millisecond, 4, 5, 8
	fields := strings.Fields(line)
	if len(fields) <= last || fields[0] != "cpu" {
		return 0
	}
	var sum time.Duration
	for i, f := range fields[:last+1] {
		if i == 0 || i == idle || i == iowait {
			continue
		}
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0
		}
		sum += time.Duration(n) * tick
	}
	return sum
}
