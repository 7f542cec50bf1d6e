package node

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// maxTree bounds how many processes of a replica are looked at.
const maxTree = 1024

// clockTick is the unit of times in /proc/PID/stat: the kernel reports
// hundredths of a second to programs on every architecture.
const clockTick = time.Second / 100

// Sample implements [Meter] by /proc. Processes that end between two samples
// are counted through their parent, which waited for them.
func (SystemMeter) Sample(pid int) (Usage, error) {
	u, err := sampleProcess(pid)
	if err != nil {
		return Usage{}, err
	}
	queue := children(pid)
	for seen := 0; len(queue) > 0 && seen < maxTree; seen++ {
		next := queue[0]
		queue = append(queue[1:], children(next)...)
		if c, err := sampleProcess(next); err == nil { // else it has ended meanwhile
			u.CPU += c.CPU
			u.Memory += c.Memory
		}
	}
	return u, nil
}

// Fields of /proc/PID/stat after the name, see proc(5): 14 and on are utime,
// stime, cutime, cstime; 24 is rss in pages.
const (
	statUtime = 14 - 3
	statRSS   = 24 - 3
)

func sampleProcess(pid int) (Usage, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, fmt.Errorf("measure process: %w", err)
	}
	end := bytes.LastIndexByte(b, ')') // the name may hold anything
	fields := bytes.Fields(b[end+1:])
	if end < 0 || len(fields) <= statRSS {
		return Usage{}, fmt.Errorf("measure process %d: %w", pid, ErrNotMeasured)
	}
	var u Usage
	for _, f := range fields[statUtime : statUtime+4] {
		ticks, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return Usage{}, fmt.Errorf("measure process %d: %w", pid, err)
		}
		u.CPU += time.Duration(ticks) * clockTick
	}
	pages, err := strconv.ParseInt(string(fields[statRSS]), 10, 64)
	if err != nil {
		return Usage{}, fmt.Errorf("measure process %d: %w", pid, err)
	}
	u.Memory = pages * int64(os.Getpagesize())
	return u, nil
}

func children(pid int) []int {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil
	}
	var out []int
	for _, t := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		if err != nil {
			continue
		}
		for _, f := range bytes.Fields(b) {
			if c, err := strconv.Atoi(string(f)); err == nil {
				out = append(out, c)
			}
		}
	}
	return out
}
