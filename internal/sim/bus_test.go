package sim

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func member(i byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, i}), 9067)
}

// heard returns what an end has received within a second of virtual time.
func heard(e *BusEnd) map[netip.AddrPort]int {
	time.Sleep(time.Second)
	got := make(map[netip.AddrPort]int)
	for {
		select {
		case p := <-e.in:
			got[p.from]++
		default:
			return got
		}
	}
}

func TestBusSegmentsAndPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBus(BusConfig{})
		one, two, far := b.Join("a", member(1)), b.Join("a", member(2)), b.Join("b", member(3))
		all := func() {
			for _, e := range []*BusEnd{one, two, far} {
				if err := e.Send([]byte("x"), netip.AddrPort{}); err != nil {
					t.Error(err)
				}
			}
		}
		check := func(what string, e *BusEnd, want ...byte) {
			t.Helper()
			got := heard(e)
			for _, i := range want {
				if got[member(i)] != 1 {
					t.Errorf("%s: %s heard %v, want %v", what, e.Addr(), got, want)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%s: %s heard %v, want %v", what, e.Addr(), got, want)
			}
		}
		all()
		check("whole", one, 1, 2)
		check("whole", two, 1, 2)
		check("whole", far, 3)

		b.Partition([]netip.AddrPort{member(1)}, []netip.AddrPort{member(2)})
		all()
		check("cut", one, 1)
		check("cut", two, 2)
		check("cut", far, 3)

		b.Heal()
		_ = one.Send([]byte("x"), member(2))
		_ = one.Send([]byte("x"), member(3))
		check("unicast", two, 1)
		check("unicast", far)
		check("unicast", one)

		b.SetLoss(0.5)
		for range 400 {
			_ = one.Send([]byte("x"), member(2))
		}
		if n := heard(two)[member(1)]; n < 150 || n > 250 {
			t.Errorf("%d of 400 packets arrived at 50 %% loss", n)
		}
	})
}

func TestBusClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBus(BusConfig{})
		e := b.Join("a", member(1))
		_ = e.Send([]byte("still under way"), netip.AddrPort{})
		failed := make(chan error)
		go func() {
			time.Sleep(time.Second)
			_, _, _ = e.Recv()
			_, _, err := e.Recv()
			failed <- err
		}()
		time.Sleep(time.Minute)
		_, _ = e.Close(), e.Close()
		if err := <-failed; !errors.Is(err, net.ErrClosed) {
			t.Errorf("recv after close: %v", err)
		}
		if err := e.Send(nil, netip.AddrPort{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("send after close: %v", err)
		}
	})
}

func TestBusSameSeedSameLoss(t *testing.T) {
	run := func(seed uint64) (arrived []time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			b := NewBus(BusConfig{Seed: seed, Loss: 0.3})
			one, two := b.Join("a", member(1)), b.Join("a", member(2))
			start := time.Now()
			for range 50 {
				_ = one.Send([]byte("x"), member(2))
				time.Sleep(time.Millisecond)
				select {
				case <-two.in:
					arrived = append(arrived, time.Since(start))
				default:
				}
			}
		})
		return arrived
	}
	a, b, c := run(1), run(1), run(2)
	same := func(a, b []time.Duration) bool {
		if len(a) != len(b) {
			return false
		}
		for i := range a {
			if a[i] != b[i] {
				return false
			}
		}
		return true
	}
	if !same(a, b) || same(a, c) {
		t.Errorf("seed 1: %v\nseed 1: %v\nseed 2: %v", a, b, c)
	}
}
