package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The demo plays in a network namespace of its own where the system allows: a
// loopback interface to which every packet goes, wherever it is sent. Nothing
// leaves, and what somebody tries to send can be counted.
//
// Three processes stand in a row. The first one waits. The second is made in the
// namespace, sets it up, opens the taps, and by exec becomes the third, which has
// the rights of its user again and plays.

// Descriptors of the second process.
const (
	apartReport = 3 // on which it says how it went
	apartLeash  = 4 // that ends when the first process does; the third has it too
)

// apartReady is what it says when all is well. Anything else is an error.
const apartReady = "ready"

// namespaces are the ways into a network namespace: as whoever may make one,
// and as an ordinary user who makes a user namespace around it.
func namespaces() []*syscall.SysProcAttr {
	return []*syscall.SysProcAttr{
		{Cloneflags: syscall.CLONE_NEWNET},
		{
			Cloneflags:  syscall.CLONE_NEWNET | syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}, // files keep their owner
			GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
			AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}, // until the third process
		},
	}
}

// playApart runs this command again in a network of its own and returns its exit
// code. An error says that the system does not allow it; nothing has been played
// then.
func playApart(ctx context.Context, args []string) (exit int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	var refused []string
	for _, how := range namespaces() {
		exit, err := playIn(ctx, how, self, append(args, "--apart"))
		if err == nil {
			return exit, nil
		}
		if !slices.Contains(refused, err.Error()) {
			refused = append(refused, err.Error())
		}
	}
	return 0, errors.New(strings.Join(refused, "; "))
}

func playIn(ctx context.Context, how *syscall.SysProcAttr, self string, args []string) (int, error) {
	report, theirs, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer report.Close()
	leash, hand, err := os.Pipe()
	if err != nil {
		theirs.Close()
		return 0, err
	}
	defer hand.Close()
	cmd := exec.Command(self, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs, leash}
	cmd.SysProcAttr = how
	how.Setpgid = true // Ctrl-C is for us to pass on, once
	err = cmd.Start()
	theirs.Close()
	leash.Close()
	if number := syscall.Errno(0); errors.As(err, &number) {
		err = number // the rest is about this program's path
	}
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return 0, errors.New("this host allows no more network namespaces")
	case err != nil:
		return 0, fmt.Errorf("make a network namespace: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	text, _ := io.ReadAll(io.LimitReader(report, 4<<10))
	err = cmd.Wait()
	if string(text) != apartReady && ctx.Err() == nil {
		return 0, errors.New(string(text))
	}
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// enterApart is the second process. It returns only where it fails, having said so.
func enterApart(args []string) error {
	runtime.LockOSThread() // rights belong to a thread, exec keeps those of its own
	report := os.NewFile(apartReport, "report")
	if _, err := unix.FcntlInt(apartReport, unix.F_GETFD, 0); err != nil {
		return errors.New("--apart is for cell demo itself")
	}
	unix.CloseOnExec(apartReport)
	_, _ = io.WriteString(report, becomeApart(args, report).Error())
	os.Exit(1) // the first process has the word
	return nil
}

func becomeApart(args []string, report io.Writer) error {
	if err := raiseLoopback(); err != nil {
		return fmt.Errorf("start loopback: %w", err)
	}
	if err := routeHere(unix.AF_INET); err != nil {
		return fmt.Errorf("route to loopback: %w", err)
	}
	if err := routeHere(unix.AF_INET6); err != nil && speaksIPv6() {
		return fmt.Errorf("route to loopback: %w", err)
	}
	for range tapCount {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0) // hears nothing before it is bound
		if err != nil {
			return fmt.Errorf("open a tap: %w", err)
		}
		args = append(args, "--tap="+strconv.Itoa(fd))
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("give up rights: %w", err)
	}
	if _, err := io.WriteString(report, apartReady); err != nil {
		return err
	}
	return fmt.Errorf("start %s: %w", self, unix.Exec(self, append([]string{os.Args[0]}, args...), os.Environ()))
}

// followParent has the third process end in good order when the first is gone,
// however that ended.
func followParent(end func()) {
	unix.CloseOnExec(apartLeash)
	leash := os.NewFile(apartLeash, "leash")
	go func() {
		_, _ = leash.Read(make([]byte, 1)) // nothing ever comes
		end()
	}()
}

// dieWithDemo has the system end a process that the demo has no more time to end.
func dieWithDemo(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

// raiseLoopback switches the loopback interface on, multicast included.
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
		return err
	}
	r.SetUint16(r.Uint16() | unix.IFF_UP | unix.IFF_MULTICAST)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// routeHere makes every address one of this machine, by the loopback interface.
func routeHere(family byte) error {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const size = unix.SizeofNlMsghdr + unix.SizeofRtMsg + unix.SizeofRtAttr + 4
	e := binary.NativeEndian
	m := e.AppendUint32(nil, size)
	m = e.AppendUint16(m, unix.RTM_NEWROUTE)
	m = e.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	m = append(m, make([]byte, 8)...) // sequence and port: one question, one answer
	m = append(m, family, 0 /* any destination */, 0, 0, unix.RT_TABLE_LOCAL, unix.RTPROT_STATIC, unix.RT_SCOPE_HOST, unix.RTN_LOCAL, 0, 0, 0, 0)
	m = e.AppendUint16(m, unix.SizeofRtAttr+4)
	m = e.AppendUint16(m, unix.RTA_OIF)
	m = e.AppendUint32(m, uint32(lo.Index))
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4<<10)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || e.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("the kernel's answer makes no sense")
	}
	if number := int32(e.Uint32(answer[unix.SizeofNlMsghdr:])); number != 0 {
		return syscall.Errno(-number)
	}
	return nil
}

// speaksIPv6 reports whether there is IPv6 here at all.
func speaksIPv6() bool {
	c, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		return false
	}
	return c.Close() == nil
}
