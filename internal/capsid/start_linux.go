package capsid

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cell.network/cell/internal/capsid/stage"
	"cell.network/cell/internal/membrane"
	"golang.org/x/sys/unix"
)

// launch is all that it takes to start a stage.
type launch struct {
	order   stage.Order
	program string // where the node has it
	link    *os.File
	mounts  []*os.File // descriptors that order.Sandbox.Mounts names
	uid     int
	group   *cgroup
}

// start makes the program behind its stage: in a sandbox where that is wanted
// and to be had, with a keeper otherwise. s.Limits is complete.
func (c *Capsid) start(ctx context.Context, s Spec) (_ *proc, err error) {
	support := c.probe()
	link, end, err := membrane.NewLink()
	if err != nil {
		return nil, err
	}
	defer end.Close()
	uid, giveBack := c.system.users.take()
	p := &proc{link: link, out: newOutput(s.Log), done: make(chan struct{}), rung: support.Rung, limits: s.Limits}
	p.after = append(p.after, giveBack)
	l := launch{program: s.Path, link: end, uid: uid}
	defer func() {
		for _, f := range l.mounts {
			_ = f.Close()
		}
		if err != nil {
			link.Close()
			p.finish()
		}
	}()
	l.order = stage.Order{
		Path: s.Path, Args: append([]string{s.Path}, s.Args...), Env: s.Env, Dir: "/",
	}
	sandbox := s.Isolation == Auto && support.Sandbox == ""
	mounts, err := shown(s)
	if err != nil {
		return nil, err
	}
	if sandbox {
		l.furnish(s, mounts)
	}
	if s.Isolation == Auto {
		c.guard(&l.order, mounts)
	}
	if !c.without["limits"] {
		l.order.Rlimits = rlimits(s.Limits, c.system.groups, sandbox)
		if l.group, err = c.system.groups.make(c.nextGroup(), s.Limits); err != nil {
			return nil, err
		}
		p.outOfMemory = l.group.outOfMemory
		p.after = append(p.after, l.group.remove)
	}
	p.describe(s, &l.order, support, c.system.groups)
	if s.Data != "" {
		if err := own(s.Data, uid); err != nil {
			return nil, err
		}
	}
	if err := c.launch(ctx, p, l); err != nil {
		return nil, err
	}
	if s.Data != "" && !c.without["limits"] {
		go p.guardData(s.Data, s.Limits.Data)
	}
	return p, nil
}

// shown are the files and folders of the machine that the program sees, where
// it has a file tree of its own.
func shown(s Spec) ([]stage.Mount, error) {
	var mounts []stage.Mount
	visible := false // the program, at its own path
	binds := s.Binds
	if s.Data != "" {
		binds = append([]Bind{{From: s.Data, To: dataFolder, Write: true}}, binds...)
	}
	for _, b := range binds {
		if !filepath.IsAbs(b.From) || !filepath.IsAbs(b.To) || filepath.Clean(b.To) != b.To || b.To == "/" {
			return nil, fmt.Errorf("show %q at %q: these are not clean absolute paths", b.From, b.To)
		}
		st, err := os.Stat(b.From)
		if err != nil {
			return nil, fmt.Errorf("show %s: %w", b.From, err)
		}
		mounts = append(mounts, stage.Mount{From: b.From, To: b.To, File: !st.IsDir(), Write: b.Write})
		rest, ok := strings.CutPrefix(s.Path, b.From)
		visible = visible || ok && b.From == b.To && (rest == "" || rest[0] == '/')
	}
	if !visible {
		mounts = append(mounts, stage.Mount{From: s.Path, To: stage.Program, File: true})
	}
	return mounts, nil
}

// furnish gives the program a file tree of its own.
func (l *launch) furnish(s Spec, mounts []stage.Mount) {
	o := &l.order
	o.Dir = "/tmp"
	o.Sandbox = &stage.Sandbox{Mounts: mounts, Scratch: s.Limits.Scratch, Data: s.Limits.Data, Loopback: s.Loopback}
	for i := range mounts {
		m := &mounts[i]
		switch m.To {
		case stage.Program:
			o.Path, o.Args[0] = stage.Program, stage.Program
		case dataFolder:
			o.Sandbox.Data = 0
		}
		if l.uid == os.Geteuid() {
			continue
		}
		// The sandbox is another user's, who may not get there: it is given a
		// descriptor. On a kernel that has none of these the stage says so.
		if fd, err := unix.OpenTree(unix.AT_FDCWD, m.From, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE); err == nil {
			m.FD = stage.FDMounts + len(l.mounts)
			l.mounts = append(l.mounts, os.NewFile(uintptr(fd), m.From))
		}
	}
}

// guard adds what the kernel is to refuse.
func (c *Capsid) guard(o *stage.Order, mounts []stage.Mount) {
	o.Guards.Drop = true
	if !c.without["landlock"] {
		o.Guards.Landlock = landlock(c.support.Landlock, *o, mounts)
	}
	if c.support.Filter && !c.without["filter"] {
		o.Guards.Filter = systemCalls(o.Sandbox != nil)
		o.Guards.Seccomp = unix.SYS_SECCOMP
	}
}

// own gives a folder to the user that a program will be.
func own(dir string, uid int) error {
	if uid == os.Geteuid() {
		return nil
	}
	if err := os.Lchown(dir, uid, uid); err != nil {
		return fmt.Errorf("give folder to program: %w", err)
	}
	return nil
}
