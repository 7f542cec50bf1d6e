package capsid

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ownGroup is the group that the node itself moves to where its own group is
// to be divided: the kernel wants processes in leaves only.
const ownGroup = "cell.node"

// controllers are the parts of the kernel that limit something for a group.
var controllers = []string{"memory", "pids", "cpu"}

// cgroups is where this node may make groups of processes, found once.
type cgroups struct {
	rung    Rung
	parents map[string]string // controller to the folder in which its groups are made
	unified string            // such a folder of version 2, for cgroup.kill; may have no controllers; "" where there is none
	why     []string          // what is missing, and why
}

// findCgroups looks at the mounted hierarchies and at where this process is.
// self is /proc/self, but for tests.
func findCgroups(self string) cgroups {
	g := cgroups{rung: RungRlimits, parents: map[string]string{}}
	mounts, err := cgroupMounts(self)
	if err != nil {
		g.why = []string{"control groups: " + err.Error()}
		return g
	}
	if dir := mounts[""]; dir != "" {
		g.unified = writable(dir)
		if err := g.delegated(dir); err != nil {
			g.why = append(g.why, "control groups, version 2: "+err.Error())
		}
	}
	if g.rung == RungRlimits {
		for _, c := range controllers {
			if dir := writable(mounts[c]); dir != "" {
				g.parents[c] = dir
				g.rung = RungV1
			} else if mounts[c] != "" {
				g.why = append(g.why, "control groups, version 1: "+c+" is root's")
			}
		}
	}
	if g.rung == RungRlimits && len(mounts) == 0 {
		g.why = append(g.why, "there are no control groups here")
	}
	return g
}

// cgroupMounts is the folder of this process's own group for each controller;
// that of version 2 is under "".
func cgroupMounts(self string) (map[string]string, error) {
	own := map[string]string{} // controller to path
	groups, err := os.ReadFile(filepath.Join(self, "cgroup"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(groups)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			for _, c := range strings.Split(f[1], ",") {
				own[c] = f[2]
			}
		}
	}
	file, err := os.Open(filepath.Join(self, "mountinfo"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	dirs := map[string]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		place, kind := strings.Fields(before), strings.Fields(after)
		if len(place) < 5 || len(kind) < 3 || !strings.HasPrefix(kind[0], "cgroup") {
			continue
		}
		names := []string{""}
		if kind[0] == "cgroup" {
			names = strings.Split(kind[2], ",")
		}
		for _, c := range names {
			path, ok := own[c]
			if !ok {
				continue
			}
			if beneath, ok := strings.CutPrefix(path, strings.TrimSuffix(place[3], "/")); ok { // in a container only a part may be mounted
				dirs[c] = filepath.Join(place[4], beneath)
			}
		}
	}
	return dirs, nil
}

// writable returns dir if this process may make groups in it, else "".
func writable(dir string) string {
	if dir == "" || unix.Access(dir, unix.W_OK) != nil || unix.Access(filepath.Join(dir, "cgroup.procs"), unix.W_OK) != nil {
		return ""
	}
	return dir
}

// delegated makes version 2 usable where the group of this process was given
// to it with its controllers.
func (g *cgroups) delegated(dir string) error {
	if g.unified == "" {
		return errors.New("this node's group is not its own (run it by: systemd-run --user --scope -p Delegate=yes cell up)")
	}
	if filepath.Base(dir) == ownGroup { // as an earlier node left it
		dir = filepath.Dir(dir)
	}
	has, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	var enable []string
	for _, c := range controllers {
		if slices.Contains(strings.Fields(string(has)), c) {
			enable = append(enable, "+"+c)
		}
	}
	if len(enable) == 0 {
		return errors.New("the controllers memory, pids and cpu are not there")
	}
	control := filepath.Join(dir, "cgroup.subtree_control")
	err = write(control, strings.Join(enable, " "))
	if errors.Is(err, unix.EBUSY) { // there are processes in it: at least this one
		leaf := filepath.Join(dir, ownGroup)
		if err = os.Mkdir(leaf, 0o755); err == nil || errors.Is(err, fs.ErrExist) {
			err = write(filepath.Join(leaf, "cgroup.procs"), strconv.Itoa(os.Getpid()))
		}
		if err == nil {
			if err = write(control, strings.Join(enable, " ")); errors.Is(err, unix.EBUSY) {
				err = errors.New("this node shares its group with others (run it by: systemd-run --user --scope -p Delegate=yes cell up)")
			}
		}
	}
	if err != nil {
		return err
	}
	g.rung, g.unified = RungV2, dir
	for _, c := range enable {
		g.parents[c[1:]] = dir
	}
	return nil
}
