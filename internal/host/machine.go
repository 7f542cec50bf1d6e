package host

import (
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// How soon a change of the machine's addresses is noticed. libp2p keeps them for
// a minute.
const (
	addrsPoll    = 2 * time.Second        // between two looks where the system tells of nothing
	addrsCheck   = time.Minute            // where it does
	addrsSettle  = 100 * time.Millisecond // for which a change is left to be followed by others
	addrsAtLeast = time.Second            // between two looks, however often it tells
)

// machine knows the addresses of the machine's interfaces as they are now.
type machine struct {
	read func() ([]ma.Multiaddr, error) // of the system: /ip4/… and /ip6/…
	told func() (io.ReadCloser, error)  // reads something whenever there may be a change; errors: it is not told

	mu  sync.Mutex
	now []ma.Multiaddr // in order; guarded by mu
}

func newMachine() *machine { return &machine{read: interfaceAddrs, told: listenChanges} }

// interfaceAddrs returns the addresses of the interfaces that are up, but for
// those that mean something on one wire only (fe80::/10).
func interfaceAddrs() ([]ma.Multiaddr, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []ma.Multiaddr
	for _, ifi := range all {
		addrs, err := ifi.Addrs()
		if err != nil || ifi.Flags&net.FlagUp == 0 {
			continue // it may have gone meanwhile
		}
		for _, a := range addrs {
			if m, err := manet.FromNetAddr(a); err == nil && !manet.IsIP6LinkLocal(m) {
				out = append(out, m)
			}
		}
	}
	return out, nil
}

// addrs returns the addresses at the last look.
func (m *machine) addrs() []ma.Multiaddr {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// look reads the addresses and reports whether they are others than before.
// Where they cannot be read the last ones stay.
func (m *machine) look() (changed bool, err error) {
	now, err := m.read()
	if err != nil {
		return false, err
	}
	slices.SortFunc(now, ma.Multiaddr.Compare)
	now = slices.CompactFunc(now, ma.Multiaddr.Equal)
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.EqualFunc(now, m.now, ma.Multiaddr.Equal) {
		return false, nil
	}
	m.now = now
	return true, nil
}

// watch calls changed after each change until ctx ends.
func (m *machine) watch(ctx context.Context, changed func()) {
	every := addrsPoll
	news := make(chan struct{}, 1)
	if told, err := m.told(); err == nil {
		every = addrsCheck
		var listening sync.WaitGroup
		listening.Go(func() { listen(told, news) })
		defer listening.Wait()
		defer told.Close()
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	look := func() {
		if news, _ := m.look(); news {
			changed()
		}
	}
	look() // since the last one nobody told
	for {
		select {
		case <-tick.C:
		case _, ok := <-news:
			if !ok { // the system tells no more
				news = nil
				tick.Reset(addrsPoll)
			}
			rest(ctx, addrsSettle)
		case <-ctx.Done():
			return
		}
		look()
		rest(ctx, addrsAtLeast)
	}
}

// rest waits for d, or until ctx ends.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// listen puts a token into news whenever something can be read, and closes it at
// the end.
func listen(told io.Reader, news chan<- struct{}) {
	defer close(news)
	buf := make([]byte, 1<<16)
	for {
		if _, err := told.Read(buf); err != nil && !toldTooMuch(err) {
			return
		}
		select {
		case news <- struct{}{}:
		default:
		}
	}
}
