package celltest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/home"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/node"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/sim"
)

const (
	network = identity.Network("celltest")
	port    = 4001 // of every node's QUIC socket
	lanPort = 9067
)

// Node is one simulated host.
type Node struct {
	org   *Organism
	index int
	root  string
	key   identity.Private

	node *node.Node
	bus  *sim.BusEnd // nil without a LAN
	stop context.CancelFunc
	done chan error // receives what Run returned
}

func (n *Node) addr() netip.Addr        { return sim.Addr(n.index) }
func (n *Node) lanAddr() netip.AddrPort { return netip.AddrPortFrom(n.addr(), lanPort) }

// start builds the node with the constructor that `cell up` uses.
func (n *Node) start() error {
	h, err := home.At(n.root)
	if err != nil {
		return err
	}
	s := node.DefaultSettings()
	s.Network, s.Mode, s.Author = network, node.ModeServer, n.org.author.Public()
	s.Listen = []string{fmt.Sprintf("/ip4/%s/udp/%d/quic-v1", n.addr(), port)}
	s.Bootstrap = nil
	knows := []int{0}
	if n.org.opts.LAN(n.index) != "" {
		knows = nil
	}
	if n.org.opts.Knows != nil {
		knows = n.org.opts.Knows(n.index)
	}
	for _, i := range knows {
		if i != n.index {
			s.Bootstrap = append(s.Bootstrap, n.org.nodes[i].multiaddr())
		}
	}
	certs, err := n.certs()
	if err != nil {
		return err
	}
	cfg := node.Config{
		Key: n.key, Home: h, Settings: s, Certs: certs, Version: "celltest",
		ListenPacket: n.org.net.Listen,
		Starter:      &n.org.programs, Builder: &n.org.programs, Pair: pair, Meter: meter{&n.org.programs},
	}
	if lan := n.org.opts.LAN(n.index); lan != "" {
		n.bus = n.org.bus.Join(lan, n.lanAddr())
		cfg.Bus = n.bus
	}
	if n.node, err = node.New(cfg); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.stop, n.done = cancel, make(chan error, 1)
	go func(running *node.Node, done chan<- error) { done <- running.Run(ctx) }(n.node, n.done)
	return nil
}

// certs lets every node of the organism serve its author's cells.
func (n *Node) certs() (node.Certs, error) {
	const ttl = 300 * 24 * time.Hour
	g, err := record.SignGrant(n.org.author, network.ID(), "", []record.Subject{{Kind: record.SubjectColony, Key: n.org.colony.Public()}}, time.Now(), ttl)
	if err != nil {
		return node.Certs{}, err
	}
	m, err := record.SignMember(n.org.colony, network.ID(), n.key.Public(), time.Now(), ttl)
	if err != nil {
		return node.Certs{}, err
	}
	return node.Certs{Member: &m, Grants: []record.Grant{g}}, nil
}

func (n *Node) multiaddr() string {
	id, err := host.PeerID(n.key.Public())
	if err != nil {
		n.org.t.Fatal(err)
	}
	return fmt.Sprintf("/ip4/%s/udp/%d/quic-v1/p2p/%s", n.addr(), port, id)
}

// Handler serves the calls of one simulated program.
type Handler func(ctx context.Context, method string, in []byte) ([]byte, error)

// Run starts a replica of a cell on this node and returns when it answers. All
// nodes that run a cell of one name run the same handler, the one given last.
func (n *Node) Run(name string, h Handler) error { return n.Deploy(name, "", h) }

// Deploy is Run with more of a Cell.toml after the cell's name, such as a
// section [scaling].
func (n *Node) Deploy(name, manifest string, h Handler) error {
	dir, err := n.write(name, manifest, h)
	if err != nil {
		return err
	}
	_, err = n.node.RunCell(context.Background(), dir, func(node.Progress) {})
	return err
}

// Publish signs a release of a cell with the author's key, which [Node.Operate]
// puts here, and seeds it. The manifest names its version. It runs the real git.
func (n *Node) Publish(name, manifest string, h Handler) error {
	dir, err := n.write(name, manifest, h)
	if err != nil {
		return err
	}
	if err := Commit(dir); err != nil {
		return err
	}
	_, err = n.node.Publish(context.Background(), dir, "")
	return err
}

// Grow fetches a release of a cell from whoever seeds it, starts a replica on
// this node and returns when it answers. The handler is that of the publisher.
func (n *Node) Grow(ctx context.Context, name string) error {
	_, err := n.node.Grow(ctx, n.cell(name).String(), nil, func(node.Progress) {})
	return err
}

