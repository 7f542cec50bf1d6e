package host

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/sim"
	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
)

var meetings = map[string]meeting{
	"nothing":  {},
	"public":   {public: true, round: 2},
	"one":      {addrs: []ma.Multiaddr{ma.StringCast("/ip4/1.2.3.4/udp/4001/quic-v1")}},
	"varies":   {varies: true, round: 1, addrs: []ma.Multiaddr{ma.StringCast("/ip4/1.2.3.4/udp/4001/quic-v1"), ma.StringCast("/ip6/2a00:1450::1/udp/9/quic-v1")}},
	"neighbor": {addrs: []ma.Multiaddr{ma.StringCast("/ip4/192.168.1.2/udp/4001/quic-v1")}},
}

// vectors reads lines of "name hex".
func vectors(t *testing.T, file string) map[string][]byte {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string][]byte)
	for line := range strings.Lines(string(raw)) {
		name, digits, _ := strings.Cut(strings.TrimSpace(line), " ")
		if out[name], err = hex.DecodeString(digits); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestMeetings(t *testing.T) {
	committed := vectors(t, "testdata/meetings.txt")
	for name, m := range meetings {
		raw := m.encode()
		if !bytes.Equal(raw, committed[name]) {
			t.Errorf("%s is %x, was %x", name, raw, committed[name])
		}
		if back, err := readMeeting(bytes.NewReader(raw)); err != nil || !reflect.DeepEqual(back, m) {
			t.Errorf("%s: %+v, %v", name, back, err)
		}
		for cut := range raw {
			if _, err := readMeeting(bytes.NewReader(raw[:cut])); err == nil {
				t.Errorf("%s: %d of %d bytes are a meeting", name, cut, len(raw))
			}
		}
	}
	var long meeting
	for range maxMeetingAddrs + 3 {
		long.addrs = append(long.addrs, meetings["one"].addrs[0])
	}
	if back, err := readMeeting(bytes.NewReader(long.encode())); err != nil || len(back.addrs) != maxMeetingAddrs {
		t.Errorf("many addresses: %+v, %v", back, err)
	}
	for name, raw := range map[string][]byte{
		"too many": {0, 0, maxMeetingAddrs + 1}, "an empty address": {0, 0, 1, 0}, "a long address": {0, 0, 1, record.MaxAddrSize + 1},
	} {
		if _, err := readMeeting(bytes.NewReader(append(raw, make([]byte, 1000)...))); !errors.Is(err, errMeeting) {
			t.Errorf("%s: %v", name, err)
		}
	}
	junk := append([]byte{0, 0, 2, 3, 1, 2, 3, 11}, ma.StringCast("/ip4/239.2.3.4/udp/9/quic-v1").Bytes()...)
	junk[7] = byte(len(junk) - 8)
	if m, err := readMeeting(bytes.NewReader(junk)); err != nil || len(m.addrs) != 0 {
		t.Errorf("addresses that nobody can dial: %+v, %v", m, err)
	}
}

func FuzzMeeting(f *testing.F) {
	for _, m := range meetings {
		f.Add(m.encode())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := readMeeting(bytes.NewReader(raw))
		if err != nil {
			return
		}
		again := m.encode()
		if back, err := readMeeting(bytes.NewReader(again)); err != nil || !reflect.DeepEqual(back, m) || len(again) > maxMeeting {
			t.Errorf("%x: %+v, %v", raw, back, err)
		}
	})
}

func TestSeen(t *testing.T) {
	a := ma.StringCast("/ip4/1.2.3.4/udp/4001/quic-v1")
	raw := append([]byte{byte(len(a.Bytes()))}, a.Bytes()...)
	if !bytes.Equal(raw, vectors(t, "testdata/seen.txt")["one"]) {
		t.Errorf("an answer is %x", raw)
	}
	if back, err := readSeen(bytes.NewReader(raw)); err != nil || !back.Equal(a) {
		t.Errorf("%v, %v", back, err)
	}
	for cut := range raw {
		if _, err := readSeen(bytes.NewReader(raw[:cut])); err == nil {
			t.Errorf("%d of %d bytes are an answer", cut, len(raw))
		}
	}
	for _, bad := range [][]byte{{0}, {255}, {3, 1, 2, 3}} {
		if _, err := readSeen(bytes.NewReader(append(bad, make([]byte, 300)...))); err == nil {
			t.Errorf("%x is an answer", bad)
		}
	}
}

func FuzzSeen(f *testing.F) {
	f.Add([]byte{11, 4, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if a, err := readSeen(bytes.NewReader(raw)); err == nil && !oneMachine(a) {
			t.Errorf("%x leads to %v", raw, a)
		}
	})
}

