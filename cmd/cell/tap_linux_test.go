package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTap counts packets of both kinds and families in a network of its own, and
// others not. It runs itself again there, as the demo does.
func TestTap(t *testing.T) {
	if os.Getenv("CELL_TEST_TAP") != "" {
		tapInside(t)
		return
	}
	var refused []error
	for _, how := range namespaces() {
		cmd := exec.Command(os.Args[0], "-test.run=^TestTap$", "-test.v")
		cmd.Env = append(os.Environ(), "CELL_TEST_TAP=1")
		cmd.SysProcAttr = how
		out, err := cmd.CombinedOutput()
		var number syscall.Errno
		if errors.As(err, &number) || strings.Contains(string(out), tapRefused) {
			refused = append(refused, fmt.Errorf("%w: %s", err, out))
			continue
		}
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	t.Skip("no network namespaces here:", errors.Join(refused...))
}

// tapRefused is printed where the namespace may be made, but not set up.
const tapRefused = "may not set up the namespace"

func tapInside(t *testing.T) {
	if err := errors.Join(raiseLoopback(), routeHere(unix.AF_INET)); err != nil {
		t.Skip(tapRefused, err)
	}
	six := routeHere(unix.AF_INET6) == nil && speaksIPv6()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Skip(tapRefused, err)
	}
	const port = 5300
	tap, err := openTap(fd, port)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		network, host string
		port, want    int
	}{
		{"udp4", "127.0.0.1", port, 1}, {"udp4", "192.0.2.7", port, 1}, {"tcp4", "198.51.100.7", port, 1},
		{"udp6", "::1", port, 1}, {"udp6", "2001:db8::7", port, 1}, {"tcp6", "2001:db8::7", port, 1},
		{"udp4", "192.0.2.7", port + 1, 0}, {"tcp4", "192.0.2.7", port + 1, 0}, {"udp6", "2001:db8::7", port + 1, 0},
	} {
		if strings.HasSuffix(c.network, "6") && !six {
			t.Log("there is no IPv6 here")
			continue
		}
		before, err := tap.count()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial(c.network, net.JoinHostPort(c.host, strconv.Itoa(c.port)))
		if err == nil {
			_, err = conn.Write([]byte("x"))
			conn.Close()
		}
		if err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s to %s: %v", c.network, c.host, err)
		}
		after, err := tap.count()
		if err != nil {
			t.Fatal(err)
		}
		if after-before != c.want {
			t.Errorf("%s to %s port %d: %d packets counted, want %d", c.network, c.host, c.port, after-before, c.want)
		}
	}
}
