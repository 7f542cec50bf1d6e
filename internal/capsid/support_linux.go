package capsid

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"cell.network/cell/internal/capsid/stage"
	"golang.org/x/sys/unix"
)

// system is what a Capsid has on Linux.
type system struct {
	groups cgroups       // found by probe
	count  atomic.Uint64 // of control groups made
	users  users
}

// Probe finds out, the first time by starting a sandbox, what this system has.
// Quotas are counted with each call.
func (c *Capsid) Probe() Support {
	c.probe()
	s := c.support
	s.Quotas = quotas()
	return s
}

// probe finds out once what there is.
func (c *Capsid) probe() *Support {
	c.probeOnce.Do(func() {
		s := &c.support
		c.system.groups = findCgroups("/proc/self")
		s.Rung, s.Missing = c.system.groups.rung, append(s.Missing, c.system.groups.why...)
		s.Killed = c.system.groups.unified != "" && unix.Access(c.system.groups.unified+"/cgroup.procs", unix.W_OK) == nil
		if s.Landlock = landlockVersion(); s.Landlock == 0 {
			s.Missing = append(s.Missing, "Landlock: this kernel has none, or it is not among its security modules (lsm=)")
		}
		_, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
		if s.Filter = err == nil && auditArch != 0; !s.Filter {
			s.Missing = append(s.Missing, "filter of system calls: not on this kernel or architecture")
		}
		if err := c.probeSandbox(); err != nil {
			s.Sandbox = err.Error()
			s.Missing = append(s.Missing, "namespaces: "+s.Sandbox)
		}
	})
	return &c.support
}

// probeSandbox starts a sandbox that holds nothing.
func (c *Capsid) probeSandbox() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	p := &proc{out: newOutput(nil), done: make(chan struct{})}
	uid, giveBack := c.system.users.take()
	defer giveBack()
	c.support.OwnUsers = uid >= firstUser
	l := launch{uid: uid, order: stage.Order{Probe: true, Guards: stage.Guards{Drop: true}, Sandbox: &stage.Sandbox{Scratch: DefaultScratch, Data: DefaultData}}, link: null}
	if err := c.launch(ctx, p, l); err != nil {
		return err
	}
	<-p.done
	return nil
}

// quotas counts what the kernel keeps by user.
func quotas() []Quota {
	number := func(file string) int64 {
		b, _ := os.ReadFile(file)
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if err != nil {
			return -1
		}
		return n
	}
	var files, procs unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &files)
	_ = unix.Getrlimit(unix.RLIMIT_NPROC, &procs)
	all := []Quota{
		{Name: "processes and threads", Limit: limitOf(procs.Cur), Used: threadsOf(os.Geteuid()), Each: DefaultProcs},
		{Name: "inotify instances", Limit: number("/proc/sys/fs/inotify/max_user_instances"), Used: -1, Each: stage.InotifyInstances},
		{Name: "inotify watches", Limit: number("/proc/sys/fs/inotify/max_user_watches"), Used: -1, Each: stage.InotifyWatches},
		{Name: "pages in pipes", Limit: number("/proc/sys/fs/pipe-user-pages-soft"), Used: -1, Each: DefaultFiles / 2 * 16},
		{Name: "descriptors in flight", Limit: limitOf(files.Cur), Used: -1, Each: DefaultFiles},
	}
	if used, limit, ok := pendingSignals(); ok {
		all = append(all, Quota{Name: "pending signals", Limit: limit, Used: used, Each: 1024})
	}
	return all
}

func limitOf(n uint64) int64 {
	return int64(min(n, 1<<62))
}

// threadsOf counts the threads of a user; -1 where /proc hides others' processes.
func threadsOf(uid int) (n int64) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return -1
	}
	for _, e := range all {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		b, _ := os.ReadFile("/proc/" + e.Name() + "/status")
		var owner int
		var threads int64
		for line := range strings.Lines(string(b)) {
			_, _ = fmt.Sscanf(line, "Uid:\t%d", &owner)
			_, _ = fmt.Sscanf(line, "Threads:\t%d", &threads)
		}
		if owner == uid {
			n += threads
		}
	}
	return n
}

func pendingSignals() (used, limit int64, ok bool) {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if n, _ := fmt.Sscanf(line, "SigQ:\t%d/%d", &used, &limit); n == 2 {
			return used, limit, true
		}
	}
	return 0, 0, false
}
