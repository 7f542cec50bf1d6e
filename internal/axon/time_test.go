package axon

import (
	"context"
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/sim"
)

// planet joins nodes over a simulated network; it must be called in a bubble.
func planet(t *testing.T, configs ...Config) (*sim.Network, []*node) {
	t.Helper()
	net := sim.NewNetwork(sim.Config{Latency: sim.LAN, Jitter: -1})
	var nodes []*node
	for i, c := range configs {
		h, err := host.New(host.Config{
			Key: key(byte(i + 1)), Network: testNet, ListenPacket: net.Listen,
			Listen: []string{"/ip4/" + sim.Addr(i).String() + "/udp/0/quic-v1"},
		})
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, &node{New(h, testNet, c), h})
	}
	t.Cleanup(func() {
		for _, n := range nodes {
			n.Close()
			n.host.Close()
		}
		net.Close()
	})
	return net, nodes
}

func (n *node) guests() int {
	n.door.mu.Lock()
	defer n.door.mu.Unlock()
	return len(n.door.lanes)
}

func TestIdleLanesAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, n := planet(t, Config{}, Config{Handler: echo})
		a, b := n[0], n[1]
		if _, err := a.Ping(t.Context(), b.key(), b.addrs()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Second)
		if b.guests() != 1 || len(a.all()) != 1 {
			t.Errorf("after 50 s %d lanes and %d peers, want them kept", b.guests(), len(a.all()))
		}
		time.Sleep(30 * time.Second)
		if b.guests() != 0 || len(a.all()) != 0 {
			t.Errorf("after 80 s %d lanes and %d peers are left", b.guests(), len(a.all()))
		}
		if _, err := a.Ping(t.Context(), b.key(), b.addrs()); err != nil {
			t.Errorf("after the lanes were closed: %v", err)
		}
	})
}

func TestCallsKeepALaneOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, n := planet(t, Config{}, Config{Handler: echo})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		began := time.Now()
		_, err := n[0].Call(ctx, n[1].key(), n[1].addrs(), frame.Request{Target: "wait"})
		wantCode(t, err, frame.Timeout)
		if took := time.Since(began); took != 10*time.Minute {
			t.Errorf("a call of ten minutes ended after %v", took)
		}
	})
}

func TestGuestThatNeverCallsIsSentAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, n := planet(t, Config{Idle: time.Hour}, Config{Handler: echo})
		if _, err := n[0].Ping(t.Context(), n[1].key(), n[1].addrs()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		if n[1].guests() != 0 {
			t.Error("a lane that is never used is kept for as long as the guest likes")
		}
	})
}

func TestSilentPeerIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, n := planet(t, Config{}, Config{Handler: echo})
		a, b := n[0], n[1]
		if _, err := a.Ping(t.Context(), b.key(), b.addrs()); err != nil {
			t.Fatal(err)
		}
		net.Kill(sim.Addr(1))
		began := time.Now()
		_, err := a.Call(t.Context(), b.key(), b.addrs(), frame.Request{Target: "echo"})
		wantCode(t, err, frame.Unavailable)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("known after %v", took)
		}
		began = time.Now()
		_, err = a.Call(t.Context(), b.key(), b.addrs(), frame.Request{Target: "echo"})
		wantCode(t, err, frame.NotSent)
		if took := time.Since(began); took > a.cfg.DialTimeout {
			t.Errorf("a dial of a dead node took %v", took)
		}
	})
}

func TestUnfinishedFrameEndsItsLane(t *testing.T) {
	for name, begun := range map[string][]byte{
		"half a header": header(0, 1, 0)[:9],
		"half a body":   append(header(frame.MaxBody, 1, 0), make([]byte, 100_000)...),
	} {
		synctest.Test(t, func(t *testing.T) {
			_, n := planet(t, Config{}, Config{Handler: echo, Idle: time.Hour})
			s := raw(t, n[0].host, n[1])
			begun[8] = 1 // unlike the call before it
			if _, err := s.Write(append(header(0, 1, 0), begun...)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(80 * time.Second)
			if n[1].guests() != 1 {
				t.Errorf("%s: the lane ended while there was time", name)
			}
			time.Sleep(10 * time.Second)
			if n[1].guests() != 0 {
				t.Errorf("%s: the lane lives on", name)
			}
			if held := n[1].receiving(); held != 0 {
				t.Errorf("%s: it still holds %d bytes", name, held)
			}
		})
	}
}

func TestBusyLaneOutlivesTheTimeOfOneFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, n := planet(t, Config{}, Config{Handler: echo})
		s := raw(t, n[0].host, n[1])
		var rest []byte
		for i := range 300 { // every write ends amid a frame
			whole := append(header(200, 1, 0), make([]byte, 200)...)
			binary.LittleEndian.PutUint64(whole[8:], uint64(i))
			if _, err := s.Write(append(rest, whole[:100]...)); err != nil {
				t.Fatalf("after %d s of frames: %v", i, err)
			}
			rest = whole[100:]
			time.Sleep(time.Second)
		}
		if n[1].guests() != 1 {
			t.Error("the lane was ended")
		}
	})
}

func TestPeerThatReadsNothingIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, n := planet(t, Config{}, Config{Handler: echo, Idle: time.Hour})
		s := raw(t, n[0].host, n[1])
		for id := range byte(16) {
			h := header(3, 1, 3)
			h[8] = id
			if _, err := s.Write(append(h, "big"...)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Minute)
		if n[1].guests() != 0 || n[1].spent() != 0 {
			t.Errorf("after five minutes %d lanes that hold %d bytes", n[1].guests(), n[1].spent())
		}
	})
}

// QUIC alone takes 15 s to notice; whoever waits for a dead node should not.
func TestDeadNodeIsNoticedByItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, n := planet(t, Config{}, Config{Handler: echo})
		if _, err := n[0].Ping(t.Context(), n[1].key(), n[1].addrs()); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := n[0].Call(t.Context(), n[1].key(), n[1].addrs(), frame.Request{Target: "wait"})
			ended <- err
		}()
		time.Sleep(10 * time.Second) // a slow call to a live node goes on
		select {
		case err := <-ended:
			t.Fatalf("the call ended though the node lives: %v", err)
		default:
		}
		net.Kill(sim.Addr(1))
		died := time.Now()
		wantCode(t, <-ended, frame.Unavailable)
		if took := time.Since(died); took > 2*silence+maxProbes*probeTime {
			t.Errorf("noticed after %v", took)
		}
	})
}
