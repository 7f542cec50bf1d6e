package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/node"
)

// What a call may take to fail once the only replica is dead.
const (
	failNear = time.Second     // on its own node, and on the same LAN
	failFar  = 3 * time.Second // for a node that knows it through the DHT only
)

// The steps of the demo. The manual of --break counts them from 1.
var demoSteps = []demoStep{
	{"three nodes start, each a process with its own home", 20 * time.Second, demoStart},
	{"a cell is made, built and runs on node a", 3 * time.Minute, demoRun},
	{"node b finds it on the local network and calls it", 10 * time.Second, demoLAN},
	{"node c, off the LAN, finds it through the DHT and calls it", 10 * time.Second, demoDHT},
	{"the replica is killed: calls fail fast, with a hint", 20 * time.Second, demoKill},
	{"it runs again, and all three calls succeed", time.Minute, demoAgain},
	{"its author publishes it; node b fetches, checks and runs it", 2 * time.Minute, demoGrow},
	{"origin and node a are gone: node c gets it from node b", 2 * time.Minute, demoSpread},
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
	for _, name := range []string{"a", "b", "c"} {
		if err := shareBuildCache(filepath.Join(d.dir, name)); err != nil {
			return "", err
		}
	}
	flagsA, flagsB, note, err := d.lanFlags()
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
	return note + "; c knows " + entry, nil
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
	directed := func(mine, other string) []string {
		return append(slices.Clone(port), "--no-multicast", "--lan-unicast", mine, "--lan-directed", net.JoinHostPort("127.0.0.1", other))
	}
	return directed(own[0], own[1]), directed(own[1], own[0]), "this host refuses multicast: announcements are directed to the neighbour by address", nil
}

func demoRun(ctx context.Context, d *demo) (string, error) {
	d.source = filepath.Join(d.dir, "greeter")
	if got, err := d.a.cell(ctx, "new", filepath.Base(d.source)); err != nil || got.exit != 0 {
		return "", failed("cell new", got, err)
	}
	if d.breaks() {
		if err := os.WriteFile(filepath.Join(d.source, "broken.go"), []byte("package greeter\n\nfunc broken( {}\n"), 0o644); err != nil {
			return "", err
		}
	}
	after := d.a.last(ctx)
	replica, err := d.a.client.Run(ctx, d.source, d.progress)
	if err != nil {
		return "", err
	}
	d.ref, d.replica = replica.Cell, replica.ID
	// C finds the cell through the DHT, so the DHT has to hold it.
	held, err := d.a.wait(ctx, after, func(e journal.Event) bool {
		return e.Kind == journal.Announce && e.Data["phase"] == "held"
	})
	if err != nil {
		return "", err
	}
	got, err := d.a.greet(ctx, "greeter")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s says %q; announced: %s", d.replica, got, held.Text), nil
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
		// Nothing yet: look again as soon as the node has learnt something new.
		after := n.last(ctx)
		if _, err := n.wait(ctx, after, func(journal.Event) bool { return true }); err != nil {
			return "", fmt.Errorf("node %s did not find it by the %s tier (%s): %w", n.name, tier, strings.Join(seen, "; "), err)
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

func demoKill(ctx context.Context, d *demo) (string, error) {
	after := d.a.last(ctx)
	if !d.breaks() {
		if err := d.a.client.Kill(ctx, d.replica); err != nil {
			return "", err
		}
		if _, err := d.a.wait(ctx, after, func(e journal.Event) bool { return e.Kind == journal.Exit }); err != nil {
			return "", err
		}
	}
	var times []string
	for _, c := range []struct {
		node  *demoNode
		ref   string
		limit time.Duration
	}{{d.a, "greeter", failNear}, {d.b, d.ref, failNear}, {d.c, d.ref, failFar}} {
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
		times = append(times, fmt.Sprintf("%s %s", c.node.name, duration(got.took)))
	}
	return "exit code 3 on all: " + strings.Join(times, ", "), nil
}

func demoAgain(ctx context.Context, d *demo) (string, error) {
	if d.breaks() {
		if err := os.RemoveAll(d.source); err != nil {
			return "", err
		}
	}
	after := d.a.last(ctx)
	if _, err := d.a.client.Run(ctx, d.source, d.progress); err != nil {
		return "", err
	}
	if _, err := d.a.wait(ctx, after, func(e journal.Event) bool {
		return e.Kind == journal.Announce && e.Data["phase"] == "held"
	}); err != nil {
		return "", err
	}
	var said []string
	for _, c := range []struct {
		node *demoNode
		ref  string
	}{{d.a, "greeter"}, {d.b, d.ref}, {d.c, d.ref}} {
		begin := time.Now()
		if _, err := c.node.greetSoon(ctx, c.ref); err != nil {
			return "", err
		}
		said = append(said, fmt.Sprintf("%s after %s", c.node.name, duration(time.Since(begin))))
	}
	return "answered: " + strings.Join(said, ", "), nil
}

// demoGrow publishes the cell from a git repository and grows it on node b,
// which is made one of the author's machines first.
func demoGrow(ctx context.Context, d *demo) (string, error) {
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"-c", "user.name=demo", "-c", "user.email=demo@localhost", "commit", "-q", "-m", "first"}} {
		c := exec.CommandContext(ctx, "git", append([]string{"-C", d.source}, args...)...)
		if out, err := c.CombinedOutput(); err != nil {
			return "", fmt.Errorf("git %s: %w: %s", args[0], err, out)
		}
	}
	if got, err := d.a.cell(ctx, "publish", "--dir", d.source); err != nil || got.exit != 0 {
		return "", failed("cell publish", got, err)
	}
	for _, n := range []*demoNode{d.b, d.c} {
		if n == d.b && d.breaks() {
			continue // not admitted, and so not trusted with the author's code
		}
		token, err := d.a.cell(ctx, "admit", n.status.Node.String())
		if err != nil || token.exit != 0 {
			return "", failed("cell admit on node a", token, err)
		}
		if got, err := n.cell(ctx, "admit", token.stdout); err != nil || got.exit != 0 {
			return "", failed("cell admit on node "+n.name, got, err)
		}
	}
	return d.grow(ctx, d.b, d.a)
}

