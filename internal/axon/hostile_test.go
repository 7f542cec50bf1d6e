package axon

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"github.com/libp2p/go-libp2p/core/network"
)

// raw opens a lane by hand, for a peer that will not behave.
func raw(t *testing.T, from *host.Host, to *node) network.Stream {
	t.Helper()
	ctx := within(t)
	if err := from.Dial(ctx, to.key(), to.addrs()); err != nil {
		t.Fatal(err)
	}
	id, err := host.PeerID(to.key())
	if err != nil {
		t.Fatal(err)
	}
	s, err := from.Open(ctx, id, host.Protocol(testNet, "axon/1"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// header is a request's header that claims what it likes.
func header(length uint32, kind byte, meta uint16) []byte {
	b := make([]byte, frame.HeaderSize)
	binary.LittleEndian.PutUint32(b, length)
	b[4] = kind
	binary.LittleEndian.PutUint16(b[6:], meta)
	return b
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestHostileBytesEndTheirLaneOnly(t *testing.T) {
	victim, honest, hostile := open(t, 1, Config{Handler: echo}), open(t, 2, Config{}), open(t, 3, Config{})
	ctx := within(t)
	for name, bytes := range map[string][]byte{
		"garbage":        []byte("GET / HTTP/1.1\r\nHost: example.com\r\nAccept: everything\r\n\r\n"),
		"4 GiB":          header(1<<32-1, 1, 0),
		"4 GiB unknown":  header(1<<32-1, 99, 0),
		"kind 0":         header(0, 0, 0),
		"meta too long":  header(600, 1, 513),
		"meta past end":  header(3, 1, 4),
		"cancel with it": header(9, 3, 0),
	} {
		s := raw(t, hostile.host, victim)
		if _, err := s.Write(bytes); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = s.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, s); err == nil {
			continue // ended by the victim
		} else if se := new(network.StreamError); !errors.As(err, &se) {
			t.Errorf("%s: lane ended with %v", name, err)
		}
	}
	// The connection, and another lane of the same peer, live on.
	if _, err := hostile.Ping(ctx, victim.key(), victim.addrs()); err != nil {
		t.Errorf("another lane of the hostile peer: %v", err)
	}
	if _, err := honest.Ping(ctx, victim.key(), victim.addrs()); err != nil {
		t.Errorf("an honest peer: %v", err)
	}
}

func TestHalfFrameHoldsNoMemory(t *testing.T) {
	victim, hostile := open(t, 1, Config{Handler: echo}), open(t, 3, Config{})
	before := heap()
	var lanes []network.Stream
	for range guestLanes {
		s := raw(t, hostile.host, victim)
		if _, err := s.Write(append(header(frame.MaxBody, 1, 0), make([]byte, 1000)...)); err != nil {
			t.Fatal(err)
		}
		lanes = append(lanes, s)
	}
	until(t, "the victim reads as much as it may", func() bool { return victim.receiving() == guestReading })
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("%d half frames that claim 4 MiB each take %d bytes", guestLanes, grown)
	}
	for _, s := range lanes {
		s.Reset()
	}
	until(t, "lanes that have ended leave nothing behind", func() bool {
		victim.door.mu.Lock()
		defer victim.door.mu.Unlock()
		return len(victim.door.guests) == 0 && victim.receiving() == 0
	})
}

func (n *node) receiving() int {
	n.door.reading.mu.Lock()
	defer n.door.reading.mu.Unlock()
	return doorReading - n.door.reading.free
}

func TestThousandsOfLanes(t *testing.T) {
	victim, honest, hostile := open(t, 1, Config{Handler: echo}), open(t, 2, Config{}), open(t, 3, Config{})
	ctx := within(t)
	raw(t, hostile.host, victim)
	id, _ := host.PeerID(victim.key())
	var all sync.WaitGroup
	slots := make(chan struct{}, 32)
	for range 3000 {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			short, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			s, err := hostile.host.Open(short, id, host.Protocol(testNet, "axon/1"))
			if err != nil {
				return // refused by the limits of the host
			}
			s.Write(header(0, 1, 0))
		})
	}
	all.Wait()
	victim.door.mu.Lock()
	n := len(victim.door.lanes)
	victim.door.mu.Unlock()
	if n > guestLanes {
		t.Errorf("one peer holds %d lanes, want at most %d", n, guestLanes)
	}
	if _, err := honest.Ping(ctx, victim.key(), victim.addrs()); err != nil {
		t.Errorf("an honest peer meanwhile: %v", err)
	}
}

