package main

import (
	"math/rand/v2"

	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"
)

// bucketSize is how many peers a routing table holds at each distance.
const bucketSize = 20

// tables says whom each host has in its routing table once a network has been
// up for long: at each distance bucketSize others, at random.
func tables(s setup, ids []peer.ID, knows func(i, j int)) {
	rng := rand.New(rand.NewPCG(s.Seed, 3))
	places := make([]kb.ID, len(ids))
	for i, id := range ids {
		places[i] = kb.ConvertPeerID(id)
	}
	for i := range ids {
		var at [8*32 + 1]int
		for _, j := range rng.Perm(len(ids)) {
			if i == j {
				continue
			}
			if d := kb.CommonPrefixLen(places[i], places[j]); at[d] < bucketSize {
				at[d]++
				knows(i, j)
			}
		}
	}
}
