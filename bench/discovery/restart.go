package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cell.network/cell/internal/home"
	"github.com/libp2p/go-libp2p/core/peer"
)

var restartRows = []row{{
	name: "restart to first endpoint, bootstrap and 70 % of cached peers dead",
	ours: source{oursRestart, restarted},
	goal: bound{p95: 2 * time.Second},
}}

const (
	oursRestart = "our restart"
	restarted   = "restarted"
)

const (
	cacheDead   = 0.7 // of the peers that a host remembers
	afterUp     = 10 * time.Millisecond
	restartTime = time.Minute // at most
)

// restart stops hosts in good order and starts them again later: those that
// they were told of when they were set up are dead, and so are most of those
// that they remember. A sample is the time from the start to the first endpoint
// of a name that others serve.
func restart(s setup, figures map[string]figure) error {
	net, err := newOurs(s, newWAN(s), nil)
	if err != nil {
		return err
	}
	defer net.close()
	if err := net.preseed(); err != nil {
		return err
	}
	who := newCrowd(s)
	n := pick(s, 8, 20)
	owners, sleepers := who.some(n), who.some(n)
	slices.Sort(sleepers)
	sleepers = slices.DeleteFunc(slices.Compact(sleepers), func(i int) bool { return slices.Contains(owners, i) })
	name := func(i int) string { return fmt.Sprintf("restart-%d", i) }
	for i, owner := range owners {
		ctx, cancel := context.WithTimeout(context.Background(), opTime)
		err := net.announce(ctx, owner, name(i))
		cancel()
		if err != nil {
			return err
		}
	}
	time.Sleep(10 * time.Minute) // peers are written down now and then
	var asleep sync.WaitGroup
	for _, i := range sleepers {
		asleep.Go(net.hosts[i].end)
	}
	asleep.Wait()
	gone := who.doom(deadShare, append(slices.Clone(owners), sleepers...))
	net.kill(gone)
	time.Sleep(2 * time.Minute)

	// What they remember is changed as if most of it had died meanwhile.
	known := 0
	for _, i := range sleepers {
		k, err := net.age(i, gone)
		if err != nil {
			return err
		}
		known += k
	}
	took := make([]time.Duration, len(sleepers))
	bootstrap := func(int) []int { return gone[:3] }
	var up sync.WaitGroup
	for k, i := range sleepers {
		up.Go(func() {
			time.Sleep(time.Duration(k) * time.Second)
			began := time.Now()
			took[k] = -1
			if err := net.start(net.hosts[i], bootstrap); err != nil {
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), restartTime)
			defer cancel()
			for took[k] < 0 && ctx.Err() == nil {
				if r := net.find(ctx, i, name(k%len(owners))); r.first >= 0 {
					took[k] = time.Since(began)
				} else {
					time.Sleep(afterUp)
				}
			}
		})
	}
	up.Wait()
	f := perOperation(took, 0, 0)
	f.RPCs, f.CPU = 0, 0
	f.Note = fmt.Sprintf("%d peers remembered by each on average, %s of them dead; stock kad-dht remembers none and fails", known/max(1, len(sleepers)), percent(cacheDead))
	figures[restarted] = f
	return nil
}

// age replaces most of the peers in the file that a host left behind by dead
// ones, and returns how many there are.
func (all *ourHosts) age(i int, gone []int) (int, error) {
	place, err := home.At(filepath.Join(all.dir, fmt.Sprint(i)))
	if err != nil {
		return 0, err
	}
	path := filepath.Join(place.Cache, "peers."+string(cellnet))
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read what host %d remembers: %w", i, err)
	}
	dead := make(map[peer.ID]bool)
	for _, j := range gone {
		info, err := all.peerOf(j)
		if err != nil {
			return 0, err
		}
		dead[info.ID] = true
	}
	lines := strings.Fields(string(text))
	alive := slices.DeleteFunc(slices.Clone(lines), func(l string) bool {
		info, err := peer.AddrInfoFromString(l)
		return err != nil || dead[info.ID]
	})
	alive = alive[:min(len(alive), int((1-cacheDead)*float64(len(lines))))]
	var out bytes.Buffer
	for _, l := range alive {
		fmt.Fprintln(&out, l)
	}
	for _, j := range gone[:min(len(gone), len(lines)-len(alive))] {
		info, err := all.peerOf(j)
		if err != nil {
			return 0, err
		}
		fmt.Fprintf(&out, "%s/p2p/%s\n", info.Addrs[0], info.ID)
	}
	return len(lines), os.WriteFile(path, out.Bytes(), 0o600)
}
