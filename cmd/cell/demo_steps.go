package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/node"
)

// What a call may take to fail once no replica is left.
const (
	failNear = time.Second     // on its own node, and on the same LAN
	failFar  = 3 * time.Second // for a node that knows it through the DHT only
)

// The steps of the demo. The manual of --break counts them from 1.
var demoSteps = []demoStep{
	{"three nodes start, each a process with its own home", 20 * time.Second, demoStart},
	{"a cell from a git origin is published and runs on node a", 3 * time.Minute, demoRun},
	{"node b finds it on the local network and calls it", 10 * time.Second, demoLAN},
	{"node c, off the LAN, finds it through the DHT and calls it", 10 * time.Second, demoDHT},
	{"it stops: calls fail fast; it runs again: they succeed", 30 * time.Second, demoStop},
	{"node b fetches it, checks it, builds it and runs it", 2 * time.Minute, demoGrow},
	{"origin and node a are dead: node c gets it from node b", 2 * time.Minute, demoSpread},
	{"a forged release and a withdrawn one are refused", 20 * time.Second, demoLie},
	{"under load it divides, on nodes b and c", 30 * time.Second, demoLoad},
	{"without load the oldest go, and no request fails", 80 * time.Second, demoRest},
	{"half of the replicas are killed, and replaced", 30 * time.Second, demoHeal},
}

func demoStart(ctx context.Context, d *demo) (string, error) {
	if d.breaks() { // a key that others can read must keep a node from starting
		h, err := home.At(filepath.Join(d.dir, "b"))
		if err == nil {
			err = h.Make()
		}
		if err == nil {
			err = os.WriteFile(h.Key("node"), nil, 0o644)
		}
		if err != nil {
			return "", err
		}
	}
	var err error
	if d.origin == nil {
		if d.origin, err = startOrigin(ctx, d.dir); err != nil {
			return "", err
		}
		if d.watch, err = newWatch(d.origin, d.taps, d.alone); err != nil {
			return "", err
		}
	}
	for _, name := range []string{"a", "b", "c"} {
		if err := shareBuildCache(filepath.Join(d.dir, name)); err != nil {
			return "", err
		}
	}
	var flagsA, flagsB []string
	var note string
	flagsA, flagsB, note, err = d.lanFlags()
	if err != nil {
		return "", err
	}
	if d.a, err = d.startNode(ctx, "a", flagsA...); err != nil {
		return "", err
	}
	if !d.a.status.LAN.OK && !d.noMulticast { // found out at run time: once more, without
		if err := d.a.stop(); err != nil {
			return "", err
		}
		d.noMulticast = true
		return demoStart(ctx, d)
	}
	if d.will(3) { // b listens on the LAN where nobody speaks, and meets a in the DHT only
		deaf, err := freeUDPPort()
		if err != nil {
			return "", err
		}
		flagsB = []string{"--lan-port", strconv.Itoa(deaf), "--bootstrap", d.a.status.Listen[0]}
	}
	if d.b, err = d.startNode(ctx, "b", flagsB...); err != nil {
		return "", err
	}
	if len(d.b.status.Listen) == 0 {
		return "", errors.New("node b listens nowhere")
	}
	entry := d.b.status.Listen[0]
	if d.will(4) { // c knows an address at which nobody is
		port, err := freeUDPPort()
		if err != nil {
			return "", err
		}
		_, id, _ := strings.Cut(entry, "/p2p/")
		entry = fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1/p2p/%s", port, id)
	}
	if d.c, err = d.startNode(ctx, "c", "--no-lan", "--bootstrap", entry); err != nil {
		return "", err
	}
	return note + "; c knows " + entry + "; " + d.watch.String(), nil
}