// FuzzRelayedAddress: whatever bytes a stranger sends, what is dialled is one
// machine, or one relay on one machine.
func FuzzRelayedAddress(f *testing.F) {
	for _, s := range []string{
		"/ip4/1.2.3.4/udp/9/quic-v1", "/ip4/10.2.3.4/udp/9/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit",
		"/ip6/2a00::1/udp/9/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit", "/dnsaddr/a.b",
	} {
		f.Add(ma.StringCast(s).Bytes())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := ma.NewMultiaddrBytes(raw)
		if err != nil || !Dialable(private, a) {
			return
		}
		way, relay, relayed := splitRelayed(a)
		if !oneMachine(way) || relayed != (len(a) == 5) || relayed && !relayedAddr(way, relay).Equal(a) {
			t.Errorf("%v is dialled", a)
		}
		if Dialable(identity.Public, a) && !Dialable(private, a) {
			t.Errorf("%v is dialled on the public network only", a)
		}
	})
}

func TestOnePlace(t *testing.T) {
	var addrs []ma.Multiaddr
	for _, s := range []string{
		"/ip4/10.0.0.1/udp/1/quic-v1", "/ip4/1.2.3.4/udp/1/quic-v1", "/ip4/1.2.3.4/udp/2/quic-v1", "/ip4/1.2.3.5/udp/1/quic-v1", "/ip6/2a00::1/udp/1/quic-v1",
	} {
		addrs = append(addrs, ma.StringCast(s))
	}
	if got := onePlace(identity.Public, addrs); len(got) != 3 || !got[0].Equal(addrs[1]) || !got[2].Equal(addrs[4]) {
		t.Errorf("%v", got)
	}
}

// memStream makes a stream in memory look like one that a relay brings.
type memStream struct {
	network.Stream
	c net.Conn
}

func (s memStream) Read(b []byte) (int, error)         { return s.c.Read(b) }
func (s memStream) Write(b []byte) (int, error)        { return s.c.Write(b) }
func (s memStream) Reset() error                       { return s.c.Close() }
func (s memStream) SetReadDeadline(t time.Time) error  { return s.c.SetReadDeadline(t) }
func (s memStream) SetWriteDeadline(t time.Time) error { return s.c.SetWriteDeadline(t) }

// What is on a circuit comes from strangers: the relay or the peer.
func TestHostileCircuits(t *testing.T) {
	for name, raw := range map[string][]byte{
		"an empty packet": {0, 0, 1}, "a long packet": {0xff, 0xff, 1}, "half a packet": {0, 9, 1}, "half a length": {0}, "nothing": {},
	} {
		e := newEther()
		far, near := sim.Pipe()
		c := e.attach(memStream{c: near}, nil, network.DirInbound, &network.NullScope{})
		if _, err := far.Write(raw); err != nil {
			t.Fatal(err)
		}
		_ = far.Close()
		select {
		case <-c.ctx.Done():
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the circuit lives on", name)
		}
		if e.get(c.at) != nil || len(e.in) != 0 {
			t.Errorf("%s: left behind", name)
		}
		_ = e.Close()
	}
}

// A relay that brings more packets than are read costs no memory, and packets
// beyond what the relay allows end the circuit.
func TestCircuitBounds(t *testing.T) {
	e := newEther()
	defer e.Close()
	far, near := sim.Pipe()
	c := e.attach(memStream{c: near}, nil, network.DirInbound, &network.NullScope{})
	for range 4 * circuitQueue {
		if _, err := far.Write([]byte{0, 1, 7}); err != nil {
			t.Fatal(err)
		}
	}
	if len(e.in) > circuitQueue {
		t.Errorf("%d packets wait", len(e.in))
	}
	b := make([]byte, 10)
	if n, from, err := e.ReadFrom(b); err != nil || n != 1 || b[0] != 7 || from.String() != c.at.String() {
		t.Errorf("read %x from %v, %v", b[:n], from, err)
	}
	_ = e.SetReadDeadline(time.Now().Add(-time.Second))
	for {
		if _, _, err := e.ReadFrom(b); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	c.limit.Store(10)
	if _, err := e.WriteTo(make([]byte, 8), net.UDPAddrFromAddrPort(c.at)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(far, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	_, _ = e.WriteTo(make([]byte, 8), net.UDPAddrFromAddrPort(c.at))
	<-c.ctx.Done()
	if !errors.Is(context.Cause(c.ctx), errSpent) {
		t.Error("not spent")
	}
	_, _ = e.WriteTo(make([]byte, 8), net.UDPAddrFromAddrPort(c.at)) // to nobody
}

// Circuits are opened at a bounded pace, however many ask.
func TestRelayPace(t *testing.T) {
	v := newVolunteer(nil)
	allowed := 0
	for range 10 * relayBurst {
		if v.AllowConnect("", nil, "") {
			allowed++
		}
	}
	if allowed < relayBurst || allowed > relayBurst+10*relayPace {
		t.Errorf("%d circuits at once", allowed)
	}
	v.count(relayCircuits, 0)
	v.left = relayBurst
	if v.AllowConnect("", nil, "") {
		t.Error("more circuits than there may be")
	}
}
