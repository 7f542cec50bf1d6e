// Package stage is the process between a node and a program that it starts: the
// node's own executable, run again under the name [Name]. It takes one order,
// arranges what the order says, starts the program as its child, and stays:
// it reaps, passes signals on, and ends the program's whole tree with the
// program or with the node, whichever goes first.
//
// In a sandbox it is process 1 of namespaces of its own and the program is
// process 2; outside of one it adopts what the program leaves behind. Either
// way it holds no policy: which files, limits, rights and system calls there
// are is in the order.
//
// Importing this package is all that it takes: its init function looks whether
// this process is a stage and, if so, never returns. Package initialisation of
// a node takes some 8 ms, for every replica; this package therefore imports
// nothing but the standard library, and sorts before what is slow.
//
// Node and stage talk over descriptor 4 in JSON values: one [Order], then any
// number of [Request]; back comes one [Report] of the start and one of the end.
package stage

// Name is argument 0 of a stage, and what ps shows of it.
const Name = "cell: keeper"

// Descriptors that a stage is given. The program keeps the first.
const (
	FDLink    = 3
	FDControl = 4
	FDMounts  = 5 // and on: see [Mount]
)

// Threads is how many processes and threads a stage itself has at most, beside
// the program's, where the two are counted together.
const Threads = 12

// How much of two quotas of its user a program in a sandbox may take.
const (
	InotifyInstances = 16
	InotifyWatches   = 8192
)

// Limits of what is said over the control connection, in bytes.
const (
	MaxOrder   = 8 << 20 // the kernel allows about 2 MiB of arguments and environment
	MaxReports = 16 << 10
)

// Program is where a program lies in its sandbox.
const Program = "/cell/bin"

// Order is what the node wants of a stage.
type Order struct {
	Path    string   // the program: where it is executed
	Args    []string // the first is the program's name
	Env     []string
	Dir     string   // where it starts
	Rlimits []Rlimit // of the program
	Guards  Guards
	Sandbox *Sandbox // nil: no namespaces of its own
	Probe   bool     // arrange everything, report, and exit
}

// Sandbox describes a file tree. Sizes are in bytes.
type Sandbox struct {
	Mounts   []Mount
	Scratch  int64 // of /tmp
	Data     int64 // of /cell/data, where no mount is put there
	Loopback bool  // a network of its own, with nobody else in it
}

// Mount shows a file or folder of the machine in a sandbox.
type Mount struct {
	From  string
	FD    int // a detached mount of From, made by the node; 0: From is opened here
	To    string
	File  bool // not a folder
	Write bool
}

// Rlimit is one limit as setrlimit(2) has it, soft and hard.
type Rlimit struct {
	What     string // for the error
	Resource int
	N        uint64
}

// Guards are what the kernel is asked to refuse, beside what namespaces hide.
type Guards struct {
	Drop     bool      // all capabilities, and the way to new ones
	Landlock *Landlock // nil: none
	Filter   []byte    // a seccomp program, as an array of struct sock_filter; nil: none
	Seccomp  uintptr   // number of the system call that installs it
}

// Landlock is a ruleset as landlock(7) has it.
type Landlock struct {
	FS, Net, Scoped uint64 // what is refused but for Rules
	Rules           []Rule
}

// Rule allows something beneath a path; where there is no such path it is left out.
type Rule struct {
	Path  string
	Allow uint64
}

// Request is what the node wants later.
type Request struct {
	Signal int // to be sent to the program
}

// Report is what a stage answers.
type Report struct {
	Error  string `json:",omitempty"` // there is no program, and why
	Ready  bool   `json:",omitempty"` // the program runs
	Ended  bool   `json:",omitempty"` // the program has ended with Status
	Status int    `json:",omitempty"` // as wait(2) gives it
}
