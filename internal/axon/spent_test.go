package axon

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/sim"
)

// A call that a limit of the relay cuts off says so, whichever direction the
// limit was met in, and nothing of a host that fell silent.
func TestRelayLimitIsNamed(t *testing.T) {
	for name, tc := range map[string]struct {
		body int // of each answer of those that share the circuit
		says string
	}{
		"time": {0, "for as long as it does"}, "bytes of answers": {100 << 10, "all that it does"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				slow := make(chan struct{})
				a, b := behind(t, sim.NATConfig{PerRemote: true, PortFilter: true}, func(ctx context.Context, _ identity.Key, r frame.Request) (frame.Response, error) {
					if r.Target == "wait" {
						<-ctx.Done()
						return frame.Response{}, ctx.Err()
					}
					<-slow // all at once, so that none knows of the others
					return frame.Response{Body: make([]byte, tc.body)}, nil
				})
				call := func(target string) error {
					_, err := a.Call(t.Context(), b.key(), b.host.LeaseAddrs(false), frame.Request{Target: target})
					return err
				}
				ended := make(chan error, 1)
				go func() { ended <- call("wait") }()
				if tc.body > 0 {
					for range 2 * host.RelayBytes / tc.body {
						go func() { _ = call("answer") }()
					}
					time.Sleep(time.Second)
					close(slow)
				}
				err := <-ended
				wantCode(t, err, frame.Unavailable)
				e := frame.AsError(err)
				t.Log(e)
				if !strings.Contains(e.Message, tc.says) || !strings.Contains(e.Message, "not known") || strings.Contains(e.Message, "silent") || e.Hint == "" {
					t.Errorf("%+v", e)
				}
			})
		})
	}
}
