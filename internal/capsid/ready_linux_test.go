package capsid

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/membrane"
)

func TestReady(t *testing.T) {
	each(t, func(t *testing.T, iso Isolation, _ bool) {
		c := newCapsid(t)
		for _, tt := range []struct {
			args string
			wait time.Duration
			want string
		}{
			{"exit 3", time.Minute, "not ready: the program ended before it said so: exit status 3"},
			{"exit 0", time.Minute, "not ready: the program ended before it said so: exit status 0"},
			{"silent", 200 * time.Millisecond, "not ready: the program runs and has said nothing yet (is cell.Main the last call of its main?): context deadline exceeded"},
			{"hangup", time.Minute, "not ready: "},
		} {
			p := start(t, c, Spec{Args: strings.Fields(tt.args), Isolation: iso})
			port := membrane.NewPort(p.Link(), membrane.PortConfig{})
			ctx, cancel := context.WithTimeout(t.Context(), tt.wait)
			_, err := Ready(ctx, p, port)
			cancel()
			if !errors.Is(err, ErrNotReady) || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("%s: %v, want %s", tt.args, err, tt.want)
			}
			_ = p.Kill()
			_ = p.Wait()
			<-port.Done()
		}
		p := start(t, c, Spec{Args: []string{"serve"}, Isolation: iso})
		port := membrane.NewPort(p.Link(), membrane.PortConfig{})
		r, err := Ready(t.Context(), p, port)
		if err != nil || !slices.Equal(r.Methods, []string{"hello"}) {
			t.Errorf("%v, %v", r, err)
		}
		_ = p.Kill()
		<-port.Done()
	})
}
