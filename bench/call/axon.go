package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"cell.network/cell/bench/report"
	"cell.network/cell/internal/axon"
	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
)

// network is the private network of all nodes here.
const network = identity.Network("bench")

// loopback is where nodes listen that need no local network.
var loopback = []string{"/ip4/127.0.0.1/udp/0/quic-v1"}

// key makes the key of a role; the same seed makes the same keys.
func key(seed uint64, role string, i int) identity.Private {
	return identity.PrivateFromSeed(sha256.Sum256(fmt.Appendf(nil, "%d %s %d", seed, role, i)))
}

// axonAddr is where an axon listens.
type axonAddr struct {
	Key   identity.Key
	Addrs [][]byte
}

// axonPart serves frames on a QUIC port.
func axonPart(arg []byte) (any, func(), error) {
	var seed uint64
	if err := json.Unmarshal(arg, &seed); err != nil {
		return nil, nil, err
	}
	h, a, err := newAxon(key(seed, "axon", 0), loopback)
	if err != nil {
		return nil, nil, err
	}
	return axonAddr{h.Key(), h.LeaseAddrs(true)}, func() { _ = a.Close(); _ = h.Close() }, nil
}

// newAxon makes a host that echoes; no address given: on every interface.
func newAxon(k identity.Private, listen []string) (*host.Host, *axon.Axon, error) {
	h, err := host.New(host.Config{Key: k, Network: network, Listen: listen})
	if err != nil {
		return nil, nil, err
	}
	return h, axon.New(h, network, axon.Config{Handler: func(ctx context.Context, _ identity.Key, r frame.Request) (frame.Response, error) {
		return answer(ctx, r)
	}}), nil
}

// axonEcho calls another node over QUIC.
func axonEcho(seed uint64) echoer {
	const name = "cell"
	var to axonAddr
	child, err := report.StartChild("axon", seed, &to)
	if err != nil {
		return absent(name, err)
	}
	h, a, err := newAxon(key(seed, "axon", 1), loopback)
	if err != nil {
		_ = child.Close()
		return absent(name, err)
	}
	call := func(ctx context.Context, r frame.Request) (frame.Response, error) {
		return a.Call(ctx, to.Key, to.Addrs, r)
	}
	return echoer{
		name: name, echo: frames(call, "echo"), cpu: []func() (time.Duration, error){child.CPU},
		close: func() { _ = a.Close(); _ = h.Close(); _ = child.Close() },
	}
}
