package main

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"cell.network/cell/bench/report"
)

func TestMain(m *testing.M) {
	if isReplica() {
		os.Exit(replicaMain())
	}
	report.PlayPart(parts)
	os.Exit(m.Run())
}

// TestContenders lets everyone who is compared on warm calls do the work.
func TestContenders(t *testing.T) {
	b := &bench{seed: 1, dir: t.TempDir()}
	here, there := b.nodes(t.Context())
	echoers := map[string]echoer{
		"membrane": membraneEcho(), "axon": axonEcho(b.seed), "libp2p": libp2pEcho(),
		"grpc unix": grpcEcho(b.dir, grpcUnix), "grpc tls": grpcEcho(b.dir, grpcTLS), "grpc proxies": grpcEcho(b.dir, grpcUnix, grpcTLS, grpcUnix),
		"own node": here, "both nodes": there,
	}
	for name, e := range echoers {
		for _, size := range []int{small, large} {
			c := e.contender(size, b.seed)
			if c.Err != nil {
				t.Errorf("%s: %v", name, c.Err)
				continue
			}
			before, err := c.CPU()
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for range 20 {
				if _, err := c.Op(t.Context()); err != nil {
					t.Fatalf("%s, %d bytes: %v", name, size, err)
				}
			}
			if after, err := c.CPU(); err != nil || after <= before {
				t.Errorf("%s: CPU time from %v to %v, error %v", name, before, after, err)
			}
		}
	}
	here.close()
	for name, e := range echoers {
		if name != "own node" {
			e.close()
		}
	}
}

func TestWrongAnswerIsNoAnswer(t *testing.T) {
	for _, answer := range []string{"", "short", string(make([]byte, small))} {
		e := echoer{echo: func(context.Context, []byte) ([]byte, error) { return []byte(answer), nil }}
		if _, err := e.contender(small, 1).Op(t.Context()); err == nil {
			t.Errorf("%q passes for an echo", answer)
		}
	}
}

func TestSumOfCPU(t *testing.T) {
	second := func() (time.Duration, error) { return time.Second, nil }
	if d, err := sum(second, second); err != nil || d < 2*time.Second || d > 2*time.Second+report.CPU() {
		t.Errorf("%v, %v", d, err)
	}
	broken := errors.New("broken")
	if _, err := sum(second, func() (time.Duration, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}
