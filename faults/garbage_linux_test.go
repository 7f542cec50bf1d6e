package faults_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/pheromone"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
)

// noise is what may come out of any socket: always the same bytes, so that a
// failure comes again.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

// frameHeader is that of a request frame that claims length bytes.
func frameHeader(length uint32) []byte {
	b := make([]byte, frame.HeaderSize)
	binary.LittleEndian.PutUint32(b, length)
	b[4] = 1 // request
	b[8] = 1 // number
	return b
}

// ends wants the peer to close the connection within limit, and takes up to
// 64 KiB of what it says before.
func ends(t *testing.T, c interface {
	io.Reader
	SetReadDeadline(time.Time) error
}, limit time.Duration, what string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(limit))
	_, err := io.Copy(io.Discard, io.LimitReader(c, 64<<10))
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("%s: the node keeps the connection", what)
	}
}

// growth fails the test where the node has come to hold much more memory.
func growth(t *testing.T, d *daemon, before int64, what string) {
	t.Helper()
	d.alive()
	if now := memory(t, d.cmd.Process.Pid); now > before+mayGrow {
		t.Errorf("%s: memory grew by %d MiB", what, (now-before)>>20)
	}
}

func TestGarbageOnControlSocket(t *testing.T) {
	s := newSite(t)
	d := s.up()
	before := memory(t, d.cmd.Process.Pid)
	head := "POST /v1/run HTTP/1.1\r\nHost: cell\r\nCell-Protocol: 1\r\n"
	cases := map[string][]byte{
		"garbage":            append(noise(1<<16), "\r\n\r\n"...),
		"half a header":      []byte("GET /v1/status HTTP/1.1\r\nHost: ce"),
		"a header of 1 MiB":  []byte("GET /v1/status HTTP/1.1\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n"),
		"a body of 4 GiB":    []byte(head + "Content-Length: 4294967296\r\n\r\n{\"dir\":\""),
		"half a body":        []byte(head + "Content-Length: 100\r\n\r\n{\"dir\":"),
		"a body of 1 MiB":    []byte(head + "Content-Length: 1048576\r\n\r\n{\"dir\":\"" + strings.Repeat("x", 1<<20)),
		"endless chunks":     []byte(head + "Transfer-Encoding: chunked\r\n\r\nfffffff0\r\n" + strings.Repeat("x", 1<<20)),
		"half a body unread": []byte("POST /v1/reload HTTP/1.1\r\nHost: cell\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{"),
		"not JSON":           []byte(head + "Connection: close\r\nContent-Length: 4\r\n\r\n\xff\xfe{["),
		"a relative folder":  []byte(head + "Connection: close\r\nContent-Length: 13\r\n\r\n{\"dir\":\"../\"}"),
		"an unknown upgrade": []byte("POST /v1/connect HTTP/1.1\r\nHost: cell\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n"),
		"an unknown path":    []byte("BREW /v9/%2e%2e/%00 HTTP/1.1\r\nHost: cell\r\nConnection: close\r\n\r\n"),
	}
	var all sync.WaitGroup
	for what, bytes := range cases {
		all.Go(func() {
			c, err := net.Dial("unix", s.home.Socket())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_ = c.SetWriteDeadline(time.Now().Add(5 * time.Second))
			_, _ = c.Write(bytes) // the node may close before it has read all
			ends(t, c, 15*time.Second, what)
		})
	}
	all.Wait()
	s.must("ps")
	growth(t, d, before, "control socket")
}

func TestGarbageInFramesOfCallers(t *testing.T) {
	s := newSite(t)
	d := s.up()
	good := s.caller()
	before := memory(t, d.cmd.Process.Pid)
	half := append(frameHeader(1<<20), noise(1<<10)...)
	for what, c := range map[string]struct {
		bytes []byte
		stays bool // an honest caller may be as slow
	}{
		"garbage":                {noise(1 << 16), false},
		"4 GiB":                  {frameHeader(1<<32 - 1), false},
		"more than is allowed":   {frameHeader(frame.MaxBody + frame.MaxMeta + 1), false},
		"half a header":          {frameHeader(0)[:7], true},
		"half a frame":           {half, true},
		"the most that goes":     {frameHeader(frame.MaxBody), true},
		"many halves":            {bytes.Repeat(frameHeader(0), 1000), true},
		"a number twice at once": {bytes.Repeat(append(frameHeader(1), 'x'), 2), true},
	} {
		conn := s.upgrade()
		defer conn.Close()
		_ = conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
		_, _ = conn.Write(c.bytes)
		if !c.stays {
			ends(t, conn, 5*time.Second, what)
		}
		refused(t, good, what)
	}
	for range 200 { // halves of the largest frames, all at once: promised 800 MiB
		conn := s.upgrade()
		defer conn.Close()
		_, _ = conn.Write(append(frameHeader(frame.MaxBody), noise(1<<10)...))
	}
	refused(t, good, "200 halves")
	growth(t, d, before, "frames")
}

// refused makes a call to nothing that is served, and wants that answer: this
// connection works.
func refused(t *testing.T, c *frame.Conn, what string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := c.Call(ctx, frame.Request{Target: "no such target"})
	if !errors.Is(err, &frame.Error{Code: frame.Invalid}) {
		t.Errorf("%s: another caller got %v", what, err)
	}
}

