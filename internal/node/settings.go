package node

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/kad"
)

// The modes of a node in the DHT.
const (
	ModeAuto   = "auto"   // server where others can reach it, else client
	ModeServer = "server" // keeps leases for others
	ModeClient = "client" // only asks
)

// DefaultBootstrap is where a node of the public network finds its first peers.
const DefaultBootstrap = "/dnsaddr/seed.cell.network"

// maxSettings bounds config.toml, in bytes.
const maxSettings = 1 << 20

// Settings are what an operator can choose. A flag wins over an environment
// variable, that over config.toml, that over the default.
type Settings struct {
	Network   identity.Network // default "public"
	Listen    []string         // multiaddrs; default none given: any free UDP port, IPv4 and IPv6
	Bootstrap []string         // multiaddrs with /p2p, or /dnsaddr; default DefaultBootstrap on the public network
	Spores    []string         // PATH#KEY or https://…#KEY of signed hints of where to enter the network
	Mode      string           // one of the Mode constants; default auto
	Only      bool             // bootstrap_only: a member of the DHT and relay for others, no cells
	LAN       LANSettings
	Reach     ReachSettings
	Author    identity.Key      // default author where his key is elsewhere; zero: the key on this machine
	Authors   identity.Petnames // [authors]: names that this operator gave
	Hosts     []identity.Key    // [trust] hosts: authors whose code may run here, besides his own

	origins map[string]string // of each key that is not at its default
}

// LANSettings are [lan].
type LANSettings struct {
	Enabled  bool             // default true
	Port     int              // UDP, default 9067
	Directed []netip.AddrPort // where to send announcements as well, for networks without multicast

	Multicast bool // default true; without it only Directed nodes are told
	Unicast   int  // this node's own UDP port, for others to direct packets to; default 0: any free one
}

// ReachSettings are [reach]: how others reach this node from outside.
type ReachSettings struct {
	Public   string   // auto finds out; yes or no where the operator knows better
	Announce []string // multiaddrs to tell others besides those that are found: a port that a router was told to pass on
	PortMap  bool     // ask the router for a port (UPnP, NAT-PMP); default true on the public network
	Relay    string   // whether to relay for others: auto (while strangers reach this node), on or off
}

// Setting is one choice in text form.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // "default", "env CELL_MODE", "flag --mode" or a path
}

// settingsFile mirrors the text of config.toml.
type settingsFile struct {
	Network   *networkText `toml:"network"`
	Listen    []addrText   `toml:"listen"`
	Bootstrap []addrText   `toml:"bootstrap"`
	Spores    []sporesText `toml:"spores"`
	Mode      *modeText    `toml:"mode"`
	Only      *bool        `toml:"bootstrap_only"`
	LAN       struct {
		Enabled   *bool            `toml:"enabled"`
		Port      *int             `toml:"port"`
		Multicast *bool            `toml:"multicast"`
		Unicast   *int             `toml:"unicast"`
		Directed  []netip.AddrPort `toml:"directed"`
	} `toml:"lan"`
	Reach struct {
		Public   *reachText  `toml:"public"`
		Announce []addrText  `toml:"announce"`
		PortMap  *bool       `toml:"portmap"`
		Relay    *switchText `toml:"relay"`
	} `toml:"reach"`
	Author  *identity.Key           `toml:"author"`
	Authors map[string]identity.Key `toml:"authors"`
	Trust   struct {
		Hosts []identity.Key `toml:"hosts"`
	} `toml:"trust"`
}

// SettingsPath is where h keeps config.toml.
func SettingsPath(h home.Home) string { return filepath.Join(h.Config, "config.toml") }

// DefaultSettings are what holds where nothing is chosen.
func DefaultSettings() Settings {
	return Settings{
		Network:   identity.Public,
		Bootstrap: []string{DefaultBootstrap},
		Mode:      ModeAuto,
		LAN:       LANSettings{Enabled: true, Port: 9067, Multicast: true},
		Reach:     ReachSettings{Public: "auto", PortMap: true, Relay: "auto"},
		Authors:   identity.Petnames{},
		origins:   map[string]string{},
	}
}

