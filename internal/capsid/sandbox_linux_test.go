package capsid

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestSandbox(t *testing.T) {
	if !hasSandbox(t) {
		t.Skip("there is no sandbox here")
	}
	t.Setenv("SECRET", "of the node")
	out := newLog()
	p := start(t, newCapsid(t), Spec{Args: []string{"look", "around"}, Env: []string{"A=b"}, Log: out})
	if err := p.Wait(); err != nil {
		t.Fatal(err, out)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatal(err, out)
	}
	for what, want := range map[string]any{
		"pid": 1., "processes": 1.,
		"args":              []any{"/cell", "look", "around"},
		"env":               []any{"A=b"},
		"root":              []any{"dev", "proc", "tmp"},
		"dev":               []any{"null", "urandom", "zero"},
		"read /etc/passwd":  false,
		"write /x":          false,
		"write /tmp/x":      true,
		"reach the network": false, "mount": false, "make a user namespace": false,
		"write core_pattern": false, "write its own program": false,
		"make a child": true,
		"CapEff":       "0000000000000000", "CapBnd": "0000000000000000", "CapPrm": "0000000000000000", "CapInh": "0000000000000000",
		"NoNewPrivs": "1",
	} {
		if fmt.Sprint(got[what]) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", what, got[what], want)
		}
	}
	fds, _ := got["descriptors"].([]any)
	if len(fds) > 7 { // 0 1 2 3, epoll, eventfd, the folder
		t.Errorf("descriptors: %v", fds)
	}
	if !slices.Contains(p.Enforced(), "has no network") || len(p.NotEnforced()) == 0 {
		t.Error(p.Enforced(), p.NotEnforced())
	}
}

func TestKeeperSaysWhatItCannot(t *testing.T) {
	p := start(t, newCapsid(t), Spec{Args: []string{"exit", "0"}, Isolation: None})
	if all := strings.Join(p.NotEnforced(), "\n"); !strings.Contains(all, "every file") || !strings.Contains(all, "network") {
		t.Error(all)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}
