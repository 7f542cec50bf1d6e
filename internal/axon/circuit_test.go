package axon

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/sim"
)

// behind opens a caller and a callee behind boxes of their own, and the relay
// that they have places at; it must be called in a bubble.
func behind(t *testing.T, box sim.NATConfig, handler Handler) (a, b *node) {
	t.Helper()
	net := sim.NewNetwork(sim.Config{Seed: 1})
	t.Cleanup(func() {
		net.Close()
		time.Sleep(host.Linger)
	})
	start := func(n byte, boxed bool, c Config) *node {
		hc := host.Config{Key: key(n), Network: identity.Public, NAT: true, Relayed: []string{"axon/1"}, ListenPacket: net.Listen}
		at := sim.Addr(int(n))
		if boxed {
			conf := box
			conf.Public = sim.Addr(int(n))
			nat := net.NAT(conf)
			t.Cleanup(nat.Close)
			at, hc.ListenPacket = netip.AddrFrom4([4]byte{10, 0, 0, n}), nat.Listen
		} else {
			hc.Public = host.Yes
		}
		hc.Listen = []string{fmt.Sprintf("/ip4/%s/udp/4001/quic-v1", at)}
		h, err := host.New(hc)
		if err != nil {
			t.Fatal(err)
		}
		ax := New(h, identity.Public, c)
		t.Cleanup(func() {
			ax.Close()
			if err := h.Close(); err != nil {
				t.Errorf("close host: %v", err)
			}
		})
		return &node{ax, h}
	}
	relays := []*node{start(1, false, Config{}), start(2, false, Config{})}
	a, b = start(3, true, Config{}), start(4, true, Config{Handler: handler})
	for _, n := range []*node{a, b} {
		for _, r := range relays {
			if err := n.host.Dial(t.Context(), r.key(), r.host.LeaseAddrs(false)); err != nil {
				t.Fatal(err)
			}
		}
	}
	until(t, "places at relays", func() bool {
		time.Sleep(100 * time.Millisecond)
		return len(a.host.Reach().Places) > 0 && len(b.host.Reach().Places) > 0
	})
	return a, b
}

func (n *node) direct(to *node) bool {
	via, _, _ := n.host.Path(to.key())
	return via == "direct"
}

func (n *node) lanesTo(to *node) (relayed, direct int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.remotes[to.key()]
	if p == nil {
		return 0, 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lanes {
		if l.relayed {
			relayed++
		} else {
			direct++
		}
	}
	return relayed, direct
}

// Calls begin over a relay and go on directly: none is lost, and none is executed twice.
func TestLanesMoveToDirectConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls = 1000
		var mu sync.Mutex
		executed := make(map[string]int)
		a, b := behind(t, sim.NATConfig{PortFilter: true}, func(ctx context.Context, _ identity.Key, r frame.Request) (frame.Response, error) {
			mu.Lock()
			executed[string(r.Body)]++
			n := len(executed)
			mu.Unlock()
			if string(r.Body) == "first" {
				time.Sleep(2 * time.Second)
			}
			time.Sleep(time.Duration(n%5) * 40 * time.Millisecond)
			return frame.Response{Body: r.Body}, nil
		})
		began := time.Now()
		if _, err := a.Ping(t.Context(), b.key(), b.host.LeaseAddrs(false)); err != nil {
			t.Fatal(err)
		}
		if a.direct(b) {
			t.Fatal("direct at once: this proves nothing")
		}
		slow := make(chan error, 1)
		go func() { // is under way on the relay for the whole time
			_, err := a.Call(t.Context(), b.key(), nil, frame.Request{Target: "echo", Body: []byte("first")})
			slow <- err
		}()
		var all sync.WaitGroup
		relayed := 0
		for i := range calls {
			if !a.direct(b) {
				relayed++
			}
			all.Go(func() {
				body := fmt.Sprint(i)
				got, err := a.Call(t.Context(), b.key(), nil, frame.Request{Target: "echo", Body: []byte(body)})
				if err != nil || string(got.Body) != body {
					t.Errorf("call %d, %v after the first: %q, %v", i, time.Since(began), got.Body, err)
				}
			})
			time.Sleep(time.Millisecond)
		}
		all.Wait()
		if err := <-slow; err != nil {
			t.Error(err)
		}
		late := calls - relayed
		if relayed < 50 || late < 50 {
			t.Errorf("%d calls began over the relay and %d directly: this proves little", relayed, late)
		}
		t.Logf("%d calls began over the relay, %d directly", relayed, late)
		mu.Lock()
		if len(executed) != calls+1 {
			t.Errorf("%d calls were executed", len(executed))
		}
		for body, n := range executed {
			if n != 1 {
				t.Errorf("call %s was executed %d times", body, n)
			}
		}
		mu.Unlock()
		if relayed, direct := a.lanesTo(b); relayed > 0 || direct == 0 {
			t.Errorf("%d lanes over the relay and %d direct ones at last", relayed, direct)
		}
		big := frame.Request{Target: "echo", Body: make([]byte, 2*host.RelayBytes)}
		if got, err := a.Call(t.Context(), b.key(), nil, big); err != nil || len(got.Body) != len(big.Body) {
			t.Errorf("more than a relay passes on, directly: %d bytes, %v", len(got.Body), err)
		}
		time.Sleep(host.RelayTime)
		if _, err := a.Ping(t.Context(), b.key(), nil); err != nil || !a.direct(b) {
			t.Errorf("after the relay's time: %v", err)
		}
	})
}

