package capsid

import (
	"errors"
	"strconv"
	"strings"
	"testing"
)

func TestLimits(t *testing.T) {
	t.Run("processes", func(t *testing.T) {
		if !hasSandbox(t) {
			t.Skip("there is no sandbox here")
		}
		out := newLog()
		p := start(t, newCapsid(t), Spec{Args: []string{"breed"}, Log: out, Limits: Limits{Procs: 64}})
		if err := p.Wait(); err != nil {
			t.Fatal(err, out)
		}
		n, err := strconv.Atoi(strings.TrimSpace(out.String()))
		if err != nil || n < 5 || n > 64 {
			t.Errorf("%d children, %v", n, err)
		}
	})
	each(t, func(t *testing.T, iso Isolation, _ bool) {
		c := newCapsid(t)
		out := newLog()
		small := start(t, c, Spec{Args: []string{"eat", "32"}, Log: out, Isolation: iso, Limits: Limits{Memory: 48 << 20}})
		if err := small.Wait(); err != nil || !strings.Contains(out.String(), "ate 32") {
			t.Error(err, out)
		}
		out = newLog()
		big := start(t, c, Spec{Args: []string{"eat", "1024"}, Log: out, Isolation: iso, Limits: Limits{Memory: 48 << 20}})
		if err := big.Wait(); err == nil || strings.Contains(out.String(), "ate 1024") { // how it dies is the Go runtime's affair
			t.Error(err, out)
		}
	})
}

func TestOutputIsBounded(t *testing.T) {
	each(t, func(t *testing.T, iso Isolation, _ bool) {
		out := newLog()
		p := start(t, newCapsid(t), Spec{Args: []string{"flood", "20480"}, Log: out, Isolation: iso}) // 20 MiB
		if err := p.Wait(); err != nil {
			t.Fatal(err)
		}
		s := out.String()
		if len(s) < maxBurst/2 || len(s) > 4<<20 || !strings.Contains(s, "bytes of output dropped: more than 256 KiB/s") {
			t.Errorf("%d bytes, the last: %q", len(s), s[max(0, len(s)-200):])
		}
	})
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestFailingLog(t *testing.T) {
	p := start(t, newCapsid(t), Spec{Args: []string{"flood", "1024"}, Log: failing{}})
	if err := p.Wait(); err != nil { // a broken pipe would show here
		t.Error(err)
	}
}
