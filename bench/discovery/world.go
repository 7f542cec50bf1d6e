package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/sim"
)

// The planet: six regions, the same for every contender. Milliseconds one way.
const regions = 6

var oneWay = [regions][regions]int{ // America east and west, Europe, East Asia, South America, Oceania
	{5, 35, 45, 95, 65, 105},
	{35, 5, 75, 60, 95, 80},
	{45, 75, 5, 115, 100, 145},
	{95, 60, 115, 5, 155, 60},
	{65, 95, 100, 155, 5, 145},
	{105, 80, 145, 60, 145, 5},
}

const (
	linkSpeed = 100_000_000 // bits per second of every host, up and down
	port      = 4001        // of every host
	firstNet  = 23          // first byte of the addresses of region 0; all are public
)

// addrOf returns the address of host i. Every host has a /24 of its own, as
// hosts of strangers do.
func addrOf(i int) netip.Addr {
	n := i / regions
	return netip.AddrFrom4([4]byte{firstNet + byte(i%regions), byte(n >> 8), byte(n), 1})
}

func planet(from, to netip.Addr) time.Duration {
	a, b := from.As4()[0]-firstNet, to.As4()[0]-firstNet
	if a >= regions || b >= regions {
		return 0
	}
	return time.Duration(oneWay[a][b]) * time.Millisecond
}

// newWAN makes the planet's network.
func newWAN(s setup) *sim.Network {
	return sim.NewNetwork(sim.Config{Seed: s.Seed, Latency: planet, Jitter: -1, Up: linkSpeed, Down: linkSpeed})
}

// newLAN makes a network without distances.
func newLAN(s setup) *sim.Network {
	return sim.NewNetwork(sim.Config{Seed: s.Seed, Latency: lan, Jitter: -1, Up: linkSpeed, Down: linkSpeed})
}

func multiaddrOf(i int) string { return fmt.Sprintf("/ip4/%s/udp/%d/quic-v1", addrOf(i), port) }

// hostKey is the key of host i; the last ones have those that are given.
func hostKey(s setup, i int, last []identity.Private) identity.Private {
	if own := s.Nodes - len(last); i >= own {
		return last[i-own]
	}
	return keyOf(s.Seed, "node", i)
}

// keyOf derives a key from the seed: contenders have the same.
func keyOf(seed uint64, role string, i int) identity.Private {
	return identity.PrivateFromSeed(sha256.Sum256(fmt.Appendf(binary.BigEndian.AppendUint64(nil, seed), "%s %d", role, i)))
}
