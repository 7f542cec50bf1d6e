package capsid

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// verdict runs a filter on one system call, as the kernel would.
func verdict(t *testing.T, code []byte, arch, number uint32, args ...uint32) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.NativeEndian.PutUint32(data[dataNumber:], number)
	binary.NativeEndian.PutUint32(data[dataArch:], arch)
	for i, a := range args {
		binary.NativeEndian.PutUint32(data[dataArgs+8*i:], a)
	}
	var acc uint32
	for at := 0; at < len(code)/8; at++ {
		op := binary.NativeEndian.Uint16(code[8*at:])
		yes, no, k := int(code[8*at+2]), int(code[8*at+3]), binary.NativeEndian.Uint32(code[8*at+4:])
		jump := func(is bool) {
			if is {
				at += yes
			} else {
				at += no
			}
		}
		switch op {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.NativeEndian.Uint32(data[k:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= k
		case unix.BPF_RET | unix.BPF_K:
			return k
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(acc == k)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(acc >= k)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump(acc > k)
		default:
			t.Fatalf("instruction %d: unknown operation %#x", at, op)
		}
	}
	t.Fatal("the filter has no end")
	return 0
}

func TestSystemCalls(t *testing.T) {
	network, none := systemCalls(true), systemCalls(false)
	if network == nil {
		t.Skip("there is no filter for this architecture")
	}
	const allow, kill = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_KILL_PROCESS
	refuse := func(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }
	for _, tt := range []struct {
		name         string
		arch, number uint32
		args         []uint32
		want, alone  uint32 // with a network of its own, and without
	}{
		{"read", auditArch, unix.SYS_READ, nil, allow, allow},
		{"another architecture", auditArch + 1, unix.SYS_READ, nil, kill, kill},
		{"another table", auditArch, 0x40000000 | unix.SYS_READ, nil, kill, kill},
		{"the newest", auditArch, newestCall, nil, allow, allow},
		{"a newer one", auditArch, newestCall + 1, nil, refuse(unix.ENOSYS), refuse(unix.ENOSYS)},
		{"ptrace", auditArch, unix.SYS_PTRACE, nil, refuse(unix.EPERM), refuse(unix.EPERM)},
		{"io_uring", auditArch, unix.SYS_IO_URING_SETUP, nil, refuse(unix.ENOSYS), refuse(unix.ENOSYS)},
		{"a thread", auditArch, unix.SYS_CLONE, []uint32{unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_FILES}, allow, allow},
		{"a user namespace", auditArch, unix.SYS_CLONE, []uint32{unix.CLONE_NEWUSER | unix.CLONE_VM}, refuse(unix.EPERM), refuse(unix.EPERM)},
		{"clone3", auditArch, unix.SYS_CLONE3, nil, refuse(unix.ENOSYS), refuse(unix.ENOSYS)},
		{"unix socket", auditArch, unix.SYS_SOCKET, []uint32{unix.AF_UNIX, unix.SOCK_STREAM, 0}, allow, allow},
		{"tcp", auditArch, unix.SYS_SOCKET, []uint32{unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK, 0}, allow, refuse(unix.EACCES)},
		{"udp 6", auditArch, unix.SYS_SOCKET, []uint32{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP}, allow, refuse(unix.EACCES)},
		{"raw", auditArch, unix.SYS_SOCKET, []uint32{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, refuse(unix.EPROTONOSUPPORT), refuse(unix.EACCES)},
		{"mptcp", auditArch, unix.SYS_SOCKET, []uint32{unix.AF_INET, unix.SOCK_STREAM, 262}, refuse(unix.EPROTONOSUPPORT), refuse(unix.EACCES)},
		{"packet", auditArch, unix.SYS_SOCKET, []uint32{unix.AF_PACKET, unix.SOCK_RAW, 0}, refuse(unix.EAFNOSUPPORT), refuse(unix.EACCES)},
		{"routes", auditArch, unix.SYS_SOCKET, []uint32{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, allow, refuse(unix.EACCES)},
		{"audit", auditArch, unix.SYS_SOCKET, []uint32{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT}, refuse(unix.EPROTONOSUPPORT), refuse(unix.EACCES)},
		{"socketpair", auditArch, unix.SYS_SOCKETPAIR, []uint32{unix.AF_UNIX}, allow, allow},
		{"tipc pair", auditArch, unix.SYS_SOCKETPAIR, []uint32{unix.AF_TIPC}, refuse(unix.EAFNOSUPPORT), refuse(unix.EAFNOSUPPORT)},
		{"personality", auditArch, unix.SYS_PERSONALITY, []uint32{0xffffffff}, allow, allow},
		{"fixed addresses", auditArch, unix.SYS_PERSONALITY, []uint32{0x40000}, refuse(unix.EPERM), refuse(unix.EPERM)},
		{"terminal size", auditArch, unix.SYS_IOCTL, []uint32{0, unix.TIOCGWINSZ}, allow, allow},
		{"typing", auditArch, unix.SYS_IOCTL, []uint32{0, unix.TIOCSTI}, refuse(unix.EPERM), refuse(unix.EPERM)},
	} {
		if got := verdict(t, network, tt.arch, tt.number, tt.args...); got != tt.want {
			t.Errorf("%s: %#x, want %#x", tt.name, got, tt.want)
		}
		if got := verdict(t, none, tt.arch, tt.number, tt.args...); got != tt.alone {
			t.Errorf("%s without a network: %#x, want %#x", tt.name, got, tt.alone)
		}
	}
}
