package host

import (
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
)

// Machines that came in without having been talked to prove that others may.
const (
	minStrangers = 3
	memory       = 15 * time.Minute // of machines that were dialled; translators forget sooner
	maxMet       = 4096             // machines; when there are more, nothing is proven
)

// acquaintances are the machines that this one sent packets to lately.
type acquaintances struct {
	mu    sync.Mutex // guards what follows
	met   map[netip.Addr]time.Time
	came  map[netip.Addr]time.Time // strangers that came in, and when
	blind time.Time                // until then somebody may be forgotten
}

func newAcquaintances() *acquaintances {
	return &acquaintances{met: make(map[netip.Addr]time.Time), came: make(map[netip.Addr]time.Time)}
}

// dialled notes that packets go to an address.
func (a *acquaintances) dialled(to ma.Multiaddr) {
	ip, ok := machineOf(to)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.meetLocked(ip)
}

func (a *acquaintances) meetLocked(ip netip.Addr) {
	now := time.Now()
	if len(a.met) >= maxMet {
		for old, at := range a.met {
			if now.Sub(at) > memory {
				delete(a.met, old)
			}
		}
		if len(a.met) >= maxMet {
			clear(a.met)
			a.blind = now.Add(memory)
		}
	}
	a.met[ip] = now
}

// connected notes who came in uninvited; from now on it is no stranger.
func (a *acquaintances) connected(c network.Conn) {
	ip, ok := machineOf(c.RemoteMultiaddr())
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	at, known := a.met[ip]
	if c.Stat().Direction == network.DirInbound && (!known || now.Sub(at) > memory) && now.After(a.blind) && len(a.came) < maxMet {
		a.came[ip] = now
	}
	a.meetLocked(ip)
}

// disconnected notes when packets last went to a machine.
func (a *acquaintances) disconnected(c network.Conn) {
	if isQUIC(c.RemoteMultiaddr()) {
		a.dialled(c.RemoteMultiaddr())
	}
}

// strangers returns how many machines came in uninvited within the last day.
func (a *acquaintances) strangers() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	for ip, at := range a.came {
		if time.Since(at) > 24*time.Hour {
			delete(a.came, ip)
		}
	}
	return len(a.came)
}
