package node

import (
	"errors"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/identity"
)

func tempHome(t *testing.T) home.Home {
	t.Helper()
	h, err := home.At(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Make(); err != nil {
		t.Fatal(err)
	}
	return h
}

func environ(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestSettingsPrecedence(t *testing.T) {
	h := tempHome(t)
	path := SettingsPath(h)
	text := `
network = "lab"
mode = "server"
author = "` + someKey + `"
[lan]
port = 1000
directed = ["192.0.2.7:9067", "[fe80::1%eth0]:9067"]
[authors]
alice = "` + someKey + `"
[trust]
hosts = ["` + someKey + `"]
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := LoadSettings(h, environ("CELL_LAN_PORT", "2000", "CELL_MODE", "client"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Set("mode", "auto", "flag --mode"); err != nil {
		t.Fatal(err)
	}
	key := mustKey(t, someKey)
	want := Settings{
		Network: "lab", Mode: "auto", Author: key,
		Reach:   ReachSettings{Public: "auto", Relay: "auto"},
		LAN:     LANSettings{Enabled: true, Port: 2000, Multicast: true, Directed: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.7:9067"), netip.MustParseAddrPort("[fe80::1%eth0]:9067")}},
		Authors: identity.Petnames{"alice": key}, Hosts: []identity.Key{key},
	}
	got := s
	got.origins = nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	origins := map[string]string{}
	for _, l := range s.List() {
		origins[l.Key] = l.Origin
	}
	wantOrigins := map[string]string{
		"network": path, "listen": "default", "bootstrap": "default", "spores": "default", "bootstrap_only": "default", "mode": "flag --mode",
		"lan.enabled": "default", "lan.port": "env CELL_LAN_PORT", "lan.multicast": "default", "lan.unicast": "default", "reach.public": "default", "reach.announce": "default", "reach.portmap": "default", "reach.relay": "default", "lan.directed": path, "author": path,
	}
	if !reflect.DeepEqual(origins, wantOrigins) {
		t.Errorf("origins: got %v, want %v", origins, wantOrigins)
	}
}

// The seeds of the public network mean nothing to another.
func TestSettingsBootstrap(t *testing.T) {
	s := DefaultSettings()
	if err := s.Set("network", "lab", "flag"); err != nil {
		t.Fatal(err)
	}
	if len(s.Bootstrap) != 0 {
		t.Errorf("private network: bootstrap %v, want none", s.Bootstrap)
	}
	if err := s.Set("network", "public", "flag"); err != nil {
		t.Fatal(err)
	}
	if len(s.Bootstrap) != 1 {
		t.Errorf("public network: bootstrap %v, want the default", s.Bootstrap)
	}
	if err := s.Set("bootstrap", "", "flag --no-bootstrap"); err != nil {
		t.Fatal(err)
	}
	if len(s.Bootstrap) != 0 {
		t.Errorf("no bootstrap: got %v", s.Bootstrap)
	}
}

func TestSettingsRefused(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"nework = \"lab\"", "unknown key nework"},
		{"network = \"My Lab\"", "bad network name"},
		{"listen = [\"0.0.0.0:1\"]", "bad address"},
		{"mode = \"x\"", "bad mode"},
		{"[lan]\nport = 0", "bad port 0"},
		{"[lan]\ndirected = [\"x\"]", ":2:"},
		{"author = \"alice\"", "not a key"},
		{"[authors]\nAlice = \"" + someKey + "\"", "bad name"},
		{"[trust]\nhosts = [\"z6Mk\"]", "not a key"},
	} {
		_, err := ParseSettings("config.toml", []byte(c.text))
		var file *FileError
		if !errors.As(err, &file) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want a *FileError with %q", c.text, err, c.want)
		}
	}
	s := DefaultSettings()
	if err := s.Set("nothing", "x", "flag"); !errors.Is(err, ErrNoKey) {
		t.Errorf("got %v, want ErrNoKey", err)
	}
	for _, c := range [][2]string{{"lan.enabled", "maybe"}, {"lan.port", "x"}, {"lan.directed", "host"}, {"author", "bob"}, {"listen", "x"}} {
		if err := s.Set(c[0], c[1], "flag"); err == nil {
			t.Errorf("%s = %q was accepted", c[0], c[1])
		}
	}
}

func TestTrusts(t *testing.T) {
	own, chosen, host, stranger := identity.Key{1}, identity.Key{2}, identity.Key{3}, identity.Key{4}
	s := Settings{Author: chosen, Hosts: []identity.Key{host}}
	for _, c := range []struct {
		author identity.Key
		want   bool
	}{{own, true}, {chosen, true}, {host, true}, {stranger, false}, {identity.Key{}, false}} {
		if got := s.Trusts(c.author, own); got != c.want {
			t.Errorf("trusts %v: %v, want %v", c.author, got, c.want)
		}
	}
	if (Settings{}).Trusts(identity.Key{}, identity.Key{}) {
		t.Error("the zero key is trusted")
	}
}

func TestEditSettings(t *testing.T) {
	h := tempHome(t)
	for _, c := range []struct {
		name, before string
		key          []string
		value        any
		after        string
	}{
		{"new file", "", []string{"mode"}, "auto", "mode = \"auto\"\n"},
		{"new table", "mode = \"auto\"", []string{"lan", "port"}, 5, "mode = \"auto\"\n\n[lan]\nport = 5\n"},
		{"replace, comment kept", "mode = \"auto\" # so\n", []string{"mode"}, "client", "mode = \"client\" # so\n"},
		{"top key before a table", "# mine\n[lan]\nport = 5\n", []string{"mode"}, "auto", "mode = \"auto\"\n# mine\n[lan]\nport = 5\n"},
		{"into a table", "[lan]\nport = 5\n\n[authors]\n", []string{"lan", "enabled"}, false, "[lan]\nport = 5\nenabled = false\n\n[authors]\n"},
		{"several lines", "listen = [\n  \"/ip4/127.0.0.1/udp/1/quic-v1\", # ]\n]\nmode = \"auto\"\n", []string{"listen"}, []string{}, "listen = []\nmode = \"auto\"\n"},
		{"remove", "mode = \"auto\"\nnetwork = \"lab\"\n", []string{"mode"}, nil, "network = \"lab\"\n"},
		{"remove what is not there", "network = \"lab\"\n", []string{"mode"}, nil, "network = \"lab\"\n"},
		{"dotted", "lan.port = 5\n", []string{"lan", "port"}, 6, "lan.port = 6\n"},
		{"CRLF", "mode = \"auto\"\r\nnetwork = \"lab\"\r\n", []string{"network"}, "x", "mode = \"auto\"\r\nnetwork = \"x\"\r\n"},
	} {
		if err := os.WriteFile(SettingsPath(h), []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := EditSettings(h, c.value, c.key...); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got, _ := os.ReadFile(SettingsPath(h)); string(got) != c.after {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.after)
		}
	}
	// What the editor cannot do leaves the file alone.
	const inline = "lan = { port = 5 }\n"
	if err := os.WriteFile(SettingsPath(h), []byte(inline), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, value := range []any{6, nil} {
		if err := EditSettings(h, value, "lan", "port"); err == nil {
			t.Errorf("%v in an inline table: no error", value)
		}
	}
	if got, _ := os.ReadFile(SettingsPath(h)); string(got) != inline {
		t.Errorf("the file became %q", got)
	}
}

func FuzzEditSettings(f *testing.F) {
	f.Add([]byte("mode = \"auto\" # x\n[lan]\nport = 1\n"))
	f.Add([]byte("listen = [\n\"/ip4/127.0.0.1/udp/1\", # ]\n]\n"))
	f.Add([]byte("lan.port = 1\r\n[trust]\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := ParseSettings("config.toml", text); err != nil {
			return
		}
		// Either it refuses or the outcome is as wanted.
		check := func(value any, want func(Settings) bool, key ...string) {
			edited, err := editSettings("config.toml", text, value, key)
			if err != nil {
				return
			}
			if s, err := ParseSettings("config.toml", edited); err != nil || !want(s) {
				t.Errorf("%v = %v made\n%s\n%v", key, value, edited, err)
			}
		}
		check("client", func(s Settings) bool { return s.Mode == ModeClient }, "mode")
		check(7, func(s Settings) bool { return s.LAN.Port == 7 }, "lan", "port")
		check(nil, func(s Settings) bool { return s.LAN.Port == DefaultSettings().LAN.Port }, "lan", "port")
		check([]string{}, func(s Settings) bool { return len(s.Listen) == 0 }, "listen")
	})
}