// lanFlags put nodes a and b on one LAN tier: by multicast on loopback, or by
// packets directed to each other where the host refuses that.
func (d *demo) lanFlags() (a, b []string, note string, err error) {
	port := []string{"--lan-port", strconv.Itoa(d.lanPort)}
	if !d.noMulticast {
		return port, port, "multicast on loopback", nil
	}
	var own [2]string
	for i := range own {
		p, err := freeUDPPort()
		if err != nil {
			return nil, nil, "", err
		}
		own[i] = strconv.Itoa(p)
	}
	d.direct = netip.MustParseAddrPort(net.JoinHostPort("127.0.0.1", own[1]))
	directed := func(mine, other string) []string {
		return append(slices.Clone(port), "--no-multicast", "--lan-unicast", mine, "--lan-directed", net.JoinHostPort("127.0.0.1", other))
	}
	return directed(own[0], own[1]), directed(own[1], own[0]), "this host refuses multicast: announcements are directed to the neighbour by address", nil
}

func demoRun(ctx context.Context, d *demo) (_ string, err error) {
	d.source = filepath.Join(d.dir, "author")
	if err := d.writeCell(ctx, filepath.Join(d.dir, "greeter")); err != nil {
		return "", err
	}
	if d.old, err = d.publishOld(ctx); err != nil {
		return "", err
	}
	if err := d.publish(ctx); err != nil {
		return "", err
	}
	after := d.a.last(ctx)
	replica, err := d.a.client.Run(ctx, d.source, d.progress)
	if err != nil {
		return "", err
	}
	d.ref = replica.Cell
	held, err := d.held(ctx, after)
	if err != nil {
		return "", err
	}
	got, err := d.a.greet(ctx, "greeter")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("from %s; %s says %q; announced: %s", d.origin.url(), replica.ID, got, held.Text), nil
}

// held waits until node a has told the DHT of the cell: c finds it there.
func (d *demo) held(ctx context.Context, after uint64) (journal.Event, error) {
	return d.a.wait(ctx, after, func(e journal.Event) bool {
		return e.Kind == journal.Announce && e.Cell == d.ref && e.Data["phase"] == "held"
	})
}

func demoLAN(ctx context.Context, d *demo) (string, error) { return d.find(ctx, d.b, "lan") }

func demoDHT(ctx context.Context, d *demo) (string, error) {
	if len(d.c.status.LAN.Interfaces) > 0 {
		return "", errors.New("node c is on the LAN tier, which proves nothing")
	}
	return d.find(ctx, d.c, "dht")
}

// find looks the cell up from n, wants the answer from a tier, and calls it.
func (d *demo) find(ctx context.Context, n *demoNode, tier string) (string, error) {
	for {
		var seen []string
		for f, err := range n.client.Lookup(ctx, d.ref) {
			if err != nil {
				seen = append(seen, err.Error())
				break
			}
			if f.Node != d.a.status.Node {
				return "", fmt.Errorf("found %s, which is not node a", f.Node)
			}
			from, err := n.learnt(ctx, d.ref)
			if err != nil {
				return "", err
			}
			if from == tier {
				got, err := n.greet(ctx, d.ref)
				if err != nil {
					return "", err
				}
				return fmt.Sprintf("found by the %s tier in %s; it says %q", tier, duration(millis(f.TookMS)), got), nil
			}
			seen = append(seen, "learnt from "+from)
		}
		select { // nothing yet: what the node has learnt meanwhile may have come before it was asked
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return "", fmt.Errorf("node %s did not find it by the %s tier (%s): %w", n.name, tier, strings.Join(seen, "; "), ctx.Err())
		}
	}
}

// learnt returns the tier from which the node first heard of the cell.
func (n *demoNode) learnt(ctx context.Context, ref string) (string, error) {
	peers, err := n.client.Peers(ctx)
	if err != nil {
		return "", err
	}
	for _, p := range peers {
		if p.Cells > 0 && len(p.Tiers) > 0 {
			for _, t := range []string{"lan", "dht"} {
				for _, have := range p.Tiers {
					if have == t {
						return t, nil
					}
				}
			}
		}
	}
	return "", fmt.Errorf("node %s does not say where it learnt of %s", n.name, ref)
}

