package main

import (
	"errors"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func itoa(n int) string { return strconv.Itoa(n) }

func hex(s string) int64 {
	n, _ := strconv.ParseInt(s, 16, 64)
	return n
}

func ignoreAll() {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
}

var network = map[string]attack{
	"dial-tcp":      func(a []string) error { return dial("tcp", a[0]) },
	"dial-udp":      func(a []string) error { return dial("udp", a[0]) },
	"dial-abstract": func(a []string) error { return dial("unix", a[0]) },
	"dial-path":     func(a []string) error { return dial("unix", a[0]) },
	"listen-tcp": func([]string) error {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err == nil {
			l.Close()
		}
		return err
	},
	"socket-raw":     powerful("socket-raw", func([]string) error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) }),
	"socket-packet":  powerful("socket-packet", func([]string) error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) }),
	"socket-netlink": func([]string) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC) },
	"socket-alg":     func([]string) error { return socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0) },
	"socket-vsock":   func([]string) error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) },
	"socket-mptcp":   func([]string) error { return socket(unix.AF_INET, unix.SOCK_STREAM, 262) },
	"list-neighbours": func([]string) error {
		all, err := net.Interfaces()
		if err == nil && len(all) < 2 {
			err = errNothing
		}
		return err
	},
}

func socket(family, kind, protocol int) error {
	fd, err := unix.Socket(family, kind, protocol)
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

func dial(kind, addr string) error {
	c, err := net.DialTimeout(kind, addr, 2*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("evil")); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
	_, err = c.Read(make([]byte, 4)) // the answer of who was there
	return err
}

// link is what can be done to descriptor 3.
var link = map[string]attack{
	"link-flood": func([]string) error {
		b := make([]byte, 1<<16)
		for i := range b {
			b[i] = byte(i)
		}
		for range 64 {
			if _, err := unix.Write(3, b); err != nil {
				return err
			}
		}
		return nil
	},
	"link-length": func([]string) error { // the largest that can be said, and then nothing
		_, err := unix.Write(3, []byte{0xff, 0xff, 0, 0, 1, 2, 3})
		time.Sleep(100 * time.Millisecond)
		return err
	},
	"link-descriptors": func([]string) error {
		return unix.Sendmsg(3, []byte{1, 0, 1, 0}, unix.UnixRights(0, 1, 2), nil, 0)
	},
	"link-flags": func([]string) error { // of what might be shared with the node: blocking, no delivery, a tiny buffer
		if _, err := unix.FcntlInt(3, unix.F_SETFL, unix.O_ASYNC); err != nil {
			return err
		}
		_ = unix.SetsockoptInt(3, unix.SOL_SOCKET, unix.SO_RCVBUF, 1)
		_ = unix.SetsockoptInt(3, unix.SOL_SOCKET, unix.SO_SNDBUF, 1)
		time.Sleep(20 * time.Second)
		return nil
	},
	"park-descriptors": func(a []string) error { // in flight, where the kernel counts them for the user
		n := number(a, 0)
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		for range n {
			if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(0), nil, unix.MSG_DONTWAIT); err != nil && !errors.Is(err, unix.EAGAIN) {
				return err
			} else if err != nil { // the pair is full: another
				if pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0); err != nil {
					return err
				}
			}
		}
		os.Stdout.WriteString("parked\n")
		time.Sleep(20 * time.Second)
		return nil
	},
}
