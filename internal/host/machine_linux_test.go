package host

import (
	"fmt"
	"net"
	"net/netip"
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

// TestNewAddressIsToldAtOnce runs itself once more in a network of its own and
// gives loopback another address there, as a cable that is plugged in does.
func TestNewAddressIsToldAtOnce(t *testing.T) {
	if os.Getenv("CELL_TEST_OWN_NETWORK") != "" {
		testNewAddressIsToldAtOnce(t)
		return
	}
	c := exec.Command(os.Args[0], "-test.run=^TestNewAddressIsToldAtOnce$", "-test.v")
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

func testNewAddressIsToldAtOnce(t *testing.T) {
	t.Run("no network at first", func(t *testing.T) {
		changed := make(chan struct{}, 100)
		h := open(t, Config{Key: key(1), Listen: DefaultListen, Changed: func() { changed <- struct{}{} }})
		if len(h.Addrs()) > 0 {
			t.Fatalf("addresses of a machine without a network: %v", h.Addrs())
		}
		setAddr(t, netip.MustParseAddr("127.0.0.1"))
		for late := time.After(5 * time.Second); len(h.LeaseAddrs(true)) == 0; {
			select {
			case <-changed:
			case <-late:
				t.Fatal("not told 5 s after there is an interface")
			}
		}
	})
	for name, c := range map[string]Config{
		"private network": {Network: private}, "public network": {Network: identity.Public, NAT: true},
	} {
		t.Run(name, func(t *testing.T) {
			changed := make(chan struct{}, 100)
			c.Key, c.Listen, c.Changed = key(1), DefaultListen[:1], func() { changed <- struct{}{} }
			h := open(t, c)
			told := func() (all []string) {
				for _, a := range h.LeaseAddrs(true) {
					m, _ := ma.NewMultiaddrBytes(a)
					all = append(all, m[0].Value())
				}
				return all
			}
			if got := told(); !slices.Equal(got, []string{"127.0.0.1"}) {
				t.Fatalf("told at first: %v", got)
			}
			for i := range 2 { // each address takes the place of the former one
				at := netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)})
				start := time.Now()
				setAddr(t, at)
				for late := time.After(5 * time.Second); !slices.Equal(told(), []string{at.String()}); {
					select {
					case <-changed:
					case <-late:
						t.Fatalf("told 5 s after %v is there: %v", at, told())
					}
				}
				t.Logf("%v is told after %v", at, time.Since(start))
				if got := fmt.Sprint(h.Addrs()); got != fmt.Sprintf("[%s]", h.Addrs()[0]) {
					t.Errorf("libp2p is told %s", got)
				}
			}
			setAddr(t, netip.MustParseAddr("127.0.0.1"))
			for late := time.After(5 * time.Second); !slices.Equal(told(), []string{"127.0.0.1"}); {
				select {
				case <-changed:
				case <-late:
					t.Fatalf("told once there is no network: %v", told())
				}
			}
		})
	}
}

// setAddr makes an address the only one of loopback, and brings it up.
func setAddr(t *testing.T, a netip.Addr) {
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
	if err := r.SetInet4Addr(net.IP(a.AsSlice())); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, r); err != nil {
		t.Fatal(err)
	}
	flags, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	flags.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, flags); err != nil {
		t.Fatal(err)
	}
}
