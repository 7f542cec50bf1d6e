package faults_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// process tells a process from any other that is ever given its number.
type process struct {
	pid   int
	start string // clock ticks since boot
}

// stat reads what the kernel says about a process; gone where there is none, or
// nothing but its exit status is left of it.
func stat(pid int) (p process, parent int, gone bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, 0, true
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	parent, _ = strconv.Atoi(f[1])
	return process{pid, f[19]}, parent, f[0] == "Z" || f[0] == "X"
}

// runs reports whether it is still the same process.
func (p process) runs() bool {
	now, _, gone := stat(p.pid)
	return !gone && now == p
}

func (p process) String() string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	return fmt.Sprintf("%d %s", p.pid, strings.ReplaceAll(string(b), "\x00", " "))
}

// descendants lists the processes that come from a process, itself excluded.
func descendants(t *testing.T, of int) []process {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(dirs) == 0 {
		t.Skip("needs /proc")
	}
	children := make(map[int][]process)
	for _, d := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(d))
		if p, parent, gone := stat(pid); !gone {
			children[parent] = append(children[parent], p)
		}
	}
	var all []process
	for todo := []int{of}; len(todo) > 0; todo = todo[1:] {
		for _, p := range children[todo[0]] {
			all = append(all, p)
			todo = append(todo, p.pid)
		}
	}
	return all
}

// memory is what a process holds of the machine's memory, in bytes.
func memory(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("needs /proc: %v", err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// inside runs the calling test once more in a process of its own, with a user
// namespace and those that flags name, and reports whether this is that
// process. The test is skipped where the system does not allow it.
func inside(t *testing.T, flags uintptr) bool {
	t.Helper()
	if os.Getenv(envInside) == t.Name() {
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
	c.Env = append(os.Environ(), envInside+"="+t.Name(), envProgram+"="+program)
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	var out strings.Builder
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Skipf("this system gives no namespaces to its users: %v", err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("%v\n%s", err, out.String())
		return false
	}
	if strings.Contains(out.String(), "--- SKIP") {
		t.Skip(out.String())
	}
	if testing.Verbose() {
		t.Log(out.String())
	}
	return false
}