// demoSpread ends the first seed and the repository, and grows the cell on node
// c, which has never seen it.
func demoSpread(ctx context.Context, d *demo) (string, error) {
	if err := os.RemoveAll(d.source); err != nil {
		return "", err
	}
	d.a.end()
	if d.breaks() {
		d.b.end()
	}
	return d.grow(ctx, d.c, d.b)
}

// grow grows the cell on node n and wants it to come from node seed.
func (d *demo) grow(ctx context.Context, n, seed *demoNode) (string, error) {
	after := n.last(ctx)
	if _, err := n.client.Grow(ctx, d.ref, nil, d.progress); err != nil {
		return "", err
	}
	var fetched journal.Event
	for _, kind := range []journal.Kind{journal.Fetch, journal.Verify, journal.Ready} {
		e, err := n.wait(ctx, after, func(e journal.Event) bool { return e.Kind == kind })
		if err != nil {
			return "", err
		}
		if kind == journal.Fetch {
			fetched = e
		}
	}
	if want := "seed " + seed.status.Node.String(); fetched.Data["source"] != want {
		return "", fmt.Errorf("it came from %v, not from %s", fetched.Data["source"], want)
	}
	if _, err := n.greet(ctx, d.ref); err != nil {
		return "", err
	}
	return fmt.Sprintf("%.0f bytes from node %s, signature and content checked; it answers on node %s", fetched.Data["bytes"], seed.name, n.name), nil
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
		after := n.last(ctx)
		got, err := n.greet(ctx, ref)
		if err == nil || ctx.Err() != nil {
			return got, err
		}
		// A call that fails journals its search; the next try follows the next news.
		if _, werr := n.wait(ctx, after, func(journal.Event) bool { return true }); werr != nil {
			return "", errors.Join(err, werr)
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
