package host

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ma "github.com/multiformats/go-multiaddr"
)

// plugs are interfaces that a test plugs in and out.
type plugs struct {
	mu    sync.Mutex
	addrs []ma.Multiaddr
	err   error
	looks int
}

func (p *plugs) read() ([]ma.Multiaddr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looks++
	return append([]ma.Multiaddr(nil), p.addrs...), p.err
}

func (p *plugs) looked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.looks
}

func (p *plugs) set(err error, addrs ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addrs, p.err = nil, err
	for _, a := range addrs {
		p.addrs = append(p.addrs, ma.StringCast(a))
	}
}

func untold() (io.ReadCloser, error) { return nil, errors.ErrUnsupported }

// begin watches plugs until the test ends and counts the changes.
func (p *plugs) begin(t *testing.T, told func() (io.ReadCloser, error)) (*machine, *atomic.Int32) {
	m := &machine{read: p.read, told: told}
	_, _ = m.look()
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	changes := new(atomic.Int32)
	done.Go(func() { m.watch(ctx, func() { changes.Add(1) }) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	return m, changes
}

func TestAddressesAreLookedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p plugs
		p.set(nil, "/ip4/127.0.0.1")
		m, changes := p.begin(t, untold)
		time.Sleep(time.Hour)
		if changes.Load() != 0 {
			t.Errorf("%d changes though nothing has changed", changes.Load())
		}
		p.set(nil, "/ip4/10.0.0.1", "/ip4/127.0.0.1")
		time.Sleep(addrsPoll + time.Second)
		if changes.Load() != 1 || len(m.addrs()) != 2 {
			t.Errorf("%d changes, %v", changes.Load(), m.addrs())
		}
		p.set(nil, "/ip4/127.0.0.1", "/ip4/10.0.0.1", "/ip4/10.0.0.1") // the same
		time.Sleep(time.Minute)
		p.set(errors.New("no"))
		time.Sleep(time.Minute)
		if changes.Load() != 1 || len(m.addrs()) != 2 {
			t.Errorf("%d changes, %v", changes.Load(), m.addrs())
		}
		p.set(nil)
		time.Sleep(time.Minute)
		if changes.Load() != 2 || len(m.addrs()) != 0 {
			t.Errorf("unplugged: %d changes, %v", changes.Load(), m.addrs())
		}
	})
}

// What the system tells is acted on at once, but not more often than once a
// second, and where it ceases to tell it is looked for.
func TestAddressesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		var p plugs
		p.set(nil, "/ip4/127.0.0.1")
		m, changes := p.begin(t, func() (io.ReadCloser, error) { return r, nil })
		time.Sleep(time.Hour + 2*addrsAtLeast)
		p.set(nil, "/ip4/10.0.0.1")
		_, _ = w.Write([]byte("news"))
		time.Sleep(2 * addrsSettle)
		if changes.Load() != 1 || len(m.addrs()) != 1 {
			t.Errorf("%d changes, %v", changes.Load(), m.addrs())
		}
		time.Sleep(time.Minute)
		before := p.looked()
		for range 1000 { // a bad cable
			p.set(nil, "/ip4/10.0.0.1")
			_, _ = w.Write([]byte("news"))
			p.set(nil)
			_, _ = w.Write([]byte("news"))
			time.Sleep(10 * time.Millisecond)
		}
		if n := p.looked() - before; n > 11 || n < 5 {
			t.Errorf("%d looks in ten seconds", n)
		}
		_ = w.Close()
		time.Sleep(addrsPoll + time.Second)
		p.set(nil, "/ip4/10.0.0.9")
		time.Sleep(addrsPoll + time.Second)
		if a := m.addrs(); len(a) != 1 || a[0].String() != "/ip4/10.0.0.9" {
			t.Errorf("it tells no more: %v", a)
		}
	})
}
