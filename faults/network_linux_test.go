package faults_test

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"cell.network/cell/internal/node"
)

// A node whose bootstrap nodes are all dead is usable at once: its own cells
// run, the local network works, and what is nowhere is said to be so soon.
func TestNobodyToBootstrapFrom(t *testing.T) {
	needsGo(t)
	dead, err := net.ListenPacket("udp", "127.0.0.1:0") // takes packets and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	flags := []string{
		"--bootstrap", fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA", dead.LocalAddr().(*net.UDPAddr).Port),
		"--bootstrap", "/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu", // refuses
		"--bootstrap", "/dnsaddr/nobody.invalid",
	}
	s := newSite(t)
	d := s.up(flags...)
	if d.took > 5*time.Second {
		t.Errorf("up after %v", d.took)
	}
	for range 2 {
		if o := s.cell("lookup", "nobody"); o.exit != node.ExitNotFound || o.took > 5*time.Second {
			t.Errorf("lookup of nothing: exit %d after %v: %s", o.exit, o.took, o.stderr)
		}
		if o := s.cell("call", "nobody/hello"); o.exit != node.ExitNotFound || o.took > 5*time.Second {
			t.Errorf("call of nothing: exit %d after %v: %s", o.exit, o.took, o.stderr)
		}
	}
	if c := s.checks()["dht"]; c.Status != node.CheckWarn || !strings.Contains(c.Remedy, "--bootstrap") {
		t.Errorf("doctor: %+v", c)
	}
	s.greeter()
	s.greet("greeter/hello")

	other := s.neighbour()
	o := other.up(flags...)
	if !o.status.LAN.OK {
		t.Skipf("no multicast here: %s", o.status.LAN.Note)
	}
	target := "greeter@" + d.status.Author.String()
	found := other.must("lookup", target)
	near := strings.Contains(found.stdout, " lan ") || strings.Contains(found.stdout, " cache ") // heard before it was asked for
	if !near || found.took > 3*time.Second {
		t.Errorf("after %v: %s", found.took, found.stdout)
	}
	other.greet(target + "/hello")
}

// On a machine without any network a node comes up, says what it lacks, and
// serves its own machine.
func TestNoNetworkAtAll(t *testing.T) {
	needsGo(t)
	if !inside(t, syscall.CLONE_NEWNET) { // its one interface, loopback, is down
		return
	}
	s := newSite(t)
	s.env = append(s.env, "CELL_LISTEN=")
	d := s.up()
	if d.took > 5*time.Second {
		t.Errorf("up after %v", d.took)
	}
	if d.status.LAN.OK || d.status.LAN.Note == "" {
		t.Errorf("lan: %+v", d.status.LAN)
	}
	checks := s.checks()
	for name, word := range map[string]string{"lan": "lan.directed", "multicast": "--lan-directed", "dht": "--bootstrap"} {
		if c := checks[name]; c.Status != node.CheckWarn || !strings.Contains(c.Remedy, word) {
			t.Errorf("doctor: %+v", c)
		}
	}
	s.greeter()
	s.greet("greeter/hello")
	if o := s.cell("lookup", "nobody"); o.exit != node.ExitNotFound || o.took > 5*time.Second {
		t.Errorf("lookup of nothing: exit %d after %v: %s", o.exit, o.took, o.stderr)
	}
}

// Where multicast does not go, nodes that are named to each other still meet.
func TestNoMulticast(t *testing.T) {
	needsGo(t)
	s := newSite(t)
	mine := freePort(t)
	d := s.up("--no-multicast", "--lan-unicast", fmt.Sprint(mine))
	if d.status.LAN.OK {
		t.Errorf("lan: %+v", d.status.LAN)
	}
	s.greeter()
	other := s.neighbour()
	target := "greeter@" + d.status.Author.String()
	deaf := other.up("--no-multicast")
	if o := other.cell("lookup", target); o.exit != node.ExitNotFound || o.took > 5*time.Second {
		t.Errorf("without multicast: exit %d after %v: %s%s", o.exit, o.took, o.stdout, o.stderr)
	}
	deaf.stop()
	other.up("--no-multicast", "--lan-directed", fmt.Sprintf("127.0.0.1:%d", mine))
	if o := other.cell("lookup", target); o.exit != 0 || o.took > 5*time.Second { // by lan, or by cache where it was quicker still
		t.Errorf("named to it: exit %d after %v: %s%s", o.exit, o.took, o.stdout, o.stderr)
	}
	other.greet(target + "/hello")
}