// Nodes that never meet directly: what does not fit the relay is refused before
// it breaks the connection, and a connection that breaks says why.
func TestRelaysAreNotOverdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		executed := 0
		a, b := behind(t, sim.NATConfig{PerRemote: true, PortFilter: true}, func(ctx context.Context, from identity.Key, r frame.Request) (frame.Response, error) {
			executed++
			if r.Target == "sink" {
				return frame.Response{}, nil
			}
			return echo(ctx, from, r)
		})
		call := func(target string, n int) error {
			_, err := a.Call(t.Context(), b.key(), b.host.LeaseAddrs(false), frame.Request{Target: target, Body: make([]byte, n)})
			return err
		}
		err := call("sink", host.RelayBytes)
		wantCode(t, err, frame.TooLarge)
		if e := frame.AsError(err); !strings.Contains(e.Message, "524288 bytes at most") || e.Hint == "" || executed > 0 {
			t.Errorf("more than a relay passes on: %+v", e)
		}
		const part = 100 << 10
		var errs [8]error
		var all sync.WaitGroup
		for i := range errs {
			all.Go(func() { errs[i] = call("sink", part) })
		}
		all.Wait()
		fit := 0
		for _, err = range errs {
			if err == nil {
				fit++
				continue
			}
			wantCode(t, err, frame.NotSent)
			if e := frame.AsError(err); !strings.Contains(e.Message, "more bytes") || e.Hint == "" {
				t.Errorf("more than is left: %+v", e)
			}
		}
		if fit != executed || fit != 4 {
			t.Errorf("%d calls of %d bytes fit %d, %d were executed", fit, part, host.RelayBytes, executed)
		}
		if err := call("sink", 10); err != nil { // the connection is whole
			t.Errorf("a small one: %v", err)
		}
		err = call("big", 0)
		wantCode(t, err, frame.TooLarge)
		if e := frame.AsError(err); !strings.Contains(e.Message, "was executed") {
			t.Errorf("a response that does not fit: %+v", e)
		}
		ended := make(chan error, 1)
		go func() { ended <- call("wait", 0) }()
		err = <-ended
		wantCode(t, err, frame.Unavailable)
		if e := frame.AsError(err); !strings.Contains(e.Message, "for as long as it does") || e.Hint == "" {
			t.Errorf("after the relay's time: %+v", e)
		}
		if err := call("sink", part); err != nil {
			t.Errorf("on the next circuit: %v", err)
		}
		go func() { ended <- call("wait", 0) }()
		s, err := a.host.Open(t.Context(), b.host.ID(), a.proto) // of a caller that does not care
		if err != nil {
			t.Fatal(err)
		}
		head := make([]byte, frame.HeaderSize)
		binary.LittleEndian.PutUint32(head, frame.MaxBody)
		head[4] = 1
		for _, err = s.Write(head); err == nil; _, err = s.Write(make([]byte, 1000)) {
			_ = s.SetWriteDeadline(time.Now().Add(time.Minute))
		}
		err = <-ended
		wantCode(t, err, frame.Unavailable)
		if e := frame.AsError(err); !strings.Contains(e.Message, "all that it does") || e.Hint == "" {
			t.Errorf("a spent circuit: %+v", e)
		}
	})
}
