package node

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
)

// machineLook remembers the last look at the machine's idle time.
type machineLook struct {
	mu          sync.Mutex
	idle, total uint64 // ticks; guarded by mu
}

// Machine implements [Meter] by /proc/stat and /proc/meminfo.
func (s SystemMeter) Machine() (Machine, error) {
	m := Machine{Cores: float64(runtime.NumCPU()), CPUFree: 1}
	idle, total, err := cpuTicks()
	if err != nil {
		return Machine{}, err
	}
	s.look.mu.Lock()
	if di, dt := idle-s.look.idle, total-s.look.total; s.look.total > 0 && dt > 0 && di <= dt {
		m.CPUFree = float64(di) / float64(dt)
	}
	s.look.idle, s.look.total = idle, total
	s.look.mu.Unlock()
	m.Memory, m.MemoryFree, err = memory()
	return m, err
}

// cpuTicks reads the first line of /proc/stat, see proc(5): user, nice, system,
// idle, iowait, irq, softirq, steal.
func cpuTicks() (idle, total uint64, err error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, fmt.Errorf("measure machine: %w", err)
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) < 9 || string(fields[0]) != "cpu" {
		return 0, 0, fmt.Errorf("measure machine: %w", ErrNotMeasured)
	}
	for i, f := range fields[1:9] {
		t, err := strconv.ParseUint(string(f), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("measure machine: %w", err)
		}
		total += t
		if i == 3 || i == 4 {
			idle += t
		}
	}
	return idle, total, nil
}

// memory reads what there is and what new programs could have.
func memory() (all, free int64, err error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, 0, fmt.Errorf("measure machine: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) < 2 {
			continue
		}
		kib, err := strconv.ParseInt(string(fields[1]), 10, 64)
		if err != nil {
			continue
		}
		switch string(fields[0]) {
		case "MemTotal:":
			all = kib << 10
		case "MemAvailable:":
			free = kib << 10
		}
	}
	if all == 0 {
		return 0, 0, fmt.Errorf("measure machine: %w", ErrNotMeasured)
	}
	return all, free, nil
}
