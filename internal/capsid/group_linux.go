package capsid

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cell.network/cell/internal/capsid/stage"
	"golang.org/x/sys/unix"
)

// groupPrefix begins the name of each program's group.
const groupPrefix = "cell.replica."

// stageMemory is what a stage uses of its program's group, in bytes.
const stageMemory = 8 << 20

// cpuPeriod is over which time the share of CPU is reckoned, in microseconds.
const cpuPeriod = 100_000

// removeTries is how often a group is removed whose last process is just ending.
const removeTries = 200

// cgroup is the group of one program.
type cgroup struct {
	dirs    []string // all that were made
	join    []string // those of version 1; the stage is started in them, and in unified
	unified string   // the one of version 2; "" where there is none
	memory  string   // the one that counts memory
}

// make makes a group with limits. name is unique on this machine.
func (g cgroups) make(name string, l Limits) (_ *cgroup, err error) {
	made := &cgroup{}
	defer func() {
		if err != nil {
			made.remove()
			err = fmt.Errorf("limit by control group: %w", err)
		}
	}()
	folder := func(parent string) (string, error) {
		dir := filepath.Join(parent, name)
		if slices.Contains(made.dirs, dir) {
			return dir, nil
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		made.dirs = append(made.dirs, dir)
		return dir, nil
	}
	if g.unified != "" {
		if made.unified, err = folder(g.unified); err != nil {
			return nil, err
		}
	}
	for _, c := range controllers {
		parent, files := g.parents[c], g.files(c, l)
		if parent == "" || len(files) == 0 {
			continue
		}
		dir, err := folder(parent)
		if err != nil {
			return nil, err
		}
		if c == "memory" {
			made.memory = dir
		}
		if dir != made.unified {
			made.join = append(made.join, dir)
		}
		for _, f := range files {
			if err := write(filepath.Join(dir, f[0]), f[1]); err != nil && !(f[2] != "" && errors.Is(err, fs.ErrNotExist)) {
				return nil, err
			}
		}
	}
	return made, nil
}

// files are what a controller is told, in order: name, value, and a mark where
// a kernel need not have the file.
func (g cgroups) files(controller string, l Limits) [][3]string {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	memory := number(l.Memory + stageMemory)
	quota := number(max(1000, int64(l.CPU*cpuPeriod)))
	v2 := g.rung == RungV2
	switch {
	case controller == "pids":
		return [][3]string{{"pids.max", strconv.Itoa(l.Procs + stage.Threads)}}
	case controller == "memory" && l.Memory > 0 && v2:
		return [][3]string{{"memory.max", memory}, {"memory.swap.max", "0", "?"}, {"memory.oom.group", "1", "?"}}
	case controller == "memory" && l.Memory > 0:
		return [][3]string{{"memory.limit_in_bytes", memory}, {"memory.memsw.limit_in_bytes", memory, "?"}}
	case controller == "cpu" && l.CPU > 0 && v2:
		return [][3]string{{"cpu.max", quota + " " + strconv.Itoa(cpuPeriod)}}
	case controller == "cpu" && l.CPU > 0:
		return [][3]string{{"cpu.cfs_period_us", strconv.Itoa(cpuPeriod)}, {"cpu.cfs_quota_us", quota}}
	}
	return nil
}

// nextGroup is a name for a group that no other on this machine has.
func (c *Capsid) nextGroup() string {
	return fmt.Sprintf(groupPrefix+"%d.%d", os.Getpid(), c.system.count.Add(1))
}

// folders are all that were made.
func (g *cgroup) folders() []string {
	if g == nil {
		return nil
	}
	return g.dirs
}

// start starts a process in the group, on a thread that belongs to the caller.
// Of version 1 the thread itself is in the group meanwhile, for the process to
// inherit: to move the process later would wait until nobody on the machine is
// in the middle of a fork, some 5 ms; a thread that moves itself need not.
func (g *cgroup) start(cmd *exec.Cmd) (err error) {
	if g == nil {
		return cmd.Start()
	}
	for _, dir := range g.join {
		if err := write(filepath.Join(dir, "tasks"), "0"); err != nil {
			return fmt.Errorf("enter control group: %w", err)
		}
		defer func() {
			if back := write(filepath.Join(filepath.Dir(dir), "tasks"), "0"); back != nil && err == nil {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				err = fmt.Errorf("leave control group: %w", back)
			}
		}()
	}
	if g.unified != "" {
		dir, err := os.Open(g.unified)
		if err != nil {
			return fmt.Errorf("enter control group: %w", err)
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	return cmd.Start()
}

// kill ends every process of the group, where the kernel has a way to.
func (g *cgroup) kill() {
	if g != nil && g.unified != "" {
		_ = write(filepath.Join(g.unified, "cgroup.kill"), "1")
	}
}

// outOfMemory reports whether the kernel ended a process for its memory.
func (g *cgroup) outOfMemory() bool {
	if g == nil || g.memory == "" {
		return false
	}
	for _, name := range []string{"memory.events", "memory.oom_control"} {
		b, _ := os.ReadFile(filepath.Join(g.memory, name))
		for line := range strings.Lines(string(b)) {
			if n, ok := strings.CutPrefix(line, "oom_kill "); ok && strings.TrimSpace(n) != "0" {
				return true
			}
		}
	}
	return false
}

// remove removes the group when its last process has ended.
func (g *cgroup) remove() {
	if g != nil {
		removeGroups(g.dirs)
	}
}

func removeGroups(dirs []string) {
	for _, dir := range dirs {
		if !strings.HasPrefix(filepath.Base(dir), groupPrefix) { // it was read from a record
			continue
		}
		for range removeTries {
			err := unix.Rmdir(dir)
			if !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// write writes a value to a file of the kernel, which takes it in one piece and
// is never made.
func write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