func TestRefusedLaneMayBeTriedElsewhere(t *testing.T) {
	victim, guest := open(t, 1, Config{Handler: echo}), open(t, 3, Config{})
	for range guestLanes {
		s := raw(t, guest.host, victim)
		if _, err := s.Write(header(0, 1, 0)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(s, make([]byte, frame.HeaderSize)); err != nil {
			t.Fatal(err) // the lane is in
		}
	}
	_, err := guest.Call(within(t), victim.key(), victim.addrs(), frame.Request{Target: "echo"})
	wantCode(t, err, frame.Overloaded)
}

// TestUnreadResponses lets a peer ask for many large responses and read none.
func TestUnreadResponses(t *testing.T) {
	victim, hostile := open(t, 1, Config{Handler: echo}), open(t, 3, Config{})
	before := heap()
	for range guestLanes {
		s := raw(t, hostile.host, victim)
		defer s.Reset() // lest the end of the test waits for what it will never read
		for id := range 12 {
			h := header(3, 1, 3)
			binary.LittleEndian.PutUint64(h[8:], uint64(id))
			if _, err := s.Write(append(h, "big"...)); err != nil {
				t.Fatal(err)
			}
		}
	}
	until(t, "all calls have been served", func() bool { return victim.serving() == 0 && victim.spent() > 0 })
	if held := victim.spent(); held > guestMemory {
		t.Errorf("responses to one peer hold %d bytes, %d are allowed", held, guestMemory)
	}
	// Beside what is counted, each lane has a batch being written and one being filled.
	if grown := heap() - before; grown > guestMemory+guestLanes*6*frame.MaxBody {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	honest := open(t, 2, Config{})
	if got, err := honest.Call(within(t), victim.key(), victim.addrs(), frame.Request{Target: "big"}); err != nil || len(got.Body) != frame.MaxBody {
		t.Errorf("an honest peer meanwhile: %d bytes, %v", len(got.Body), err)
	}
}

func (n *node) spent() int {
	n.door.memory.mu.Lock()
	defer n.door.memory.mu.Unlock()
	return doorMemory - n.door.memory.free
}

// TestHostileCallee calls a node that answers with rubbish, or not at all.
func TestHostileCallee(t *testing.T) {
	a := open(t, 1, Config{})
	for name, serve := range map[string]func(network.Stream){
		"garbage":          func(s network.Stream) { s.Write([]byte("no frames here, only words that mean nothing")) },
		"4 GiB":            func(s network.Stream) { s.Write(header(1<<32-1, 2, 0)) },
		"nobody asked":     func(s network.Stream) { s.Write(header(0, 2, 0)); s.Close() },
		"ends at once":     func(s network.Stream) { s.Close() },
		"resets at once":   func(s network.Stream) { s.Reset() },
		"claims, is quiet": func(s network.Stream) { s.Write(header(frame.MaxBody, 2, 0)) },
	} {
		h, err := host.New(host.Config{Key: identity.NewPrivate(), Network: testNet, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
		if err != nil {
			t.Fatal(err)
		}
		h.SetStreamHandler(host.Protocol(testNet, "axon/1"), serve)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err = a.Call(ctx, h.Key(), h.LeaseAddrs(true), frame.Request{Target: "echo"})
		cancel()
		t.Logf("%s: %v", name, err)
		wantCode(t, err, frame.Unavailable, frame.NotSent, frame.Timeout)
		h.Close()
	}
}

// TestGuestLeavesRoom has a node ask for more than a replica is asked at once:
// all calls of others to a replica share one connection with it.
func TestGuestLeavesRoom(t *testing.T) {
	a, b := open(t, 1, Config{}), open(t, 2, Config{Handler: echo})
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	const asked = frame.MaxInflight
	refused := make(chan error, asked)
	for range asked {
		go func() {
			_, err := a.Call(ctx, b.key(), b.addrs(), frame.Request{Target: "wait"})
			refused <- err
		}()
	}
	for range asked / 2 {
		wantCode(t, <-refused, frame.Overloaded)
	}
	until(t, "no more are served", func() bool { return b.serving() <= frame.MaxInflight/2 })
	cancel()
	for range asked - asked/2 {
		<-refused
	}
}