// LoadSettings reads config.toml, which need not exist, then the variables
// CELL_NETWORK, CELL_LISTEN, CELL_LAN_PORT and so on, one for each of [Keys].
// Errors in the file are a [*FileError].
func LoadSettings(h home.Home, getenv func(string) string) (Settings, error) {
	path := SettingsPath(h)
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Settings{}, fmt.Errorf("read settings: %w", err)
	}
	s, err := ParseSettings(path, text)
	if err != nil {
		return Settings{}, err
	}
	for _, key := range Keys {
		name := "CELL_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
		if v := getenv(name); v != "" {
			if err := s.Set(key, v, "env "+name); err != nil {
				return Settings{}, fmt.Errorf("read %s: %w", name, err)
			}
		}
	}
	return s, nil
}

// ParseSettings reads the text of a config.toml; file is its name in errors
// and the origin of what it sets.
func ParseSettings(file string, text []byte) (Settings, error) {
	if len(text) > maxSettings {
		return Settings{}, &FileError{File: file, Line: 1, Column: 1, Message: fmt.Sprintf("longer than %d bytes", maxSettings)}
	}
	var t settingsFile
	if err := decodeTOML(file, text, &t); err != nil {
		return Settings{}, err
	}
	s := DefaultSettings()
	from := func(key string, given bool) bool {
		if given {
			s.origins[key] = file
		}
		return given
	}
	if from("network", t.Network != nil) {
		s.Network = t.Network.network
	}
	if from("listen", t.Listen != nil) {
		s.Listen = texts(t.Listen)
	}
	if from("bootstrap", t.Bootstrap != nil) {
		s.Bootstrap = texts(t.Bootstrap)
	}
	if from("spores", t.Spores != nil) {
		s.Spores = make([]string, len(t.Spores))
		for i, source := range t.Spores {
			s.Spores[i] = source.text
		}
	}
	if from("mode", t.Mode != nil) {
		s.Mode = t.Mode.mode
	}
	if from("bootstrap_only", t.Only != nil) {
		s.Only = *t.Only
	}
	if from("lan.enabled", t.LAN.Enabled != nil) {
		s.LAN.Enabled = *t.LAN.Enabled
	}
	if from("lan.port", t.LAN.Port != nil) {
		if err := checkPort(*t.LAN.Port); err != nil {
			return Settings{}, keyError(file, text, []string{"lan", "port"}, "%v", err)
		}
		s.LAN.Port = *t.LAN.Port
	}
	if from("lan.multicast", t.LAN.Multicast != nil) {
		s.LAN.Multicast = *t.LAN.Multicast
	}
	if from("lan.unicast", t.LAN.Unicast != nil) {
		if err := checkPort(*t.LAN.Unicast); err != nil {
			return Settings{}, keyError(file, text, []string{"lan", "unicast"}, "%v", err)
		}
		s.LAN.Unicast = *t.LAN.Unicast
	}
	if from("lan.directed", t.LAN.Directed != nil) {
		s.LAN.Directed = t.LAN.Directed
	}
	if from("reach.public", t.Reach.Public != nil) {
		s.Reach.Public = t.Reach.Public.word
	}
	if from("reach.announce", t.Reach.Announce != nil) {
		s.Reach.Announce = texts(t.Reach.Announce)
	}
	if from("reach.portmap", t.Reach.PortMap != nil) {
		s.Reach.PortMap = *t.Reach.PortMap
	}
	if from("reach.relay", t.Reach.Relay != nil) {
		s.Reach.Relay = t.Reach.Relay.word
	}
	if from("author", t.Author != nil) {
		s.Author = *t.Author
	}
	for name, key := range t.Authors {
		if _, err := identity.ParseName(name); err != nil {
			return Settings{}, keyError(file, text, []string{"authors", name}, "%v", err)
		}
		s.Authors[name] = key
	}
	s.Hosts = t.Trust.Hosts
	s.settle()
	return s, nil
}

