package node

import (
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/sys/unix"
)

// TestNewAddressIsSigned runs itself once more in a network of its own: when the
// machine gets an address there, leases and contact of a node say so at once.
func TestNewAddressIsSigned(t *testing.T) {
	if os.Getenv("CELL_TEST_OWN_NETWORK") != "" {
		testNewAddressIsSigned(t)
		return
	}
	c := exec.Command(os.Args[0], "-test.run=^TestNewAddressIsSigned$", "-test.v")
	c.Env = append(os.Environ(), "CELL_TEST_OWN_NETWORK=1")
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := c.CombinedOutput()
	if _, ran := err.(*exec.ExitError); err != nil && !ran {
		t.Skipf("this system gives no network of its own, so it cannot be tested here: %v", err)
	}
	if t.Logf("%s", out); err != nil {
		t.Fatal(err)
	}
}

func testNewAddressIsSigned(t *testing.T) {
	setAddr(t, "127.0.0.1")
	keys := ring(1)
	c := Config{Key: keys.Node, Author: keys.author(), Home: tempHome(t), Version: "test", Settings: DefaultSettings()}
	c.Settings.Network, c.Settings.Bootstrap, c.Settings.Listen = "lab", nil, []string{"/ip4/0.0.0.0/udp/0/quic-v1"}
	_, err := IssueOwn(c.Home, c.Settings.Network, keys, time.Now())
	if err == nil {
		c.Certs, err = LoadCerts(c.Home, c.Settings.Network, time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	cell := identity.Cell{Author: keys.Author.Public(), Name: "greeter"}
	grant, member, err := c.Certs.For(cell, keys.Node.Public())
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- n.Run(t.Context()) }()
	t.Cleanup(func() {
		n.Down()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	n.mesh.Announce(cell, grant, member)
	told := func() (contact, leases []string) {
		ip := func(raw []byte) string {
			a, err := ma.NewMultiaddrBytes(raw)
			if err != nil {
				t.Fatal(err)
			}
			return a[0].Value()
		}
		for _, a := range n.pulse.OwnContact().Addrs {
			contact = append(contact, ip(a))
		}
		for e := range n.mesh.Discover(t.Context(), cell) {
			for _, a := range e.Lease.Addrs {
				leases = append(leases, ip(a))
			}
			break
		}
		return contact, leases
	}
	for _, at := range []string{"127.0.0.1", "10.77.0.1", "10.77.0.2"} {
		start := time.Now()
		setAddr(t, at)
		for {
			contact, leases := told()
			if want := []string{at}; slices.Equal(contact, want) && slices.Equal(leases, want) {
				break
			}
			if time.Since(start) > 5*time.Second {
				t.Fatalf("5 s after %s is the machine's address, its contact says %v, its lease %v", at, contact, leases)
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Logf("%s is signed after %v", at, time.Since(start))
	}
}

// setAddr makes an address the only one of loopback, and brings it up.
func setAddr(t *testing.T, ip string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for request, set := range map[uint]func(*unix.Ifreq) error{
		unix.SIOCSIFADDR:  func(r *unix.Ifreq) error { return r.SetInet4Addr(net.ParseIP(ip).To4()) },
		unix.SIOCSIFFLAGS: func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP); return nil },
	} {
		r, err := unix.NewIfreq("lo")
		if err != nil {
			t.Fatal(err)
		}
		if err := set(r); err != nil {
			t.Fatal(err)
		}
		if err := unix.IoctlIfreq(fd, request, r); err != nil {
			t.Fatal(err)
		}
	}
}
