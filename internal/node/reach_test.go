package node

import (
	"strings"
	"testing"

	"cell.network/cell/internal/host"
	ma "github.com/multiformats/go-multiaddr"
)

func TestToldCheck(t *testing.T) {
	raw := func(all ...string) (out [][]byte) {
		for _, a := range all {
			out = append(out, ma.StringCast(a).Bytes())
		}
		return out
	}
	const (
		self = "/ip4/127.0.0.1/udp/9/quic-v1"
		net4 = "/ip4/10.0.0.1/udp/9/quic-v1"
		id   = "/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
	)
	for name, tc := range map[string]struct {
		told      [][]byte
		listen    []string
		bootstrap []string
		lan       bool
		status    string
		remedy    string
	}{
		"a network":                        {raw(net4, net4), nil, nil, true, CheckOK, ""},
		"a network and loopback":           {raw(net4, self), nil, nil, true, CheckOK, ""},
		"one machine":                      {raw(self), []string{self}, []string{self + id}, false, CheckOK, ""},
		"alone":                            {raw(), nil, nil, false, CheckOK, ""},
		"told to listen on loopback":       {raw(self), []string{self}, nil, true, CheckWarn, "listen"},
		"bootstrap elsewhere":              {raw(self), []string{self}, []string{self + id, net4 + id}, false, CheckWarn, "listen"},
		"bootstrap by name":                {raw(self), nil, []string{"/dnsaddr/example.org"}, false, CheckWarn, "connect"},
		"unplugged":                        {raw(self), nil, nil, true, CheckWarn, "connect"},
		"no interface":                     {raw(), nil, nil, true, CheckWarn, "connect"},
		"a place at a relay of this host":  {raw(self, self+id+"/p2p-circuit"), []string{self}, nil, true, CheckWarn, "listen"},
		"a place at a relay of the colony": {raw(self, net4+id+"/p2p-circuit"), []string{self}, nil, true, CheckOK, ""},
	} {
		c := toldCheck(tc.told, Settings{Listen: tc.listen, Bootstrap: tc.bootstrap}, tc.lan)
		if c.Status != tc.status || !strings.Contains(c.Remedy, tc.remedy) || (c.Remedy == "") != (c.Status == CheckOK) {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestPlainReach(t *testing.T) {
	own := host.Seen{Addr: ma.StringCast("/ip4/10.0.0.1/udp/9/quic-v1"), Witnesses: 3}
	other := host.Seen{Addr: ma.StringCast("/ip4/192.168.7.1/udp/1009/quic-v1"), Witnesses: 2}
	if c := plainReach("lab", host.Reach{}); c.Status != CheckOK {
		t.Errorf("nobody has seen it: %+v", c)
	}
	if c := plainReach("lab", host.Reach{Seen: []host.Seen{own}}); c.Status != CheckOK || !strings.Contains(c.Evidence, "3 see it at /ip4/10.0.0.1/") {
		t.Errorf("seen where it is: %+v", c)
	}
	c := plainReach("lab", host.Reach{Seen: []host.Seen{own, other}, Foreign: []host.Seen{other}})
	if c.Status != CheckWarn || !strings.Contains(c.Evidence, "2 see this node at /ip4/192.168.7.1/") || !strings.Contains(c.Remedy, "reach.public no") {
		t.Errorf("behind a router: %+v", c)
	}
}
