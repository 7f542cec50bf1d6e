package celltest_test

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"cell.network/cell/internal/pheromone"
	"cell.network/cell/internal/record"
)

// cell runs a command on a machine and returns what it printed and its exit code.
func (w *processes) cell(p *process, args ...string) (stdout, stderr string, code int) {
	w.t.Helper()
	var out, errs bytes.Buffer
	c := w.command(p, args...)
	c.Stdout, c.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := c.Run(); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		w.t.Fatal(err)
	}
	return out.String(), errs.String(), code
}

// must runs a command that has to succeed.
func (w *processes) must(p *process, args ...string) string {
	w.t.Helper()
	out, errs, code := w.cell(p, args...)
	if code != 0 {
		w.t.Fatalf("cell %s: exit code %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

// eventuallyCell runs a command until it succeeds.
func (w *processes) eventuallyCell(p *process, args ...string) string {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out, errs, code := w.cell(p, args...)
		if code == 0 {
			return out
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("cell %s: exit code %d: %s", strings.Join(args, " "), code, errs)
		}
	}
}

// field is what cell init prints after a word.
func field(out, word string) string {
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == word {
			return f[1]
		}
	}
	return ""
}

// An author's second machine serves his cell while his keys and his first
// machine are away; without his word it does not.
func TestAdmit(t *testing.T) {
	t.Parallel()
	w := newSite(t, "")
	lan := []string{"--network", "celltest", "--no-bootstrap", "--lan-port", strconv.Itoa(w.lanPort)}
	a, c := w.up(lan...), w.up(lan...)
	author := a.status.Author.String()
	source := w.newCell("greeter", nil)
	call := "greeter@" + author + "/hello"

	b := w.machine(lan...)
	key := field(w.must(b, "init"), "node")
	if err := w.start(b); err != nil {
		t.Fatal(err)
	}
	w.must(b, "config", "set", "author", author)
	if out, errs, code := w.cell(b, "run", source); code != node.ExitRefused || !strings.Contains(errs, "cell: hint: ") || !strings.Contains(errs, "cell admit "+key) {
		t.Errorf("run without a token: exit code %d: %s%s", code, out, errs)
	}
	if _, errs, code := w.cell(c, "call", call); code != node.ExitNotFound {
		t.Errorf("nobody serves it yet: exit code %d: %s", code, errs)
	}
	w.forge(b, a.status.Author)
	w.eventuallyCell(c, "lookup", "own@"+b.status.Author.String()) // of the same packet as the forged one
	if out, errs, code := w.cell(c, "lookup", "vault@"+author); code != node.ExitNotFound {
		t.Errorf("a forged lease: exit code %d: %s%s", code, out, errs)
	}

	token := strings.TrimSpace(w.must(a, "admit", key))
	if _, errs, code := w.cell(c, "admit", token); code != node.ExitRefused {
		t.Errorf("a token for another machine: exit code %d: %s", code, errs)
	}
	w.must(b, "admit", token)
	for _, name := range []string{"author.key", "colony.key"} {
		if err := os.Rename(filepath.Join(a.root, "config", name), filepath.Join(w.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	a.kill()

	w.must(b, "run", source)
	if out := w.eventuallyCell(c, "call", call, `{"Name":"Ada"}`); out != "{\"Text\":\"hello Ada\"}\n" {
		t.Errorf("%q", out)
	}
	w.must(c, "trust", "add", "alice", author)
	if out := w.must(c, "call", "greeter@alice/hello", `{"Name":"Ada"}`); out != "{\"Text\":\"hello Ada\"}\n" {
		t.Errorf("%q", out)
	}
	if err := w.Down(2); err != nil { // what was admitted outlives the node, and so does what it ran
		t.Error(err)
	}
	if err := w.start(b); err != nil {
		t.Fatal(err)
	}
	w.eventuallyCell(c, "call", call, `{"Name":"Ada"}`)
}

// forge tells the LAN, as node b, of a cell of another author and, so that it
// shows when it was heard, of one of b's own.
func (w *processes) forge(b *process, author identity.Key) {
	w.t.Helper()
	key, err := identity.LoadPrivate(filepath.Join(b.root, "config", "node.key"))
	if err != nil {
		w.t.Fatal(err)
	}
	own, err := identity.LoadPrivate(filepath.Join(b.root, "config", "author.key"))
	if err != nil {
		w.t.Fatal(err)
	}
	id := b.status.Network.ID()
	grant, err := record.SignGrant(own, id, "", []record.Subject{{Kind: record.SubjectAny}}, time.Now(), time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	p := pheromone.Packet{Kind: pheromone.KindAnnounce, Network: pheromone.Tag(id[:8])}
	for i, cell := range []identity.Cell{{Author: author, Name: "vault"}, {Author: own.Public(), Name: "own"}} {
		order := record.Order{Incarnation: 1 << 62, Sequence: uint64(i)}
		h := record.Header{Domain: record.DomainLease, Network: id, Order: order, Issued: time.Now(), TTL: time.Minute}
		addr := []byte{4, 127, 0, 0, 1, 0x91, 2, 0x23, 0x28, 0xcc, 3} // /ip4/127.0.0.1/udp/9000/quic-v1
		raw, err := record.Sign(key, h, []any{cell.Author, string(cell.Name), record.StateAlive, [][]byte{addr}, grant.Raw, []byte(nil)})
		if err != nil {
			w.t.Fatal(err)
		}
		p.Records = append(p.Records, raw)
	}
	bus, err := pheromone.ListenUDP(pheromone.UDPConfig{Port: uint16(w.lanPort)})
	if err != nil {
		w.t.Fatal(err)
	}
	defer bus.Close()
	if err := bus.Send(p.Append(nil), netip.AddrPort{}); err != nil {
		w.t.Fatal(err)
	}
}
