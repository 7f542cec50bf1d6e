package capsid

// Rung is what holds a program to its limits, best first.
type Rung string

// The rungs.
const (
	RungV2      Rung = "cgroup v2"        // control groups that were delegated to this node
	RungV1      Rung = "cgroup v1"        // control groups of the older kind, which take root
	RungRlimits Rung = "rlimits"          // each process by itself, and what a Go program is told
	RungNone    Rung = "no limits at all" // this system has no way to limit another process
)

// Support is what this system has to keep programs apart with.
type Support struct {
	Sandbox  string   // why there are no namespaces; "" where there are
	Landlock int      // version of Landlock; 0: none
	Filter   bool     // system calls are filtered
	Rung     Rung     // what holds limits
	Killed   bool     // the kernel itself ends all processes of a program at once
	OwnUsers bool     // each program is a user of its own, so that no quota is shared
	Missing  []string // what is not to be had and why, in plain words
	Quotas   []Quota  // what the kernel counts for a user, whom programs share unless OwnUsers
}

// Quota is one of the kernel's limits on a user.
type Quota struct {
	Name  string
	Limit int64 // for the user, all its programs together
	Used  int64 // now; -1 where the kernel does not say
	Each  int64 // how much one program may take; 0: no less than all
}
