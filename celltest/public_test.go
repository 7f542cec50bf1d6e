package celltest_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/node"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Two nodes of one LAN need no address, on the public network too: there
// private addresses are neither published nor dialled, except among neighbours.
func TestPublicLAN(t *testing.T) {
	w := newSite(t, "")
	args := []string{"--no-bootstrap", "--lan-port", strconv.Itoa(w.lanPort)}
	a, b := w.up(args...), w.up(args...)
	if a.status.Network != "public" || !a.status.LAN.OK {
		t.Fatalf("%+v", a.status)
	}
	if reachable(t, a.status) {
		t.Skip("this machine has a public address")
	}
	source := w.newCell("greeter", nil)
	w.must(a, "run", source)
	call := "greeter@" + a.status.Author.String() + "/hello"
	if out := w.must(b, "call", call, `{"Name":"Ada"}`); out != "{\"Text\":\"hello Ada\"}\n" {
		t.Errorf("%q", out)
	}
	if err := w.waitFor(a, func(e journal.Event) bool { // nothing was put into the DHT
		return e.Kind == journal.Announce && strings.Contains(e.Text, "no address that strangers could dial")
	}); err != nil {
		t.Error(err)
	}
	for _, p := range []*process{a, b} {
		s, err := p.client.Status(t.Context())
		if err != nil || s.DHT.Size != 0 {
			t.Errorf("%d nodes of the DHT are known by private addresses: %v", s.DHT.Size, err)
		}
	}
	if err := w.Down(0); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	_, errs, code := w.cell(b, "call", call)
	if took := time.Since(begin); code != node.ExitNotFound || !strings.Contains(errs, "it withdrew") || took > time.Second {
		t.Errorf("after the goodbye: exit code %d after %v: %s", code, took, errs)
	}
	if err := w.start(a); err != nil {
		t.Fatal(err)
	}
	w.must(a, "run", source)
	w.eventuallyCell(b, "call", call)
}

// reachable reports whether strangers could dial the node.
func reachable(t *testing.T, s node.Status) bool {
	for _, text := range s.Listen {
		a, err := ma.NewMultiaddr(text)
		if err != nil {
			t.Fatal(err)
		}
		if quic, _ := peer.SplitAddr(a); host.Dialable(identity.Public, quic) {
			return true
		}
	}
	return false
}

// waitFor waits for an event, also a past one.
func (w *processes) waitFor(p *process, is func(journal.Event) bool) error {
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	for e, err := range p.client.Events(ctx, 0, true) {
		if err != nil {
			return fmt.Errorf("no such event: %w", err)
		}
		if is(e) {
			return nil
		}
	}
	return ctx.Err()
}

// A program's call to another host finishes though the program's own node goes down.
func TestCallerGoesDown(t *testing.T) {
	w := newProcesses(t, "")
	if err := w.Run(0); err != nil {
		t.Fatal(err)
	}
	eventually(t.Context(), t, w, 1)
	type result struct {
		out string
		err error
	}
	answered := make(chan result, 1)
	go func() {
		out, err := w.Call(t.Context(), 1, slow(w))
		answered <- result{out, err}
	}()
	time.Sleep(slowTime / 2) // it is being served
	if err := w.Down(1); err != nil {
		t.Error(err)
	}
	if r := <-answered; r.err != nil || r.out != "hello Ada" {
		t.Errorf("%q, %v", r.out, r.err)
	}
}

// What goes wrong in a call is told in words, and by the exit code.
func TestCallErrors(t *testing.T) {
	w := newProcesses(t, "")
	if err := w.Run(0); err != nil {
		t.Fatal(err)
	}
	eventually(t.Context(), t, w, 1)
	for _, c := range []struct {
		method, in string
		code       int
		says       []string
	}{
		{"hallo", `{}`, node.ExitFailed, []string{`cell: error: no method "hallo"`, "cell: hint: ", "fail, hello, slow"}},
		{"fail", `{}`, node.ExitFailed, []string{"cell: error: out of greetings"}},
		{"hello", `{"Name":5}`, node.ExitFailed, []string{"cell: error: read request of hello: ", "Name", "string"}},
		{"hello", `[1]`, node.ExitFailed, []string{"cell: error: read request of hello: ", "array"}},
		{"hello", `{"Name"`, node.ExitUsage, []string{"cell: error: the request is not JSON: ", "cell: hint: "}},
		{"Hello!", `{}`, node.ExitUsage, []string{"cell: error: ", "cell: hint: "}},
	} {
		for i := range 2 {
			target := "greeter@" + w.Author() + "/" + c.method
			out, errs, code := w.cell(w.nodes[i], "call", target, c.in)
			if code != c.code || out != "" {
				t.Errorf("node %d, %s %s: exit code %d, want %d: %s%s", i, c.method, c.in, code, c.code, out, errs)
			}
			for _, s := range c.says {
				if !strings.Contains(errs, s) {
					t.Errorf("node %d, %s %s: %q is missing in: %s", i, c.method, c.in, s, errs)
				}
			}
		}
	}
	_, errs, code := w.cell(w.nodes[1], "call", "--timeout", "100ms", slow(w), `{"Name":"Ada"}`)
	if code != node.ExitTimeout || !strings.Contains(errs, "cell: hint: ") {
		t.Errorf("a slow call: exit code %d: %s", code, errs)
	}
}
