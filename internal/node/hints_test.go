package node

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

func TestParseHintSource(t *testing.T) {
	key := identity.PrivateFromSeed([32]byte{3}).Public().String()
	for text, good := range map[string]bool{
		"/etc/cell/spores.json#" + key:          true,
		"https://example.org/a#b#" + key:        true,
		"http://example.org/spores.json#" + key: true,
		"spores.json#" + key:                    false,
		"ftp://example.org/spores.json#" + key:  false,
		"/etc/cell/spores.json":                 false,
		"/etc/cell/spores.json#alice":           false,
		"#" + key:                               false,
	} {
		if _, err := parseHintSource(text); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestHintsOverHTTP: what a web server says counts as far as it is signed, in
// force, and not older than what is known.
func TestHintsOverHTTP(t *testing.T) {
	author := identity.PrivateFromSeed([32]byte{3})
	n := newMachine(t, nil)
	sign := func(at time.Time) string {
		text, err := record.SignHints(author, record.Hints{Network: n.net, Peers: []string{n.listen()[0]}}, at, 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	now := time.Now()
	var status int
	var body string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	defer server.Close()
	source := hintSource{server.URL + "/spores.json", author.Public()}
	kept := func() string {
		b, _ := os.ReadFile(n.hintsFile(source))
		return string(b)
	}
	expired := func(life time.Duration) string {
		text, err := record.SignHints(author, record.Hints{Network: n.net, Peers: []string{n.listen()[0]}}, now.Add(-life-2*record.MaxSkew), life)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	first, second := sign(now.Add(-time.Hour)), sign(now)
	for _, step := range []struct {
		what   string
		status int
		body   string
		want   error // nil: none
		kept   string
	}{
		{"an error", 404, "", errAny, ""},
		{"junk", 200, "<html>", record.ErrMalformed, ""},
		{"too much", 200, strings.Repeat(" ", 1<<20), record.ErrSize, ""},
		{"good ones", 200, first, nil, first},
		{"newer ones", 200, second, nil, second},
		{"older ones", 200, first, record.ErrOrder, second},
		{"forged ones", 200, strings.Replace(second, "/udp/", "/tcp/", 1), record.ErrSignature, second},
	} {
		status, body = step.status, step.body
		_, err := n.follow(context.Background(), source)
		if (step.want == nil) != (err == nil) || step.want != nil && step.want != errAny && !errors.Is(err, step.want) {
			t.Errorf("%s: %v, want %v", step.what, err, step.want)
		}
		if got := kept(); got != step.kept {
			t.Errorf("%s: kept %.60q", step.what, got)
		}
	}
	// What was kept has expired: still nothing older takes its place.
	if err := os.WriteFile(n.hintsFile(source), []byte(expired(time.Second)), 0o600); err != nil {
		t.Fatal(err)
	}
	status, body = 200, first
	if _, err := n.follow(context.Background(), source); !errors.Is(err, record.ErrOrder) {
		t.Errorf("older hints after newer ones that have expired: %v", err)
	}
	elsewhere := httptest.NewServer(http.RedirectHandler(server.URL, http.StatusFound))
	defer elsewhere.Close()
	if _, err := n.follow(context.Background(), hintSource{elsewhere.URL, author.Public()}); err == nil || !strings.Contains(err.Error(), "sends to") {
		t.Errorf("sent to another server: %v", err)
	}
	if _, err := n.follow(context.Background(), hintSource{"/dev/null", author.Public()}); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a device: %v", err)
	}
}

var errAny = errors.New("any")
