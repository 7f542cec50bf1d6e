package capsid

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestFindCgroups looks at made-up machines. A folder stands for each
// hierarchy; the kernel's part is played by files.
func TestFindCgroups(t *testing.T) {
	if os.Getuid() == 0 && os.Getenv(envExpect) != "" {
		t.Skip("as somebody else")
	}
	type machine struct {
		name        string
		cgroup      string // /proc/self/cgroup
		mounts      string // /proc/self/mountinfo, $ for the folder
		files       map[string]string
		rung        Rung
		controllers string
		unified     string
		why         string
	}
	v2 := "30 1 0:26 / $/sys rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
	for _, m := range []machine{
		{
			name: "delegated", cgroup: "0::/user/cell.scope\n", mounts: v2,
			files: map[string]string{"sys/user/cell.scope/cgroup.procs": "", "sys/user/cell.scope/cgroup.controllers": "cpuset cpu io memory pids\n", "sys/user/cell.scope/cgroup.subtree_control": ""},
			rung:  RungV2, controllers: "cpu memory pids", unified: "sys/user/cell.scope",
		},
		{
			name: "as an earlier node left it", cgroup: "0::/cell.scope/cell.node\n", mounts: v2,
			files: map[string]string{"sys/cell.scope/cell.node/cgroup.procs": "", "sys/cell.scope/cgroup.controllers": "memory pids\n", "sys/cell.scope/cgroup.subtree_control": ""},
			rung:  RungV2, controllers: "memory pids", unified: "sys/cell.scope",
		},
		{
			name: "a part is mounted, as in a container", cgroup: "0::/kube/pod7\n", mounts: strings.Replace(v2, "/ $", "/kube/pod7 $", 1),
			files: map[string]string{"sys/cgroup.procs": "", "sys/cgroup.controllers": "cpu memory pids\n", "sys/cgroup.subtree_control": ""},
			rung:  RungV2, controllers: "cpu memory pids", unified: "sys",
		},
		{
			name: "without controllers", cgroup: "0::/\n", mounts: v2,
			files: map[string]string{"sys/cgroup.procs": "", "sys/cgroup.controllers": "hugetlb\n"},
			rung:  RungRlimits, unified: "sys", why: "the controllers memory, pids and cpu are not there",
		},
		{
			name: "somebody else's", cgroup: "0::/other\n", mounts: v2, files: map[string]string{},
			rung: RungRlimits, why: "Delegate=yes",
		},
		{
			name: "version 1", cgroup: "5:memory:/own\n4:pids:/\n3:cpu,cpuacct:/own\n0::/\n",
			mounts: "31 1 0:27 / $/memory rw - cgroup cgroup rw,memory\n32 1 0:28 / $/pids rw - cgroup cgroup rw,pids\n33 1 0:29 / $/cpu rw - cgroup cgroup rw,cpu,cpuacct\n",
			files:  map[string]string{"memory/own/cgroup.procs": "", "pids/cgroup.procs": "", "cpu/own/cgroup.procs": ""},
			rung:   RungV1, controllers: "cpu memory pids",
		},
		{name: "none", cgroup: "0::/\n", mounts: "", rung: RungRlimits, why: "there are no control groups here"},
	} {
		t.Run(m.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range m.files {
				at := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for name, text := range map[string]string{"cgroup": m.cgroup, "mountinfo": strings.ReplaceAll(m.mounts, "$", dir)} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			g := findCgroups(dir)
			var has []string
			for c := range g.parents {
				has = append(has, c)
			}
			slices.Sort(has)
			if m.unified != "" {
				m.unified = filepath.Join(dir, m.unified)
			}
			if g.rung != m.rung || strings.Join(has, " ") != m.controllers || g.unified != m.unified {
				t.Errorf("%s, controllers %v in %q, want %s, %s in %q", g.rung, has, g.unified, m.rung, m.controllers, m.unified)
			}
			if why := strings.Join(g.why, "; "); !strings.Contains(why, m.why) || (m.why == "" && why != "") {
				t.Errorf("why: %s, want %s", why, m.why)
			}
		})
	}
}

// TestGroupFiles looks at what the kernel is told on both versions.
func TestGroupFiles(t *testing.T) {
	l := Limits{Memory: 64 << 20, CPU: 1.5, Procs: 100}.withDefaults()
	for rung, want := range map[Rung]string{
		RungV2: "memory.max=75497472 memory.swap.max=0 memory.oom.group=1 pids.max=112 cpu.max=150000 100000",
		RungV1: "memory.limit_in_bytes=75497472 memory.memsw.limit_in_bytes=75497472 pids.max=112 cpu.cfs_period_us=100000 cpu.cfs_quota_us=150000",
	} {
		var got []string
		for _, c := range controllers {
			for _, f := range (cgroups{rung: rung}).files(c, l) {
				got = append(got, f[0]+"="+f[1])
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %s, want %s", rung, s, want)
		}
	}
}

// TestGroupsAreRemoved starts a program with limits and looks for what is left.
func TestGroupsAreRemoved(t *testing.T) {
	c := newCapsid(t)
	if c.Probe().Rung == RungRlimits {
		t.Skip("there are no control groups here: ", c.Probe().Missing)
	}
	p := start(t, c, Spec{Args: []string{"silent"}, Limits: Limits{Memory: 64 << 20, CPU: 1}})
	var dirs []string
	for _, parent := range c.system.groups.parents {
		found, _ := filepath.Glob(filepath.Join(parent, groupPrefix+"*"))
		for _, dir := range found {
			if b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")); len(strings.Fields(string(b))) == 2 { // the stage and the program
				dirs = append(dirs, dir)
			}
		}
	}
	if len(dirs) < 3 {
		t.Errorf("in %v only", dirs)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()
	for _, dir := range dirs {
		if _, err := os.Stat(dir); err == nil && strings.HasPrefix(filepath.Base(dir), groupPrefix+strconv.Itoa(os.Getpid())+".") {
			t.Errorf("still there: %s", dir)
		}
	}
}
