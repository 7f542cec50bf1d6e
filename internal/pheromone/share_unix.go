//go:build unix

package pheromone

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// sharePort lets several processes bind one port, all of which then receive
// what is sent to a group.
func sharePort(_, _ string, c syscall.RawConn) error {
	var err error
	ctl := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		if err == nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}
	})
	if err == nil {
		err = ctl
	}
	return err
}
