package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"cell.network/cell/bench/report"
	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/membrane"
)

// answer is the program of every cell here: the method cpu tells what CPU time
// the process has used, any other answers with what it was sent.
func answer(_ context.Context, r frame.Request) (frame.Response, error) {
	if n := len(r.Target); n >= 3 && r.Target[n-3:] == "cpu" {
		return frame.Response{Body: binary.BigEndian.AppendUint64(nil, uint64(report.CPU()))}, nil
	}
	return frame.Response{Codec: r.Codec, Body: r.Body}, nil
}

// isReplica reports whether a node started this process as a replica.
func isReplica() bool { return len(os.Args) == 2 && os.Args[1] == "--membrane" }

// replicaMain is the program that nodes start as a replica.
func replicaMain() int {
	_, stop, err := replicaPart(nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	stop()
	return 0
}

// replicaPart is a replica without a node: its parent holds the other side of
// the link. stop waits for its end.
func replicaPart([]byte) (any, func(), error) {
	link, err := membrane.LinkFromFD(3)
	if err != nil {
		return nil, nil, err
	}
	r, err := membrane.Serve(context.Background(), link, []string{"echo", "cpu"}, answer)
	if err != nil {
		return nil, nil, err
	}
	return nil, func() { _ = r.Wait() }, nil
}

// membraneEcho calls a replica as another one on its host does: over a pair of
// sockets of which the node made both ends.
func membraneEcho() echoer {
	const name = "cell"
	link, file, err := membrane.NewLink()
	if err != nil {
		return absent(name, err)
	}
	port := membrane.NewPort(link, membrane.PortConfig{})
	child, err := report.StartChild("replica", nil, nil, file)
	if err != nil {
		_ = port.Close()
		return absent(name, err)
	}
	stop := func() {
		_ = port.Close() // the replica ends with its node
		_ = child.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err = port.WaitReady(ctx); err != nil {
		stop()
		return absent(name, err)
	}
	conn, err := port.Dial(ctx)
	if err != nil {
		stop()
		return absent(name, err)
	}
	return echoer{
		name: name, echo: frames(conn.Call, "echo"), cpu: []func() (time.Duration, error){child.CPU},
		close: func() { _ = conn.Close(); stop() },
	}
}

// frames echoes by request frames to a target.
func frames(call func(context.Context, frame.Request) (frame.Response, error), target string) func(context.Context, []byte) ([]byte, error) {
	return func(ctx context.Context, body []byte) ([]byte, error) {
		r, err := call(ctx, frame.Request{Target: target, Body: body})
		return r.Body, err
	}
}
