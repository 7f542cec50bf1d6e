package main

import (
	"fmt"
	"time"
)

var joinedRows = []row{
	{
		name: "full live set, hosts that joined by themselves", peer: stockDHT,
		ours: source{oursJoined, full}, theirs: source{stockLookups, full},
		must: bound{p50: 500 * ms},
	},
	{
		name: "hosts that joined by themselves know each other", unit: share,
		ours: source{oursJoined, acquainted}, goal: bound{share: 1},
	},
}

const (
	oursJoined = "our joins"
	acquainted = "acquainted"
)

const (
	joiners   = 200 // hosts at most
	joinEvery = 200 * time.Millisecond
	joinTime  = 3 * time.Minute
	entrances = 3 // hosts that the others know at their start
)

// joined has hosts join one after the other with nothing but the addresses of
// the first three, and then does what the preseeded ones do.
func joined(s setup, figures map[string]figure) error {
	s.Nodes = min(s.Nodes, joiners)
	net, err := newOurs(s, newWAN(s), func(i int) (known []int) {
		if i > 0 {
			time.Sleep(joinEvery)
		}
		for j := range min(i, entrances) {
			known = append(known, j)
		}
		return known
	})
	if err != nil {
		return err
	}
	defer net.close()
	time.Sleep(joinTime)
	known, smallest := 0, s.Nodes
	for _, h := range net.hosts {
		n := len(h.node.Pulse().Members())
		known += n
		smallest = min(smallest, n)
	}
	pairs := s.Nodes * (s.Nodes - 1)
	figures[acquainted] = figure{
		Samples: s.Nodes, Share: float64(known) / float64(pairs),
		Note: fmt.Sprintf("%d hosts, the last joined %v ago; whoever knows fewest knows %d", s.Nodes, joinTime, smallest),
	}
	return lookups(s, net, figures)
}
