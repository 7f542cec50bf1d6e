package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"cell.network/cell/internal/sim"
	"github.com/hashicorp/memberlist"
)

var crashRows = []row{
	{
		name: "host crash to never returned, LAN", peer: members,
		ours: source{oursCrashLAN, crashed}, theirs: source{membersCrashLAN, crashed},
		must: bound{last: 5 * time.Second}, goal: bound{last: 3 * time.Second},
	},
	{
		name: "host crash to never returned, WAN", peer: members,
		ours: source{oursCrashWAN, crashed}, theirs: source{membersCrashWAN, crashed},
		must: bound{last: 12 * time.Second}, goal: bound{last: 8 * time.Second},
	},
}

const (
	oursCrashLAN    = "our crash, LAN"
	oursCrashWAN    = "our crash, WAN"
	membersCrashLAN = "memberlist crash, LAN"
	membersCrashWAN = "memberlist crash, WAN"
	crashed         = "crashed"
)

const (
	victims    = 6
	crashEvery = 3 * time.Second
	calm       = 15 * time.Second // without a sign of the dead, after which it is not returned any more
	crashLimit = 4 * time.Minute
)

// crashOurs has hosts crash that serve a name, and watches until nobody returns
// them any more: neither the caches of those who knew them nor fresh searches
// of others.
func crashOurs(s setup, wires *sim.Network, figures map[string]figure) error {
	net, err := newOurs(s, wires, nil)
	if err != nil {
		return err
	}
	defer net.close()
	if err := net.preseed(); err != nil {
		return err
	}
	time.Sleep(pick(s, 30*time.Second, time.Minute)) // rounds of probing begin
	who := newCrowd(s)
	dying := who.doom(float64(victims)/float64(s.Nodes), nil)
	took := make([]time.Duration, len(dying))
	var all sync.WaitGroup
	for i, victim := range dying {
		watchers, searchers := who.some(pick(s, 10, 30)), who.some(int(crashLimit/searchEvery))
		all.Go(func() {
			time.Sleep(time.Duration(i) * crashEvery)
			took[i] = net.crash(fmt.Sprintf("crash-%d", i), victim, watchers, searchers)
		})
	}
	all.Wait()
	f := perOperation(took, 0, 0)
	f.RPCs, f.CPU = 0, 0
	figures[crashed] = f
	return nil
}

// searchEvery is the pause between two fresh searches for a dead host.
const searchEvery = 500 * time.Millisecond

// crash returns how long after its death a host was returned by anybody;
// negative: for as long as was waited.
func (all *ourHosts) crash(name string, victim int, watchers, searchers []int) time.Duration {
	ctx, cancel := context.WithTimeout(context.Background(), opTime)
	defer cancel()
	if err := all.announce(ctx, victim, name); err != nil {
		return -1
	}
	var met sync.WaitGroup
	for _, w := range watchers {
		met.Go(func() { all.find(ctx, w, name) })
	}
	met.Wait()

	all.kill([]int{victim})
	began := time.Now()
	var mu sync.Mutex
	last := time.Duration(0)
	saw := func() {
		mu.Lock()
		defer mu.Unlock()
		last = time.Since(began)
	}
	quiet := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return time.Since(began)-last > calm
	}
	key, cell := all.hosts[victim].key.Public(), all.cell(name)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var searches sync.WaitGroup
	for n := 0; !quiet(); n++ {
		if time.Since(began) > crashLimit {
			return -1
		}
		<-tick.C
		for _, w := range watchers {
			for _, e := range all.hosts[w].node.Mesh().Cached(cell) {
				if e.Node == key {
					saw()
				}
			}
		}
		if n%int(searchEvery/(50*time.Millisecond)) == 0 && len(searchers) > 0 {
			at := searchers[0]
			searchers = searchers[1:]
			searches.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), calm)
				defer cancel()
				if slices.Contains(all.find(ctx, at, name).who, victim) {
					saw()
				}
			})
		}
	}
	searches.Wait()
	return last
}

// crashMembers has members crash and waits until all others have given them up.
func crashMembers(s setup, conf func() *memberlist.Config, latency func(from, to netip.Addr) time.Duration, figures map[string]figure) error {
	all, err := newMembers(s, conf, latency)
	if err != nil {
		return err
	}
	defer all.close()
	who := newCrowd(s)
	dying := who.doom(float64(victims)/float64(s.Nodes), nil)
	took := make([]time.Duration, len(dying))
	var work sync.WaitGroup
	for i, victim := range dying {
		work.Go(func() {
			time.Sleep(time.Duration(i) * crashEvery)
			all.kill(victim)
			took[i] = all.givenUp(victim, who.dead)
		})
	}
	work.Wait()
	f := perOperation(took, 0, 0)
	f.RPCs, f.CPU = 0, 0
	figures[crashed] = f
	return nil
}

// givenUp returns when the last live host gives up host i; negative: not in time.
func (all *memberHosts) givenUp(i int, dead map[int]bool) time.Duration {
	began := time.Now()
	for time.Since(began) < crashLimit {
		time.Sleep(100 * time.Millisecond)
		var last time.Duration
		complete := true
		for j, h := range all.hosts {
			if dead[j] {
				continue
			}
			at, gone := h.gaveUp(i)
			if !gone {
				complete = false
				break
			}
			last = max(last, at.Sub(began))
		}
		if complete {
			return last
		}
	}
	return -1
}
