package main

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

var leaveRows = []row{{
	name: "graceful leave to every watcher, WAN", peer: members,
	ours: source{oursLeave, left}, theirs: source{membersLeave, left},
	goal: bound{p99: 500 * time.Millisecond},
}}

const (
	oursLeave    = "our leave"
	membersLeave = "memberlist leave, WAN"
	left         = "left"
)

// leaveLimit is how long a watcher waits for the news.
const leaveLimit = time.Minute

// leaveOurs has hosts withdraw what others watch. A sample is the time until
// one watcher knows.
func leaveOurs(s setup, figures map[string]figure) error {
	net, err := newOurs(s, newWAN(s), nil)
	if err != nil {
		return err
	}
	defer net.close()
	if err := net.preseed(); err != nil {
		return err
	}
	who := newCrowd(s)
	leavers := who.some(pick(s, 3, 10))
	var mu sync.Mutex
	var took []time.Duration
	var all sync.WaitGroup
	for i, leaver := range leavers {
		watchers := who.some(pick(s, 10, 30))
		all.Go(func() {
			t := net.leave(fmt.Sprintf("leave-%d", i), leaver, watchers)
			mu.Lock()
			defer mu.Unlock()
			took = append(took, t...)
		})
	}
	all.Wait()
	f := perOperation(took, 0, 0)
	f.RPCs, f.CPU = 0, 0
	figures[left] = f
	return nil
}

func (all *ourHosts) leave(name string, leaver int, watchers []int) []time.Duration {
	took := make([]time.Duration, len(watchers))
	for i := range took {
		took[i] = -1
	}
	ctx, cancel := context.WithTimeout(context.Background(), opTime)
	defer cancel()
	if err := all.announce(ctx, leaver, name); err != nil {
		return took
	}
	key := all.hosts[leaver].key.Public()
	var began time.Time // set before anybody is told
	var watching, told sync.WaitGroup
	watching.Add(len(watchers))
	for i, w := range watchers {
		told.Go(func() {
			seen := false
			defer func() {
				if !seen {
					watching.Done()
				}
			}()
			if w == leaver {
				took[i] = 0
				return
			}
			for c, err := range all.hosts[w].node.Mesh().Watch(ctx, all.cell(name)) {
				switch {
				case err != nil:
					return
				case c.Node != key:
				case c.Gone:
					took[i] = time.Since(began)
					return
				case !seen:
					seen = true
					watching.Done()
				}
			}
		})
	}
	watching.Wait()
	time.Sleep(5 * time.Second) // streams to the holders stand
	began = time.Now()
	after := time.AfterFunc(leaveLimit, cancel)
	defer after.Stop()
	_ = all.hosts[leaver].node.Mesh().Announce(all.cell(name), all.grant, nil).Withdraw(ctx)
	told.Wait()
	return took
}

// leaveMembers has members say goodbye.
func leaveMembers(s setup, conf func() *memberlist.Config, latency func(from, to netip.Addr) time.Duration, figures map[string]figure) error {
	all, err := newMembers(s, conf, latency)
	if err != nil {
		return err
	}
	defer all.close()
	who := newCrowd(s)
	leavers := who.doom(float64(pick(s, 3, 5))/float64(s.Nodes), nil)
	began := make([]time.Time, len(leavers))
	var work sync.WaitGroup
	for i, l := range leavers {
		work.Go(func() {
			time.Sleep(time.Duration(i) * crashEvery)
			began[i] = time.Now()
			_ = all.hosts[l].list.Leave(leaveLimit)
		})
	}
	work.Wait()
	time.Sleep(leaveLimit)
	var took []time.Duration
	for i, l := range leavers {
		for j, h := range all.hosts {
			if who.dead[j] {
				continue
			}
			if at, gone := h.gaveUp(l); gone {
				took = append(took, at.Sub(began[i]))
			} else {
				took = append(took, -1)
			}
		}
	}
	f := perOperation(took, 0, 0)
	f.RPCs, f.CPU = 0, 0
	figures[left] = f
	return nil
}
