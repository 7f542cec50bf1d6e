package capsid

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// newestCall is the last system call that was looked at for this filter, of
// Linux 6.18. Later ones do not exist for a program: it falls back, as on an
// older kernel.
const newestCall = 469

// foreignNamespaces are the flags of clone(2) that make namespaces.
const foreignNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// refusedCalls are what a service never needs. Most of it takes powers that a
// program in a sandbox has not got: it is refused once more because that is
// where the kernel's mistakes are found.
var refusedCalls = map[unix.Errno][]uint32{
	unix.EPERM: {
		// Other processes' memory, descriptors and calls.
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE,
		unix.SYS_KCMP, unix.SYS_PIDFD_GETFD, unix.SYS_PERF_EVENT_OPEN,
		// Code in the kernel.
		unix.SYS_BPF, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD,
		// File trees and namespaces.
		unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_UNSHARE, unix.SYS_SETNS,
		unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
		unix.SYS_STATMOUNT, unix.SYS_LISTMOUNT, sysOpenTreeAttr,
		unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_FANOTIFY_INIT, unix.SYS_FANOTIFY_MARK, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD,
		// The machine as a whole.
		unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_SYSLOG, unix.SYS_VHANGUP,
		unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
		unix.SYS_MOVE_PAGES, unix.SYS_MIGRATE_PAGES, unix.SYS_SET_MEMPOLICY_HOME_NODE, unix.SYS_LOOKUP_DCOOKIE,
	},
	// What programs probe for and do without.
	unix.ENOSYS: {
		unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER, unix.SYS_USERFAULTFD,
		unix.SYS_ADD_KEY, unix.SYS_KEYCTL, unix.SYS_REQUEST_KEY, unix.SYS_NFSSERVCTL,
		unix.SYS_CLONE3, // its flags lie in memory, where a filter does not look: the libraries then use clone
		// Memory that outlives processes and that no limit of a process counts.
		unix.SYS_SHMGET, unix.SYS_SHMAT, unix.SYS_SHMCTL, unix.SYS_SHMDT, unix.SYS_MSGGET, unix.SYS_SEMGET, unix.SYS_MQ_OPEN,
		unix.SYS_MEMFD_SECRET,
	},
}

// sysOpenTreeAttr is younger than the list of package unix.
const sysOpenTreeAttr = 467

// Fields of struct seccomp_data. Arguments are 64 bits of which the filter
// looks at the lower half, as the kernel does for the calls below.
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16
)

// assembler writes a filter, which runs from top to bottom for each call.
type assembler []unix.SockFilter

func (a *assembler) add(code uint16, k uint32, yes, no uint8) {
	*a = append(*a, unix.SockFilter{Code: code, Jt: yes, Jf: no, K: k})
}

func (a *assembler) load(at uint32)      { a.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, at, 0, 0) }
func (a *assembler) load64(arg int)      { a.load(uint32(dataArgs + 8*arg)) }
func (a *assembler) mask(m uint32)       { a.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, m, 0, 0) }
func (a *assembler) end(action uint32)   { a.add(unix.BPF_RET|unix.BPF_K, action, 0, 0) }
func (a *assembler) allow()              { a.end(unix.SECCOMP_RET_ALLOW) }
func (a *assembler) refuse(e unix.Errno) { a.end(unix.SECCOMP_RET_ERRNO | uint32(e)) }

// unless passes over the next n instructions if the loaded value is not k.
func (a *assembler) unless(k uint32, n int) {
	a.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, k, 0, uint8(n))
}

// call writes what holds for one system call; rest must end every path.
func (a *assembler) call(number uint32, rest func(*assembler)) {
	var body assembler
	rest(&body)
	a.unless(number, len(body))
	*a = append(*a, body...)
}

// only allows a call whose argument is one of values.
func (a *assembler) only(number uint32, arg int, e unix.Errno, values ...uint32) {
	a.call(number, func(a *assembler) {
		a.load64(arg)
		for _, v := range values {
			a.unless(v, 1)
			a.allow()
		}
		a.refuse(e)
	})
}

// systemCalls is the filter of a program; nil on an architecture that it was
// not written for. Without a network of its own a program gets no sockets but
// Unix ones.
func systemCalls(network bool) []byte {
	if auditArch == 0 {
		return nil
	}
	var a assembler
	a.load(dataArch)
	a.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, auditArch, 1, 0)
	a.end(unix.SECCOMP_RET_KILL_PROCESS) // 32-bit calls, whose numbers mean something else
	a.load(dataNumber)
	a.add(unix.BPF_JMP|unix.BPF_JGE|unix.BPF_K, foreignCalls, 0, 1)
	a.end(unix.SECCOMP_RET_KILL_PROCESS)
	a.add(unix.BPF_JMP|unix.BPF_JGT|unix.BPF_K, newestCall, 0, 1)
	a.refuse(unix.ENOSYS)
	for _, e := range []unix.Errno{unix.EPERM, unix.ENOSYS} {
		calls := slices.Concat(refusedCalls[e], refusedHere[e])
		slices.Sort(calls)
		for _, c := range slices.Compact(calls) {
			a.unless(c, 1)
			a.refuse(e)
		}
	}
	a.call(unix.SYS_CLONE, func(a *assembler) {
		a.load64(0)
		a.mask(foreignNamespaces)
		a.unless(0, 1)
		a.allow()
		a.refuse(unix.EPERM)
	})
	a.call(unix.SYS_SOCKET, func(a *assembler) { a.sockets(network) })
	a.only(unix.SYS_SOCKETPAIR, 0, unix.EAFNOSUPPORT, unix.AF_UNIX)
	a.only(unix.SYS_PERSONALITY, 0, unix.EPERM, 0, 0xffffffff)
	a.call(unix.SYS_IOCTL, func(a *assembler) {
		a.load64(1)
		for _, request := range []uint32{unix.TIOCSTI, unix.TIOCLINUX} { // to type for whoever owns the terminal
			a.unless(request, 1)
			a.refuse(unix.EPERM)
		}
		a.allow()
	})
	a.allow()

	code := make([]byte, 0, 8*len(a))
	for _, f := range a {
		code = binary.NativeEndian.AppendUint16(code, f.Code)
		code = append(code, f.Jt, f.Jf)
		code = binary.NativeEndian.AppendUint32(code, f.K)
	}
	return code
}

// sockets writes what holds for socket(2): Unix sockets; with a network TCP and
// UDP, and netlink's routes, by which programs list their interfaces.
func (a *assembler) sockets(network bool) {
	a.load64(0)
	a.unless(unix.AF_UNIX, 1)
	a.allow()
	if !network {
		a.refuse(unix.EACCES)
		return
	}
	var inet, netlink assembler
	inet.load64(1)
	inet.mask(0xf)
	inet.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.SOCK_STREAM, 2, 0)
	inet.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.SOCK_DGRAM, 1, 0)
	inet.refuse(unix.EPROTONOSUPPORT)
	inet.load64(2)
	for _, protocol := range []uint32{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		inet.unless(protocol, 1)
		inet.allow()
	}
	inet.refuse(unix.EPROTONOSUPPORT)
	netlink.load64(2)
	netlink.unless(unix.NETLINK_ROUTE, 1)
	netlink.allow()
	netlink.refuse(unix.EPROTONOSUPPORT)

	a.unless(unix.AF_NETLINK, len(netlink))
	*a = append(*a, netlink...)
	a.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.AF_INET, 2, 0)
	a.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.AF_INET6, 1, 0)
	a.refuse(unix.EAFNOSUPPORT)
	*a = append(*a, inet...)
}
