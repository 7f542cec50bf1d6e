package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cell.network/cell/bench/report"
	"cell.network/cell/internal/capsid"
	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/home"
	"cell.network/cell/internal/membrane"
	"cell.network/cell/internal/node"
	"cell.network/cell/internal/pheromone"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/ribosome"
)

// nodeSpec describes one node.
type nodeSpec struct {
	Root      string // its home
	Seed      uint64
	Index     int // of its key
	LANPort   int // 0: no local network, and only loopback otherwise
	Bootstrap []string
	Cell      string // that it runs; empty: none
}

// nodeAddr is how others reach a node.
type nodeAddr struct {
	Root   string
	Listen []string // multiaddrs with /p2p
}

// built is a node whose ports are open. Run it, or it stays open.
type built struct {
	node    *node.Node
	sandbox *capsid.Capsid
}

// build makes a node with the constructor that `cell up` uses, and the same
// parts around it but two: the program of its cells is this one, ready built,
// and is not put into a sandbox, since it may be linked dynamically.
func (s nodeSpec) build() (*built, error) {
	h, err := home.At(s.Root)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(h.Make(), h.CheckSocket()); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	author, own := key(s.Seed, "author", 0), key(s.Seed, "node", s.Index)
	grant, err := record.SignGrant(author, network.ID(), "", []record.Subject{{Kind: record.SubjectNode, Key: own.Public()}}, time.Now(), 24*time.Hour)
	if err != nil {
		return nil, err
	}
	settings := node.DefaultSettings()
	settings.Network, settings.Bootstrap, settings.Author = network, s.Bootstrap, author.Public()
	if s.LANPort == 0 {
		settings.Listen = loopback
	}
	sandbox := capsid.New(capsid.Config{})
	cfg := node.Config{
		Key: own, Author: author.Public(), Home: h, Settings: settings, Version: "bench",
		Certs:   node.Certs{Grants: []record.Grant{grant}},
		Starter: plain{sandbox}, Builder: program(self), Pair: membrane.SocketPair,
	}
	if s.LANPort != 0 {
		if cfg.Bus, err = pheromone.ListenUDP(pheromone.UDPConfig{Port: uint16(s.LANPort)}); err != nil {
			return nil, err
		}
	}
	if cfg.Control, err = net.Listen("unix", h.Socket()); err != nil {
		return nil, err
	}
	n, err := node.New(cfg)
	if err != nil {
		_ = cfg.Control.Close()
		return nil, err
	}
	return &built{n, sandbox}, nil
}

// run sets a node going; stop ends it and waits for that.
func (b *built) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := b.node.Run(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "node:", err)
		}
	}()
	return func() { cancel(); <-done; _ = b.sandbox.Close() }
}

// nodePart is a node in a process of its own, with a replica if it has a cell.
func nodePart(arg []byte) (any, func(), error) {
	var s nodeSpec
	if err := json.Unmarshal(arg, &s); err != nil {
		return nil, nil, err
	}
	n, err := s.build()
	if err != nil {
		return nil, nil, err
	}
	stop := n.run()
	if s.Cell != "" {
		dir := filepath.Join(s.Root, "source")
		err = errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, node.ManifestFile), fmt.Appendf(nil, "[cell]\nname = %q\n", s.Cell), 0o600))
		if err == nil {
			_, err = n.node.RunCell(context.Background(), dir, func(node.Progress) {})
		}
		if err != nil {
			stop()
			return nil, nil, err
		}
	}
	return nodeAddr{s.Root, n.node.Status().Listen}, stop, nil
}

// plain starts replicas without a sandbox.
type plain struct{ capsid.Starter }

func (p plain) Start(ctx context.Context, s capsid.Spec) (capsid.Proc, error) {
	s.Isolation = capsid.None
	return p.Starter.Start(ctx, s)
}

// program is the path of a program that needs no building.
type program string

func (p program) Build(context.Context, ribosome.Source, io.Writer) (ribosome.Artefact, error) {
	return ribosome.Artefact{Path: string(p), Key: strings.Repeat("0", 64), Toolchain: "none", Cached: true}, nil
}

// target names a method of a cell of the author here.
func target(seed uint64, cell, method string) string {
	return cell + "@" + key(seed, "author", 0).Public().String() + "/" + method
}

// replicaCPU asks a replica for the CPU time that it has used, by a call that
// goes the way of all others.
func replicaCPU(call func(context.Context, frame.Request) (frame.Response, error), target string) func() (time.Duration, error) {
	return func() (time.Duration, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		r, err := call(ctx, frame.Request{Target: target})
		if err != nil {
			return 0, fmt.Errorf("ask replica: %w", err)
		}
		if len(r.Body) != 8 {
			return 0, errors.New("ask replica: it does not tell its CPU time")
		}
		return time.Duration(binary.BigEndian.Uint64(r.Body)), nil
	}
}

// nodes starts two nodes, the second with a replica, and returns a program's
// connections to each: calls by the second stay on one host, those by the
// first go through both nodes.
func (b *bench) nodes(ctx context.Context) (here, there echoer) {
	const name = "cell"
	fail := func(err error) (echoer, echoer) { return absent(name, err), absent(name, err) }
	var second, first nodeAddr
	callee, err := report.StartChild("node", nodeSpec{Root: filepath.Join(b.dir, "b"), Seed: b.seed, Index: 1, Cell: "echo"}, &second)
	if err != nil {
		return fail(err)
	}
	caller, err := report.StartChild("node", nodeSpec{Root: filepath.Join(b.dir, "a"), Seed: b.seed, Index: 2, Bootstrap: second.Listen}, &first)
	if err != nil {
		_ = callee.Close()
		return fail(err)
	}
	here = throughNode(ctx, second.Root, b.seed, callee.CPU)
	there = throughNode(ctx, first.Root, b.seed, callee.CPU, caller.CPU)
	closeThere := there.close // here is closed first
	there.close = func() { closeThere(); _ = caller.Close(); _ = callee.Close() }
	return here, there
}

// throughNode calls the cell echo as a program beside a node does: by its
// control socket.
func throughNode(ctx context.Context, root string, seed uint64, cpu ...func() (time.Duration, error)) echoer {
	const name = "cell"
	h, err := home.At(root)
	if err != nil {
		return absent(name, err)
	}
	client, err := node.Dial(h)
	if err != nil {
		return absent(name, err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	rw, err := client.Connect(ctx)
	if err != nil {
		return absent(name, err)
	}
	conn := frame.NewConn(rw, frame.Config{})
	for { // the lease may still be on its way
		_, err := conn.Call(ctx, frame.Request{Target: target(seed, "echo", "echo")})
		if err == nil {
			break
		}
		if !errors.Is(err, &frame.Error{Code: frame.NoReplica}) {
			_ = conn.Close()
			return absent(name, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return echoer{
		name: name, echo: frames(conn.Call, target(seed, "echo", "echo")),
		cpu:   append(cpu, replicaCPU(conn.Call, target(seed, "echo", "cpu"))),
		close: func() { _ = conn.Close() },
	}
}
