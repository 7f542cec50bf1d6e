package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	kb "github.com/libp2p/go-libp2p-kbucket"
)

var attackRows = []row{{
	name: "found although an attacker has the 20 ids closest to a key", peer: stockDHT, unit: share,
	ours: source{oursAttack, attacked}, theirs: source{stockAttack, attacked},
	must: bound{share: 0.99},
}}

const (
	oursAttack  = "our attack"
	stockAttack = "stock attack"
	attacked    = "attacked"
)

const (
	attackers = 20      // hosts of the attacker around each name that he is after
	ground    = 100_000 // keys that he makes to have them there
)

// attacker has hosts around the places of some names. They take part in all
// that others do, say yes to whoever wants something kept, keep nothing, and
// tell whoever asks that there is nothing, and of each other.
type attacker struct {
	keys [][]identity.Private // by name, those closest to its place
}

// grind makes keys and picks those closest to each place: they are closer than
// anybody else in a network that is smaller.
func grind(s setup, places []kb.ID) (*attacker, error) {
	n := pick(s, ground/5, ground)
	type candidate struct {
		key identity.Private
		id  kb.ID
	}
	all := make([]candidate, n)
	var work sync.WaitGroup
	var fault error
	for half := range 2 {
		work.Go(func() {
			for i := half; i < n; i += 2 {
				k := keyOf(s.Seed, "attacker", i)
				id, err := host.PeerID(k.Public())
				if err != nil {
					fault = err
					return
				}
				all[i] = candidate{k, kb.ConvertPeerID(id)}
			}
		})
	}
	work.Wait()
	if fault != nil {
		return nil, fault
	}
	a := &attacker{}
	for _, place := range places {
		slices.SortFunc(all, func(x, y candidate) int {
			return slices.Compare(xor(x.id, place), xor(y.id, place))
		})
		var keys []identity.Private
		for _, c := range all[:attackers] {
			keys = append(keys, c.key)
		}
		all = all[attackers:]
		a.keys = append(a.keys, keys)
	}
	return a, nil
}

func xor(a, b kb.ID) []byte {
	out := make([]byte, len(a))
	for i := range a {
		out[i] = a[i] ^ b[i]
	}
	return out
}

func (a *attacker) flat() []identity.Private { return slices.Concat(a.keys...) }

// besieged announces names that an attacker is after, and has others look them
// up. recruits are his hosts, which do neither.
func besieged(s setup, net finder, names []string, recruits []int, figures map[string]figure) error {
	n := pick(s, 20, 40) // lookups of each name
	who := newCrowd(s)
	who.size = net.size()
	for _, i := range recruits {
		who.dead[i] = true
	}
	owners := who.some(len(names))
	failed := 0
	for i, name := range names {
		ctx, cancel := context.WithTimeout(context.Background(), opTime)
		if err := net.announce(ctx, owners[i], name); err != nil {
			failed++ // it may be found all the same
		}
		cancel()
	}
	askers := who.some(n * len(names))
	f, _ := finding(net, askers, repeat(owners, n), 50*time.Millisecond, func(i int) string { return names[i/n] })
	f.Note = fmt.Sprintf("%d names, %d attackers among %d hosts, %d keys ground; %d announcements failed", len(names), len(recruits), net.size(), pick(s, ground/5, ground), failed)
	figures[attacked] = f
	return nil
}

func repeat(v []int, n int) (out []int) {
	for _, x := range v {
		out = append(out, slices.Repeat([]int{x}, n)...)
	}
	return out
}

func siegeNames(s setup) (names []string) {
	for i := range pick(s, 1, 5) {
		names = append(names, fmt.Sprintf("besieged-%d", i))
	}
	return names
}
