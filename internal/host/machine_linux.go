package host

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// listenChanges opens a socket (rtnetlink) on which the kernel tells of every
// change of an interface or an address. What it says is not looked at, only
// that it does.
func listenChanges() (io.ReadCloser, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("listen for changes of interfaces: %w", err)
	}
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listen for changes of interfaces: %w", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// toldTooMuch reports whether the kernel told more than it keeps: that is a
// change, too.
func toldTooMuch(err error) bool { return errors.Is(err, unix.ENOBUFS) }
