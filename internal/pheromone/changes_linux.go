package pheromone

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// listenChanges opens a socket on which the kernel tells of every change of an
// interface or an address. What it says is not read, only that it does.
func listenChanges() (*os.File, error) {
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
