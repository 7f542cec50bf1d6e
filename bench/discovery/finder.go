package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// finder is a network of hosts on which names are announced and found: ours, or
// the peer that it is compared with.
type finder interface {
	size() int
	// announce makes it known that host i serves a name, and returns when
	// those who should know do.
	announce(ctx context.Context, i int, name string) error
	// find searches for a name from host i until the search is over.
	find(ctx context.Context, i int, name string) search
	// kill makes hosts vanish as if their power had failed, all at once.
	kill(hosts []int)
	// requests counts what the hosts have asked each other; 0: not known.
	requests() uint64
	close()
}

// search is how a search went.
type search struct {
	first time.Duration // until the first endpoint, negative: there was none
	all   time.Duration // until the end
	who   []int         // hosts found
}

// opTime bounds one operation.
const opTime = 2 * time.Minute

// burst begins n operations, one every gap, and returns when all have ended.
func burst(n int, gap time.Duration, do func(ctx context.Context, i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			time.Sleep(time.Duration(i) * gap)
			ctx, cancel := context.WithTimeout(context.Background(), opTime)
			defer cancel()
			do(ctx, i)
		})
	}
	all.Wait()
}

// crowd draws hosts at random, the same ones for every contender.
type crowd struct {
	rng  *rand.Rand
	size int
	dead map[int]bool
}

func newCrowd(s setup) *crowd {
	return &crowd{rand.New(rand.NewPCG(s.Seed, 7)), s.Nodes, make(map[int]bool)}
}

// some draws n live hosts; one may be drawn twice.
func (c *crowd) some(n int) []int {
	out := make([]int, 0, n)
	for len(out) < n {
		if i := c.rng.IntN(c.size); !c.dead[i] {
			out = append(out, i)
		}
	}
	return out
}

// doom picks a share of the live hosts, sparing some, and counts them as dead.
func (c *crowd) doom(share float64, spare []int) []int {
	spared := make(map[int]bool)
	for _, i := range spare {
		spared[i] = true
	}
	var out []int
	for _, i := range c.rng.Perm(c.size) {
		if float64(len(out)) >= share*float64(c.size) {
			break
		}
		if !c.dead[i] && !spared[i] {
			c.dead[i] = true
			out = append(out, i)
		}
	}
	return out
}
