package pheromone

import (
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestInterfacesComeAndGo runs itself once more in a network of its own, where
// loopback is down at first.
func TestInterfacesComeAndGo(t *testing.T) {
	if os.Getenv("CELL_TEST_OWN_NETWORK") != "" {
		testInterfacesComeAndGo(t)
		return
	}
	c := exec.Command(os.Args[0], "-test.run=^TestInterfacesComeAndGo$", "-test.v")
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

func testInterfacesComeAndGo(t *testing.T) {
	b := listen(t, UDPConfig{Port: testPort(), Rescan: time.Hour})
	if b.changes == nil {
		t.Skip("this system does not tell of changes")
	}
	if b.Report().OK || b.Send([]byte("x"), netip.AddrPort{}) == nil {
		t.Fatalf("multicast works though there is no network: %+v", b.Report())
	}
	for range 2 {
		began := time.Now()
		setLoopback(t, true)
		select {
		case <-b.Changed():
		case <-time.After(5 * time.Second):
			t.Fatal("nobody noticed that loopback is up")
		}
		t.Logf("noticed after %v", time.Since(began))
		if err := b.Send([]byte("hello"), netip.AddrPort{}); err != nil {
			t.Fatal(err)
		}
		recv(t, b, "hello")
		setLoopback(t, false)
		for deadline := time.Now().Add(5 * time.Second); len(b.Report().Interfaces) > 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("loopback is down, but still used: %+v", b.Report())
			}
		}
	}
}

func setLoopback(t *testing.T, up bool) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	if up {
		r.SetUint16(unix.IFF_UP)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
		t.Fatal(err)
	}
}
