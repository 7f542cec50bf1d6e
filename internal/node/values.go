package node

import (
	"fmt"
	"strconv"
	"strings"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	ma "github.com/multiformats/go-multiaddr"
)

func parseSwitch(value string) (bool, error) {
	on, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("bad value %q: write true or false", value)
	}
	return on, nil
}

func parsePort(value string) (int, error) {
	p, err := strconv.Atoi(value)
	if err != nil {
		return 0, fmt.Errorf("bad port %q: write a number from 1 to 65535", value)
	}
	return p, checkPort(p)
}

func checkPort(p int) error {
	if p < 1 || p > 65535 {
		return fmt.Errorf("bad port %d: it lies between 1 and 65535", p)
	}
	return nil
}

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func parseAddrs(s string) ([]string, error) {
	var out []string
	for _, text := range splitList(s) {
		var a addrText
		if err := a.UnmarshalText([]byte(text)); err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, nil
}

func texts(in []addrText) []string {
	out := make([]string, len(in))
	for i, a := range in {
		out[i] = a.addr
	}
	return out
}

type addrText struct{ addr string }

func (a *addrText) UnmarshalText(b []byte) error {
	if _, err := ma.NewMultiaddr(string(b)); err != nil {
		return fmt.Errorf("bad address %q: write a multiaddr like /ip4/192.0.2.7/udp/4001/quic-v1", b)
	}
	a.addr = string(b)
	return nil
}

type sporesText struct{ text string }

func (s *sporesText) UnmarshalText(b []byte) error {
	s.text = string(b)
	_, err := parseHintSource(s.text)
	return err
}

type reachText struct{ word string }

func (r *reachText) UnmarshalText(b []byte) error {
	if r.word = string(b); r.word != "auto" && r.word != host.Yes && r.word != host.No {
		return fmt.Errorf("bad value %q: it is auto, yes or no", b)
	}
	return nil
}

type switchText struct{ word string }

func (s *switchText) UnmarshalText(b []byte) error {
	if s.word = string(b); s.word != string(host.Auto) && s.word != string(host.On) && s.word != string(host.Off) {
		return fmt.Errorf("bad value %q: it is auto, on or off", b)
	}
	return nil
}

type networkText struct{ network identity.Network }

func (n *networkText) UnmarshalText(b []byte) (err error) {
	n.network, err = identity.ParseNetwork(string(b))
	return err
}

type modeText struct{ mode string }

func (m *modeText) UnmarshalText(b []byte) error {
	if v := string(b); v != ModeAuto && v != ModeServer && v != ModeClient {
		return fmt.Errorf("bad mode %q: it is auto, server or client", b)
	}
	m.mode = string(b)
	return nil
}
