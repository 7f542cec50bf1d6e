package axon

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/sim"
)

// TestErrorsInPlainWords: what a caller is told of a host that is gone is for
// people, who know nothing of streams and codes.
func TestErrorsInPlainWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, n := planet(t, Config{}, Config{Handler: echo}, Config{Handler: echo}, Config{Handler: echo})
		a, killed, shut, gone := n[0], n[1], n[2], n[3]
		at := func(x *node) string {
			return x.host.Addrs()[0].String()
		}
		where := map[*node]string{killed: at(killed), shut: at(shut), gone: at(gone)}
		wants := func(what string, err error, code frame.Code, want string) {
			t.Helper()
			if e := frame.AsError(err); e == nil || e.Code != code || e.Message != want {
				t.Errorf("%s: %v, %q\nwant %v, %q", what, e.Code, e.Message, code, want)
			}
			for _, jargon := range []string{"stream", "code", "transport", "0x", "12D3", "EOF", "context", "dial"} {
				if err != nil && strings.Contains(err.Error(), jargon) {
					t.Errorf("%s: %q speaks of %q", what, err, jargon)
				}
			}
		}
		call := func(x *node) error {
			_, err := a.Call(t.Context(), x.key(), x.addrs(), frame.Request{Target: "echo"})
			return err
		}
		for _, c := range []struct {
			what  string
			x     *node
			end   func()
			first string
		}{
			{"killed", killed, func() { net.Kill(sim.Addr(1)) }, "the host fell silent 6s ago; whether the request was executed is not known"},
			{"refuses lanes", shut, func() { shut.Close() }, "the host ended the connection; whether the request was executed is not known"},
			{"shut down", gone, func() { gone.host.Close() }, "the host ended the connection; whether the request was executed is not known"},
		} {
			if err := call(c.x); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() {
				_, err := a.Call(t.Context(), c.x.key(), c.x.addrs(), frame.Request{Target: "wait"})
				ended <- err
			}()
			time.Sleep(time.Second)
			go c.end()
			wants(c.what, <-ended, frame.Unavailable, c.first)
		}
		for x, addr := range where {
			if x != shut {
				wants("called again", call(x), frame.NotSent, "the host does not answer at "+addr)
			}
		}
		_, err := a.Call(t.Context(), key(77).Public(), nil, frame.Request{Target: "echo"})
		wants("nobody knows where", err, frame.NotSent, "no address of the host is known")
		_, err = a.Call(t.Context(), key(78).Public(), shut.addrs(), frame.Request{Target: "echo"})
		wants("another is there", err, frame.NotSent, "the host is not at "+where[shut]+": another one is")
		a.Close()
		wants("closed", call(shut), frame.NotSent, "this node is shutting down")
	})
}