// EditSettings changes one key of config.toml, such as "lan", "port", and keeps
// comments and everything else as they are; the new file is checked before it
// takes the place of the old one. The value is a string, bool, int or []string;
// nil removes the key.
func EditSettings(h home.Home, value any, key ...string) error {
	path := SettingsPath(h)
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read settings: %w", err)
	}
	if text, err = editSettings(path, text, value, key); err != nil {
		return err
	}
	if err := h.Make(); err != nil {
		return err
	}
	if err := replaceFile(path, text); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

func editSettings(path string, text []byte, value any, key []string) ([]byte, error) {
	if _, err := ParseSettings(path, text); err != nil {
		return nil, err
	}
	text = setTOML(text, key, tomlValue(value))
	if _, err := ParseSettings(path, text); err != nil {
		return nil, fmt.Errorf("edit settings: the file would no longer be valid, change it by hand: %w", err)
	}
	if hasKey(text, key) != (value != nil) {
		return nil, fmt.Errorf("edit settings: cannot find %s in %s, change it by hand", strings.Join(key, "."), path)
	}
	return text, nil
}

func tomlValue(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return strconv.Quote(v) // names, keys and addresses: no character that TOML escapes otherwise
	case []string:
		quoted := make([]string, len(v))
		for i, s := range v {
			quoted[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	return fmt.Sprint(value)
}

// Value returns the choice for one of [Keys] as [EditSettings] takes it.
func (s Settings) Value(key string) any {
	switch key {
	case "listen":
		return s.Listen
	case "bootstrap":
		return s.Bootstrap
	case "spores":
		return s.Spores
	case "bootstrap_only":
		return s.Only
	case "lan.enabled":
		return s.LAN.Enabled
	case "lan.port":
		return s.LAN.Port
	case "lan.multicast":
		return s.LAN.Multicast
	case "lan.unicast":
		return s.LAN.Unicast
	case "reach.announce":
		return s.Reach.Announce
	case "reach.portmap":
		return s.Reach.PortMap
	}
	for _, l := range s.List() {
		if l.Key == key && key == "lan.directed" {
			return splitList(l.Value)
		} else if l.Key == key {
			return l.Value
		}
	}
	return nil
}

// settle fills defaults that depend on other choices.
func (s *Settings) settle() {
	if s.origins["reach.portmap"] == "" {
		s.Reach.PortMap = !s.Network.Private()
	}
	if s.origins["bootstrap"] == "" {
		s.Bootstrap = []string{DefaultBootstrap}
		if s.Network.Private() { // the public seeds know nothing of it
			s.Bootstrap = nil
		}
	}
}

// Keys are the keys of the settings that have a single value, in the order in
// which they are shown. Petnames and trusted authors have commands of their own.
var Keys = []string{"network", "listen", "bootstrap", "spores", "mode", "bootstrap_only", "lan.enabled", "lan.port", "lan.multicast", "lan.unicast", "lan.directed",
	"reach.public", "reach.announce", "reach.portmap", "reach.relay", "author"}

// ErrNoKey says that no setting has this key.
var ErrNoKey = errors.New("no such setting")

// Set chooses a value from its text form; lists are separated by commas.
// Origin says where the choice comes from. Errors wrap [ErrNoKey] or name the value.
func (s *Settings) Set(key, value, origin string) error {
	var err error
	switch key {
	case "network":
		s.Network, err = identity.ParseNetwork(value)
	case "listen":
		s.Listen, err = parseAddrs(value)
	case "bootstrap":
		s.Bootstrap, err = parseAddrs(value)
	case "spores":
		s.Spores = splitList(value)
		for _, source := range s.Spores {
			if _, err := parseHintSource(source); err != nil {
				return err
			}
		}
	case "bootstrap_only":
		s.Only, err = parseSwitch(value)
	case "mode":
		var m modeText
		err = m.UnmarshalText([]byte(value))
		s.Mode = m.mode
	case "lan.enabled":
		s.LAN.Enabled, err = parseSwitch(value)
	case "lan.multicast":
		s.LAN.Multicast, err = parseSwitch(value)
	case "lan.port":
		s.LAN.Port, err = parsePort(value)
	case "lan.unicast":
		s.LAN.Unicast, err = parsePort(value)
	case "lan.directed":
		s.LAN.Directed = nil
		for _, text := range splitList(value) {
			var a netip.AddrPort
			if a, err = netip.ParseAddrPort(text); err != nil {
				err = fmt.Errorf("bad address %q: write it like 192.0.2.7:9067", text)
				break
			}
			s.LAN.Directed = append(s.LAN.Directed, a)
		}
	case "reach.public":
		var t reachText
		err = t.UnmarshalText([]byte(value))
		s.Reach.Public = t.word
	case "reach.announce":
		s.Reach.Announce, err = parseAddrs(value)
	case "reach.portmap":
		s.Reach.PortMap, err = parseSwitch(value)
	case "reach.relay":
		var t switchText
		err = t.UnmarshalText([]byte(value))
		s.Reach.Relay = t.word
	case "author":
		s.Author, err = s.key(value)
	default:
		return fmt.Errorf("%w: %q", ErrNoKey, key)
	}
	if err != nil {
		return err
	}
	if s.origins == nil {
		s.origins = map[string]string{}
	}
	s.origins[key] = origin
	s.settle()
	return nil
}

// key reads a key or a petname.
func (s *Settings) key(text string) (identity.Key, error) {
	if k, ok := s.Authors[text]; ok {
		return k, nil
	}
	return identity.ParseKey(text)
}

// List returns every setting of [Keys] with its origin.
func (s Settings) List() []Setting {
	directed := make([]string, len(s.LAN.Directed))
	for i, a := range s.LAN.Directed {
		directed[i] = a.String()
	}
	author := ""
	if !s.Author.IsZero() {
		author = s.Author.String()
	}
	values := map[string]string{
		"network": string(s.Network), "listen": strings.Join(s.Listen, ","), "bootstrap": strings.Join(s.Bootstrap, ","),
		"spores": strings.Join(s.Spores, ","), "mode": s.Mode, "bootstrap_only": strconv.FormatBool(s.Only), "lan.enabled": strconv.FormatBool(s.LAN.Enabled), "lan.port": strconv.Itoa(s.LAN.Port),
		"lan.multicast": strconv.FormatBool(s.LAN.Multicast), "lan.unicast": strconv.Itoa(s.LAN.Unicast),
		"lan.directed": strings.Join(directed, ","), "author": author,
		"reach.public": s.Reach.Public, "reach.announce": strings.Join(s.Reach.Announce, ","),
		"reach.portmap": strconv.FormatBool(s.Reach.PortMap), "reach.relay": s.Reach.Relay,
	}
	list := make([]Setting, len(Keys))
	for i, key := range Keys {
		origin := s.origins[key]
		if origin == "" {
			origin = "default"
		}
		list[i] = Setting{key, values[key], origin}
	}
	return list
}

// Trusts reports whether code of author may run here: he is the operator's
// default author, or named in [trust] hosts. Own is the author whose key is
// on this machine, or zero.
func (s Settings) Trusts(author, own identity.Key) bool {
	return !author.IsZero() && (author == own || author == s.Author || slices.Contains(s.Hosts, author))
}

// DefaultAuthor is whom a bare name means: the chosen author, or own.
func (s Settings) DefaultAuthor(own identity.Key) identity.Key {
	if !s.Author.IsZero() {
		return s.Author
	}
	return own
}

// dhtMode is the node's part in the DHT: one that is there for nothing else serves.
func (s Settings) dhtMode() kad.Mode {
	if s.Only && s.Mode == ModeAuto {
		return kad.ModeServer
	}
	return kad.Mode(s.Mode)
}

// Petname returns the name that the operator gave to an author, or "".
func (s Settings) Petname(author identity.Key) string {
	best := ""
	for name, k := range s.Authors {
		if k == author && (best == "" || name < best) {
			best = name
		}
	}
	return best
}