// demoStop stops the cell, wants calls to fail at once, and runs it again.
func demoStop(ctx context.Context, d *demo) (string, error) {
	if !d.breaks() {
		if got, err := d.a.cell(ctx, "stop", "greeter"); err != nil || got.exit != 0 {
			return "", failed("cell stop", got, err)
		}
	}
	var failedIn, answered []string
	for _, c := range d.callers() {
		got, err := c.node.cell(ctx, "call", c.ref+"/hello", `{"Name":"Ada"}`)
		if err != nil {
			return "", err
		}
		switch {
		case got.exit != node.ExitNotFound:
			return "", fmt.Errorf("on node %s the call ended with exit code %d, not %d: %s%s", c.node.name, got.exit, node.ExitNotFound, got.stdout, got.stderr)
		case !strings.Contains(got.stderr, "cell: hint: "):
			return "", fmt.Errorf("on node %s the error gives no hint: %s", c.node.name, got.stderr)
		case got.took > c.limit:
			return "", fmt.Errorf("on node %s the call took %s to fail, more than %s", c.node.name, duration(got.took), duration(c.limit))
		}
		failedIn = append(failedIn, fmt.Sprintf("%s %s", c.node.name, duration(got.took)))
	}
	after := d.a.last(ctx)
	if _, err := d.a.client.Run(ctx, d.source, d.progress); err != nil {
		return "", err
	}
	if _, err := d.held(ctx, after); err != nil {
		return "", err
	}
	for _, c := range d.callers() {
		begin := time.Now()
		if _, err := c.node.greetSoon(ctx, c.ref); err != nil {
			return "", err
		}
		answered = append(answered, fmt.Sprintf("%s after %s", c.node.name, duration(time.Since(begin))))
	}
	return "exit code 3 and a hint: " + strings.Join(failedIn, ", ") + "; answered: " + strings.Join(answered, ", "), nil
}

// demoCaller is a node from which the cell is called.
type demoCaller struct {
	node  *demoNode
	ref   string
	limit time.Duration // for a call that finds nobody
}

func (d *demo) callers() []demoCaller {
	return []demoCaller{{d.a, "greeter", failNear}, {d.b, d.ref, failNear}, {d.c, d.ref, failFar}}
}

// greet calls the cell as a user would and checks what it says.
func (n *demoNode) greet(ctx context.Context, ref string) (string, error) {
	got, err := n.cell(ctx, "call", ref+"/hello", `{"Name":"Ada"}`)
	if err != nil || got.exit != 0 {
		return "", failed("cell call on node "+n.name, got, err)
	}
	if !strings.Contains(got.stdout, "hello Ada") {
		return "", fmt.Errorf("cell call on node %s printed %q", n.name, got.stdout)
	}
	return "hello Ada", nil
}

// greetSoon calls until the node has heard that the cell is back.
func (n *demoNode) greetSoon(ctx context.Context, ref string) (string, error) {
	for {
		got, err := n.greet(ctx, ref)
		if err == nil {
			return got, nil
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return "", err
		}
	}
}

// failed makes an error of a command that did not do what it should.
func failed(what string, got outcome, err error) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("%s ended with exit code %d: %s", what, got.exit, got.stderr)
}

// shareBuildCache lets the node of the home at root use the compiled packages of
// earlier demos and of this user's own node: the standard library takes a while.
func shareBuildCache(root string) error {
	mine, err := home.Locate(os.Getenv)
	if err != nil {
		return err
	}
	packages := filepath.Join("build", "go")
	cache := filepath.Join(mine.Cache, packages)
	h, err := home.At(root)
	if err == nil {
		err = h.Make()
	}
	for _, dir := range []string{cache, filepath.Join(h.Cache, "build")} {
		if err == nil {
			err = os.MkdirAll(dir, 0o700)
		}
	}
	if err == nil {
		err = os.Symlink(cache, filepath.Join(h.Cache, packages))
	}
	if err != nil {
		return fmt.Errorf("share the build cache: %w", err)
	}
	return nil
}
