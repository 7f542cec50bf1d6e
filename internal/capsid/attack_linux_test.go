package capsid

import (
	"os"
	"strings"
	"testing"
)

// attacks are run twice: without guards, where they must succeed, and in a
// sandbox, where they must not. Words in braces are taken from the scene.
var attacks = []struct {
	name   string
	args   string
	spaces bool   // only namespaces hold it: Landlock and the filter alone do not
	root   bool   // needs root to succeed without guards
	limits Limits // within
	groups bool   // only control groups hold it
}{
	{name: "read-host", args: "{secret}"},
	{name: "write-host", args: "{dir}"},
	{name: "make-folder", args: "{dir}"},
	{name: "delete-host", args: "{victim}"},
	{name: "change-mode", args: "{secret}", spaces: true},
	{name: "list-host"},
	{name: "read-by-symlink", args: "{secret} {tmp}"},
	{name: "read-by-proc-root", args: "{secret}"},
	{name: "read-by-descriptor", args: "{secret}"},
	{name: "chroot-out", args: "{secret} {tmp}"},
	{name: "chroot"},
	{name: "overwrite-self", args: "x {tmp}"},
	{name: "core-dump", args: "x {tmp}"},
	{name: "make-device", args: "x {tmp}", root: true},
	{name: "write-proc"},

	{name: "read-memory", args: "{neighbour}"},
	{name: "read-memory-by-call", args: "{neighbour}"},
	{name: "read-environment", args: "{neighbour}"},
	{name: "signal-others", args: "{neighbour}"},
	{name: "trace-others", args: "{neighbour}"},
	{name: "take-descriptor", args: "{neighbour}"},
	{name: "slow-others", args: "{neighbour}", spaces: true},

	{name: "dial-tcp", args: "{tcp}"},
	{name: "dial-udp", args: "{udp}"},
	{name: "dial-abstract", args: "{abstract}"},
	{name: "dial-path", args: "{path}", spaces: true},
	{name: "listen-tcp"},
	{name: "socket-raw"},
	{name: "socket-packet"},
	{name: "socket-netlink"},
	{name: "socket-alg"},
	{name: "socket-vsock"},
	{name: "socket-mptcp"},
	{name: "list-neighbours"},

	{name: "mount", args: "{tmp}"},
	{name: "mount-new"},
	{name: "open-tree"},
	{name: "unmount", root: true},
	{name: "pivot-root"},
	{name: "user-namespace"},
	{name: "unshare"},
	{name: "enter-namespace"},
	{name: "clone3"},
	{name: "trace-child"},
	{name: "add-key"},
	{name: "keyring"},
	{name: "bpf", root: true},
	{name: "userfaultfd"},
	{name: "io-uring"},
	{name: "perf"},
	{name: "read-own-memory-by-call"},
	{name: "handle"},
	{name: "open-handle", root: true},
	{name: "kcmp"},
	{name: "personality"},
	{name: "fanotify"},
	{name: "kernel-log"},
	{name: "load-module", root: true},
	{name: "load-kernel", root: true},
	{name: "swap", root: true},
	{name: "quota", root: true},
	{name: "set-clock", root: true},
	{name: "shared-memory"},
	{name: "message-queue"},
	{name: "secret-memory"},
	{name: "foreign-calls"},
	{name: "host-name", root: true},

	{name: "stop-keeper", spaces: true},
	{name: "own-keeper", root: true},
	{name: "become-other", root: true},
	{name: "gain-powers"},

	{name: "fork", args: "60", spaces: true, limits: Limits{Procs: 40}},
	{name: "memory", args: "300", limits: Limits{Memory: 32 << 20}},
	{name: "memory-shared", args: "200", groups: true, limits: Limits{Memory: 32 << 20}},
	{name: "memory-spread", args: "120", groups: true, limits: Limits{Memory: 32 << 20}},
	{name: "memory-file", args: "200", groups: true, limits: Limits{Memory: 32 << 20}},
	{name: "disk", args: "24 {tmp}", limits: Limits{Scratch: 16 << 20}, spaces: true},
	{name: "disk-data", args: "24 {data}", limits: Limits{Data: 16 << 20}, spaces: true},
	{name: "small-files", args: "4000 {tmp}", limits: Limits{Scratch: 16 << 20}, spaces: true},
	{name: "descriptors", args: "400", limits: Limits{Files: 256}},
	{name: "inotify", args: "40", spaces: true},
	{name: "lock-memory", args: "4"},
	{name: "priority", root: true},
	{name: "realtime", root: true},
	{name: "cpu", args: "10", groups: true, limits: Limits{CPU: 0.03}},
	{name: "park-descriptors", args: "600", limits: Limits{Files: 256}},
}

func TestAttacks(t *testing.T) {
	sandbox := hasSandbox(t)
	s := newScene(t)
	guarded, bare := newCapsid(t), newCapsid(t)
	bare.without = map[string]bool{"limits": true}
	support := guarded.Probe()
	t.Logf("Landlock %d, filter %v, %s", support.Landlock, support.Filter, support.Rung)
	if !sandbox && (support.Landlock < 6 || !support.Filter) {
		t.Skip("neither namespaces nor Landlock of version 6 here")
	}
	var contained, unproven int
	for _, a := range attacks {
		name, _ := strings.CutSuffix(a.name, "-data")
		if name != "disk" {
			name = a.name
		}
		if (a.spaces && !sandbox) || (a.groups && support.Rung == RungRlimits) {
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			free := "SUCCEEDED, when this test ran as somebody else"
			if os.Getenv(envExpect) == "" {
				free = s.run(t, bare, name, a.args, Limits{}, None)
			}
			proven := strings.Contains(free, "SUCCEEDED") || strings.Contains(free, "parked")
			if !proven && !(a.root && os.Getuid() != 0) && !excused(free) {
				t.Errorf("without guards: %s", free)
			}
			out := s.run(t, guarded, name, a.args, a.limits, Auto)
			if strings.Contains(out, "SUCCEEDED") || strings.Contains(out, "parked") || strings.Contains(out, "there is no attack") {
				t.Errorf("not contained: %s", out)
			}
			t.Logf("%s", strings.ReplaceAll(out, "\n", "; "))
			if contained++; !proven {
				unproven++
				t.Logf("could not be shown to succeed here without guards: %s", free)
			}
		})
		if contained%10 == 0 {
			s.healthy(t, guarded)
		}
	}
	s.healthy(t, guarded)
	t.Logf("%d attacks contained, %d of them could not be shown to succeed without guards by this user", contained, unproven)
}

// excused are attacks that this machine does not allow to anybody.
func excused(out string) bool {
	missing := []string{"function not implemented", "address family not supported", "protocol not supported", "no such file", "no 32-bit calls", "there are no foreign calls"}
	for _, m := range missing {
		if strings.Contains(out, m) {
			return true
		}
	}
	// Where this test as a whole may make no namespaces, an attacker may not either.
	return os.Getuid() != 0 || os.Getenv(envForbid) != ""
}