// write makes the source of a cell on this node's disk.
func (n *Node) write(name, manifest string, h Handler) (dir string, err error) {
	n.org.programs.set(name, func(ctx context.Context, r frame.Request) (frame.Response, error) {
		_, method, _ := strings.Cut(r.Target, "/")
		out, err := h(ctx, method, r.Body)
		return frame.Response{Codec: r.Codec, Body: out}, err
	})
	dir = filepath.Join(n.root, "source", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("write cell: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, node.ManifestFile), fmt.Appendf(nil, "[cell]\nname = %q\n%s", name, manifest), 0o644); err != nil {
		return "", fmt.Errorf("write cell: %w", err)
	}
	return dir, nil
}

// Commit makes a folder a git repository, with all of its files in one commit.
func Commit(dir string) error {
	for _, args := range [][]string{
		{"init", "--quiet"}, {"add", "."},
		{"-c", "user.name=Ada", "-c", "user.email=ada@localhost", "-c", "commit.gpgsign=false", "commit", "--quiet", "--message", "A cell"},
	} {
		c := exec.Command("git", args...)
		c.Dir = dir
		for _, kv := range os.Environ() {
			if !strings.HasPrefix(kv, "GIT_") { // of a git that runs these tests
				c.Env = append(c.Env, kv)
			}
		}
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("git: %w: %s", err, out)
		}
	}
	return nil
}

// Call calls a method as a program on this host would: "greeter/hello", or
// "greeter@z6Mk…/hello".
func (n *Node) Call(ctx context.Context, target string, in []byte) ([]byte, error) {
	r, err := n.node.Call(ctx, frame.Request{Target: target, Body: in})
	return r.Body, err
}

// Key is the node's public key, in text form.
func (n *Node) Key() string { return n.key.Public().String() }

// Cells is what the node knows of the cells that it has code of, on all hosts.
func (n *Node) Cells() []node.CellStatus { return n.node.Cells() }

// Operate puts the author's and the colony's secret keys on this node's disk,
// so that [Node.Stop] and [Node.Scale] may speak for all hosts.
func (n *Node) Operate() error {
	return n.save(map[string]identity.Private{node.RoleAuthor: n.org.author, node.RoleColony: n.org.colony})
}

// save writes keys, by role, to the node's disk.
func (n *Node) save(keys map[string]identity.Private) error {
	h, err := home.At(n.root)
	if err != nil {
		return err
	}
	if err := h.Make(); err != nil {
		return err
	}
	for role, k := range keys {
		if err := k.Save(h.Key(role)); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends a cell as `cell stop` does; everywhere tells whether on all hosts.
func (n *Node) Stop(ctx context.Context, name string) (everywhere bool, err error) {
	done, err := n.node.StopCell(ctx, n.cell(name))
	return done.Everywhere, err
}

// Scale sets a cell's bounds on all hosts as `cell scale` does.
func (n *Node) Scale(ctx context.Context, name string, lo, hi int) error {
	_, err := n.node.Scale(ctx, name, &lo, &hi, false)
	return err
}

// Drain lets go of a replica, a cell or, with "", everything here, as `cell drain` does.
func (n *Node) Drain(ctx context.Context, target string, undo bool) error {
	return n.node.Drain(ctx, target, undo, func(node.Progress) {})
}

func (n *Node) cell(name string) identity.Cell {
	return identity.Cell{Author: n.org.author.Public(), Name: identity.Name(name)}
}

// KillReplicas ends the replicas of a cell on this node as a crash would, and
// returns how many there were.
func (n *Node) KillReplicas(name string) (int, error) {
	killed := 0
	for _, r := range n.node.Replicas() {
		cell, _, _ := strings.Cut(r.Cell, "@")
		if cell != name || r.State == node.ReplicaExited {
			continue
		}
		if err := n.node.KillReplica(r.ID); err != nil {
			return killed, err
		}
		killed++
	}
	return killed, nil
}

// Kill makes the host vanish as if its power had failed: nobody is told.
func (n *Node) Kill() {
	n.org.net.Kill(n.addr())
	if n.bus != nil {
		_ = n.bus.Close() // before the node can say goodbye
	}
	_ = n.end()
}

// Down ends the node in good order, as SIGTERM does, and returns what went wrong.
func (n *Node) Down() error { return n.end() }

// Restart starts a killed host again, with the disk that it had.
func (n *Node) Restart() error { return n.start() }

// Wait returns when the node's journal holds an event of this kind about the
// cell with this name ("" for any), also one of the past.
func (n *Node) Wait(ctx context.Context, kind, cell string) (string, error) {
	e, err := n.node.Journal().Wait(ctx, func(e journal.Event) bool {
		name, _, _ := strings.Cut(e.Cell, "@")
		return string(e.Kind) == kind && (cell == "" || name == cell)
	})
	return e.Text, err
}

// end stops the node and waits for it.
func (n *Node) end() error {
	if n.stop == nil {
		return nil
	}
	n.stop()
	n.stop = nil
	return <-n.done
}
