package main

import (
	"fmt"
	"net"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// tapCount is how many taps the demo is given.
const tapCount = 2

// tap counts the packets that are sent to a port, UDP or TCP, to any address.
type tap struct {
	fd    int
	total int
}

// openTap begins to count, on a descriptor from playApart.
func openTap(fd int, port uint16) (*tap, error) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return nil, fmt.Errorf("open a tap: %w", err)
	}
	unix.CloseOnExec(fd)
	raw, err := bpf.Assemble(sentTo(port))
	if err != nil {
		return nil, fmt.Errorf("open a tap: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		return nil, fmt.Errorf("open a tap: %w", err)
	}
	all := uint16(unix.ETH_P_ALL)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: lo.Index}); err != nil {
		return nil, fmt.Errorf("open a tap: %w", err)
	}
	return &tap{fd: fd}, nil
}

// sentTo lets pass what is sent to a port. The link's header is not part of what
// it sees. On loopback every packet is seen when it leaves and when it comes:
// the former counts.
func sentTo(port uint16) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 15},
		bpf.LoadExtension{Num: bpf.ExtProto},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IPV6, SkipTrue: 7},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IP, SkipTrue: 12},
		bpf.LoadAbsolute{Off: 9, Size: 1}, // IPv4: protocol, then the port behind a header of any length
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 9},
		bpf.LoadMemShift{Off: 0},
		bpf.LoadIndirect{Off: 2, Size: 2},
		bpf.Jump{Skip: 4},
		bpf.LoadAbsolute{Off: 6, Size: 1}, // IPv6: next header; nobody here sends extension headers
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 42, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(port), SkipTrue: 1},
		bpf.RetConstant{Val: 1},
		bpf.RetConstant{Val: 0},
	}
}

// count returns how many packets have been sent since openTap. A packet counts
// before the call that sends it returns, and whether or not there is room for it.
func (t *tap) count() (int, error) {
	s, err := unix.GetsockoptTpacketStats(t.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("read a tap: %w", err)
	}
	t.total += int(s.Packets)
	return t.total, nil
}
