package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

var partitionRows = []row{{
	name: "partition of 10 minutes healed: each side finds the other", peer: members,
	ours: source{oursPartition, healed}, theirs: source{membersPartition, healed},
	goal: bound{last: 10 * time.Second},
}}

const (
	oursPartition    = "our partition"
	membersPartition = "memberlist partition"
	healed           = "healed"
)

const (
	cutHosts   = 200 // at most
	cutTime    = 10 * time.Minute
	healLimit  = 3 * time.Minute
	healProbes = 4 // searches a time, of each side for the other
)

// partitionOurs cuts the network in two for ten minutes. Names that each side
// announced meanwhile must be found by the other.
func partitionOurs(s setup, figures map[string]figure) error {
	s.Nodes = min(s.Nodes, cutHosts)
	net, err := newOurs(s, newWAN(s), nil)
	if err != nil {
		return err
	}
	defer net.close()
	if err := net.preseed(); err != nil {
		return err
	}
	time.Sleep(time.Minute)
	sides := make([][]int, 2)
	addrs := make([][]netip.Addr, 2)
	for i := range s.Nodes {
		sides[i/regions%2] = append(sides[i/regions%2], i) // both have hosts everywhere
		addrs[i/regions%2] = append(addrs[i/regions%2], addrOf(i))
	}
	net.net.Partition(addrs...)
	time.Sleep(cutTime - time.Minute)

	// A minute before the end each side announces what the other cannot hear of.
	who := newCrowd(s)
	const names = 10
	name := func(side, i int) string { return fmt.Sprintf("side-%d-%d", side, i) }
	owners := make([][]int, 2)
	var announcing sync.WaitGroup
	failed := 0
	var mu sync.Mutex
	for side := range sides {
		for i := range names {
			owner := sides[side][who.rng.IntN(len(sides[side]))]
			owners[side] = append(owners[side], owner)
			announcing.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), opTime)
				defer cancel()
				if err := net.announce(ctx, owner, name(side, i)); err != nil {
					mu.Lock()
					defer mu.Unlock()
					failed++
				}
			})
		}
	}
	announcing.Wait()
	time.Sleep(time.Minute)

	net.net.Heal()
	began := time.Now()
	var last time.Duration // when the last search began that did not find what it was after
	var searches sync.WaitGroup
	for since := time.Duration(0); since < last+30*time.Second && since < healLimit; since = time.Since(began) {
		for side := range sides {
			for range healProbes {
				asker, i := sides[side][who.rng.IntN(len(sides[side]))], who.rng.IntN(names)
				searches.Go(func() {
					ctx, cancel := context.WithTimeout(context.Background(), opTime)
					defer cancel()
					if !slices.Contains(net.find(ctx, asker, name(1-side, i)).who, owners[1-side][i]) {
						mu.Lock()
						defer mu.Unlock()
						last = max(last, since)
					}
				})
			}
		}
		time.Sleep(500 * time.Millisecond)
	}
	searches.Wait()
	f := times{last}.figure(0)
	if last >= healLimit-10*time.Second {
		f = times{}.figure(1)
	}
	f.Note = fmt.Sprintf("%d hosts; %d of %d announcements during the cut failed; the time is when the last search began that found nothing", s.Nodes, failed, 2*names)
	figures[healed] = f
	return nil
}

// partitionMembers does the same with memberlist: all have to list all again.
func partitionMembers(s setup, conf func() *memberlist.Config, latency func(from, to netip.Addr) time.Duration, figures map[string]figure) error {
	s.Nodes = min(s.Nodes, cutHosts)
	all, err := newMembers(s, conf, latency)
	if err != nil {
		return err
	}
	defer all.close()
	all.partition(func(i int) int { return i / regions % 2 })
	time.Sleep(cutTime)
	all.partition(nil)
	began := time.Now()
	for !all.complete() && time.Since(began) < healLimit {
		time.Sleep(100 * time.Millisecond)
	}
	f := times{time.Since(began)}.figure(0)
	if !all.complete() {
		f = times{}.figure(1)
		f.Note = fmt.Sprintf("not within %v", healLimit)
	}
	figures[healed] = f
	return nil
}
