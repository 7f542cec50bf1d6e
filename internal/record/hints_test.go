package record

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
)

const hintsPeer = "/ip4/192.0.2.7/udp/4001/quic-v1/p2p/12D3KooWKRyzVWW6ChFjQjK4miCty85Niy48tpPV95XdKu1BcvMA"

func hints(t testing.TB, peers ...string) []byte {
	t.Helper()
	text, err := SignHints(author, Hints{Network: "lab", Peers: peers}, epoch, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestHintsRoundTrip(t *testing.T) {
	text := hints(t, hintsPeer)
	if path := "testdata/spores.json"; *update {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want, err := os.ReadFile(path); err != nil || !bytes.Equal(text, want) {
		t.Errorf("the committed vector differs (%v) from\n%s", err, text)
	}
	h, err := OpenHints(text, "lab", author.Public(), epoch.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Peers) != 1 || h.Peers[0] != hintsPeer || !h.Issued.Equal(epoch.Truncate(time.Second)) || h.Expires.Sub(h.Issued) != 24*time.Hour {
		t.Errorf("came back as %+v", h)
	}
}

func TestOpenHintsRefuses(t *testing.T) {
	good := string(hints(t, hintsPeer))
	replace := func(old, with string) string {
		t.Helper()
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in the text", old)
		}
		return strings.Replace(good, old, with, 1)
	}
	for name, c := range map[string]struct {
		text    string
		network identity.Network
		signer  identity.Key
		at      time.Time
		want    error
	}{
		"another peer":     {replace("192.0.2.7", "192.0.2.8"), "lab", author.Public(), epoch, ErrSignature},
		"longer in force":  {replace(`"expires": "`+epoch.Add(24*time.Hour).Format("2006"), `"expires": "`+epoch.Add(24*time.Hour).AddDate(1, 0, 0).Format("2006")), "lab", author.Public(), epoch, ErrSignature},
		"a key more":       {replace(`"schema": 1,`, `"schema": 1, "more": 2,`), "lab", author.Public(), epoch, ErrMalformed},
		"another schema":   {replace(`"schema": 1,`, `"schema": 2,`), "lab", author.Public(), epoch, ErrSchema},
		"a line feed":      {replace(hintsPeer, `a\nb`), "lab", author.Public(), epoch, ErrMalformed},
		"another network":  {good, "public", author.Public(), epoch, ErrNetwork},
		"another signer":   {good, "lab", node.Public(), epoch, ErrSignature},
		"expired":          {good, "lab", author.Public(), epoch.Add(24*time.Hour + MaxSkew + time.Second), ErrStale},
		"from the future":  {good, "lab", author.Public(), epoch.Add(-MaxSkew - time.Second), ErrClock},
		"something behind": {good + "{}", "lab", author.Public(), epoch, ErrMalformed},
		"empty":            {"", "lab", author.Public(), epoch, ErrMalformed},
		"too long":         {good + strings.Repeat(" ", MaxHintsSize), "lab", author.Public(), epoch, ErrSize},
	} {
		if _, err := OpenHints([]byte(c.text), c.network, c.signer, c.at); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for name, peers := range map[string][]string{"no peer": nil, "too many": make([]string, MaxHints+1), "a space": {"a b"}, "a long one": {strings.Repeat("a", maxHintSize+1)}} {
		if _, err := SignHints(author, Hints{Network: "lab", Peers: peers}, epoch, time.Hour); !errors.Is(err, ErrMalformed) {
			t.Errorf("signed with %s: %v", name, err)
		}
	}
}

func FuzzOpenHints(f *testing.F) {
	f.Add(hints(f, hintsPeer))
	f.Add([]byte(`{"schema":1,"peers":["x"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := OpenHints(text, "lab", author.Public(), epoch)
		if err != nil {
			return
		}
		if len(h.Peers) == 0 || len(h.Peers) > MaxHints || h.Network != "lab" {
			t.Errorf("accepted %+v", h)
		}
	})
}
