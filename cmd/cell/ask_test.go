package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
)

// alice is an author whom nobody trusts to begin with.
var alice, _ = identity.ParseKey("z6MkottEVKzUri8LKvY68rG2qAwfuUfsKCkgbDqq3zmFNAjM")

// fakeHome is a home in which a control API answers from handle.
func fakeHome(t *testing.T, handle func(h home.Home, w http.ResponseWriter, r *http.Request)) home.Home {
	t.Helper()
	dir, err := os.MkdirTemp("", "cell") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h, err := home.At(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Make(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", h.Socket())
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(node.HeaderProtocol, strconv.Itoa(node.Protocol))
		handle(h, w, r)
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return h
}

// aliceHome is that of a node that grows alice's cells if its settings say so.
func aliceHome(t *testing.T) home.Home {
	return fakeHome(t, func(h home.Home, w http.ResponseWriter, r *http.Request) {
		s, err := node.LoadSettings(h, func(string) string { return "" })
		switch {
		case err != nil:
			t.Error(err)
		case r.URL.Path == "/v1/reload":
			w.Write([]byte("{}"))
		case s.Trusts(alice, identity.Key{}):
			json.NewEncoder(w).Encode(node.Progress{Replica: &node.Replica{ID: "greeter-1", Cell: "greeter@" + alice.String()}})
		default:
			json.NewEncoder(w).Encode(node.Progress{Error: node.Untrusted(alice)})
		}
	})
}

func TestGrowAsks(t *testing.T) {
	other, _ := identity.ParseKey("z6MkuefTrBvNoaY86ke1nqUDgxEchjpyU6aYTUREpdVaFNET")
	for _, c := range []struct {
		name    string
		typed   string
		blind   bool // nobody is there to be asked
		args    []string
		before  map[string]identity.Key
		trusted bool
		petname string
		says    string
	}{
		{name: "yes, with a name", typed: "y\nalice\n", trusted: true, petname: "alice", says: "  " + alice.String() + "\n"},
		{name: "yes, without a name", typed: "YES\n\n", trusted: true},
		{name: "yes, and gone", typed: "y", trusted: true},
		{name: "a name that is none, one of another, a good one", typed: "y\nAl\x1bice\nbob\nal\n", before: map[string]identity.Key{"bob": other}, trusted: true, petname: "al", says: "bob is the name of another author"},
		{name: "named before", typed: "y\n", before: map[string]identity.Key{"ali": alice}, trusted: true, petname: "ali", says: "whom you call ali"},
		{name: "no", typed: "n\n"},
		{name: "Enter", typed: "\n"},
		{name: "anything else", typed: "yess\n"},
		{name: "end of input", typed: ""},
		{name: "no terminal", typed: "y\n", blind: true},
		{name: "for a program", typed: "y\n", args: []string{"--json"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := aliceHome(t)
			for name, key := range c.before {
				if err := node.EditSettings(h, key.String(), "authors", name); err != nil {
					t.Fatal(err)
				}
			}
			var stdout, stderr bytes.Buffer
			a := &app{term: &terminal{out: &stdout, err: &stderr}, stdin: strings.NewReader(c.typed), asks: !c.blind, getenv: func(name string) string {
				return map[string]string{"CELL_HOME": filepath.Dir(h.Config)}[name]
			}}
			root := a.root()
			root.SetArgs(append([]string{"grow", "greeter"}, c.args...))
			err := root.ExecuteContext(t.Context())
			if c.trusted != (err == nil) || err != nil && describe(err).Exit != node.ExitRefused {
				t.Errorf("%v, want trusted %v; said:\n%s", err, c.trusted, &stderr)
			}
			if asked := strings.Contains(stderr.String(), "[y/N]"); asked != (!c.blind && c.args == nil) {
				t.Errorf("asked %v:\n%s", asked, &stderr)
			}
			if c.trusted && !strings.HasPrefix(stdout.String(), "greeter-1 greeter@z6Mk") {
				t.Errorf("printed %q", &stdout)
			}
			if !strings.Contains(stderr.String(), c.says) || strings.Contains(stderr.String(), "\x1b") {
				t.Errorf("said\n%s\nwithout %q", &stderr, c.says)
			}
			s, err := node.LoadSettings(h, func(string) string { return "" })
			if err != nil {
				t.Fatal(err)
			}
			if s.Trusts(alice, identity.Key{}) != c.trusted || s.Petname(alice) != c.petname {
				t.Errorf("trusted %v as %q, want %v as %q", s.Trusts(alice, identity.Key{}), s.Petname(alice), c.trusted, c.petname)
			}
		})
	}
}