// A node of the same network sends garbage on every protocol that the other one
// speaks. It is hung up on; its other streams and everybody else go on.
func TestGarbageFromPeer(t *testing.T) {
	s := newSite(t)
	d := s.up()
	good := newStranger(t, s.net)
	good.reach(d)
	evil := newStranger(t, s.net)
	evil.reach(d)
	id, err := host.PeerID(d.status.Node)
	if err != nil {
		t.Fatal(err)
	}
	before := memory(t, d.cmd.Process.Pid)
	lengths := [][]byte{
		{0xff, 0xff, 0xff, 0xff},                                           // 4 GiB, either end first
		{0x80, 0x80, 0x80, 0x80, 0x10},                                     // the same as a varint
		{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, // a varint without end
		frameHeader(1<<32 - 1),
		noise(1 << 16),
		{0, 0, 0},          // half a length
		{0, 0, 4, 0, 0xa3}, // half a message
		frameHeader(1 << 20),
		append(frameHeader(frame.MaxBody), noise(1<<10)...),
	}
	protocols := []protocol.ID{
		host.Protocol(s.net, "axon/1"), host.Protocol(s.net, "lease/2"), host.Protocol(s.net, "watch/1"), host.Protocol(s.net, "pulse/2"), host.Prefix(s.net) + "/kad/1.0.0",
		"/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0", "/no/such/protocol",
	}
	for _, p := range protocols {
		for i, b := range lengths {
			st, err := evil.Open(t.Context(), id, p)
			if err != nil {
				t.Fatalf("%s, case %d: %v", p, i, err)
			}
			_ = st.SetDeadline(time.Now().Add(time.Second))
			_, _ = st.Write(b)
			if i%2 == 0 {
				_ = st.CloseWrite()
			}
			defer st.Reset() // held until the end
		}
		if why := good.put(d, good.lease("good", time.Now())); why != "" {
			t.Errorf("after garbage on %s: a good lease was refused: %s", p, why)
		}
	}
	if c := evil.Network().ConnsToPeer(id); len(c) == 0 {
		t.Log("the node hung up on the whole connection")
	}
	s.must("lookup", "good@"+good.key.Public().String())
	growth(t, d, before, "streams")

	// And below: on the port itself.
	a := d.addrs()[0]
	port, _ := a.ValueForProtocol(ma.P_UDP)
	udp, err := net.Dial("udp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for i := range 20_000 {
		b := noise(1 + i%1400)
		b[0] |= 0xc0 // looks like the first packet of a connection
		_, _ = udp.Write(b)
	}
	if why := good.put(d, good.lease("good", time.Now())); why != "" {
		t.Errorf("after garbage on the port: %s", why)
	}
	growth(t, d, before, "port")
}

func TestGarbageOnLAN(t *testing.T) {
	s := newSite(t)
	d := s.up()
	peer := newStranger(t, s.net)
	before := memory(t, d.cmd.Process.Pid)
	good := announcement(s.net, peer.lease("good", time.Now()))
	other := announcement("elsewhere", peer.lease("other", time.Now()))
	forged := bytes.Clone(good)
	forged[len(forged)-1] ^= 1
	liar := bytes.Clone(good)
	binary.LittleEndian.PutUint16(liar[16:], 0xffff) // the length of the first record
	many := bytes.Clone(good)
	many[6] = 255 // records
	bad := [][]byte{
		nil, {0}, []byte("CELL"), noise(16), noise(1400), noise(1401), noise(9000), noise(60_000),
		good[:15], good[:17], good[:len(good)/2], append(bytes.Clone(good), 0), other, forged, liar, many,
	}
	for v := range 256 { // every version and kind
		for i, right := range map[int][]int{4: {int(good[4])}, 5: {int(pheromone.KindAnnounce), int(pheromone.KindAnswer)}} {
			if b := bytes.Clone(good); !slices.Contains(right, v) {
				b[i] = byte(v)
				bad = append(bad, b)
			}
		}
	}
	s.shout(bad...)
	if o := s.cell("lookup", "other@"+peer.key.Public().String()); o.exit == 0 {
		t.Errorf("believed: %s", o.stdout)
	}
	lookup := func(name string) bool { return s.cell("lookup", name+"@"+peer.key.Public().String()).exit == 0 }
	if lookup("good") {
		t.Error("a broken packet was believed")
	}
	// A record that has been refused in bad company is taken in good, though not
	// in the same second.
	eventually(t, 10*time.Second, "a good packet is believed after the bad ones", func() bool {
		s.shout(good)
		return lookup("good")
	})

	// A flood, of packets that take some work: everything is counted, little is said.
	for i := range 6 {
		var packets [][]byte
		for j := range 500 {
			at := time.Now().Add(-time.Duration(i*500+j) * time.Millisecond)
			l := peer.lease(identity.Name(fmt.Sprintf("flood-%d", j)), at)
			l.Raw[j%record.MaxLeaseSize%len(l.Raw)] ^= 1
			packets = append(packets, announcement(s.net, l))
		}
		s.shout(packets...)
	}
	if n := len(s.events(journal.PacketRefused)); n == 0 || n > 20 {
		t.Errorf("%d events about refused packets", n)
	}
	growth(t, d, before, "LAN")
	eventually(t, 10*time.Second, "a good packet is believed after a flood", func() bool {
		s.shout(announcement(s.net, peer.lease("late", time.Now())))
		return lookup("late")
	})
}
