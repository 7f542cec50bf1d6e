package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/node"
)

// demoGrow grows the cell on node b, which is made one of the author's machines
// first, as is c.
func demoGrow(ctx context.Context, d *demo) (string, error) {
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

// demoSpread ends the origin and the first seed, and grows the cell on node c,
// which has never seen it. No registry can be reached.
func demoSpread(ctx context.Context, d *demo) (string, error) {
	if err := os.RemoveAll(d.source); err != nil {
		return "", err
	}
	d.a.end()
	before, err := d.watch.begin()
	if err != nil {
		return "", err
	}
	if d.breaks() {
		d.b.end()
	}
	grown, err := d.grow(ctx, d.c, d.b)
	if err != nil {
		return "", err
	}
	seen, err := d.watch.end(before)
	if err != nil {
		return "", err
	}
	return grown + "; " + seen, nil
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

// demoLie has a seed offer node b a release that the author never signed, and
// one that he has withdrawn. Both go by their names, for the newest one is there.
func demoLie(ctx context.Context, d *demo) (string, error) {
	forged, err := forge(d.newest)
	if err != nil {
		return "", err
	}
	offers := map[string][]byte{forgedVersion: forged, oldVersion: d.old.Raw}
	if d.breaks() {
		offers = nil // a seed that does not lie
	}
	l, err := startLiar(identity.Network(d.network), d.lanPort, d.direct, d.b.status.Listen[0], d.newest, offers)
	if err != nil {
		return "", fmt.Errorf("start a lying seed: %w", err)
	}
	defer l.close()
	if err := d.b.meets(ctx, d.ref, l.key); err != nil {
		return "", err
	}
	lies := []struct{ version, reason string }{{forgedVersion, "signature"}, {oldVersion, "order"}}
	said, errs := make([]string, len(lies)), make([]error, len(lies))
	var both sync.WaitGroup
	for i, lie := range lies {
		both.Go(func() { said[i], errs[i] = d.refuse(ctx, l.key, lie.version, lie.reason) })
	}
	both.Wait()
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	return "exit code 5 for both; " + strings.Join(said, "; "), nil
}

// refuse wants node b to refuse a release that a seed offers, for a reason.
func (d *demo) refuse(ctx context.Context, seed identity.Key, version, reason string) (string, error) {
	got, err := d.b.cell(ctx, "grow", d.ref+":"+version)
	if err != nil {
		return "", err
	}
	if got.exit != node.ExitRefused {
		return "", fmt.Errorf("cell grow of %s ended with exit code %d, not %d: %s%s", version, got.exit, node.ExitRefused, got.stdout, got.stderr)
	}
	refused, err := d.b.wait(ctx, 0, func(e journal.Event) bool {
		return e.Kind == journal.Refuse && e.Data["source"] == "seed "+seed.String() && e.Data["reason"] == reason
	})
	if err != nil {
		return "", fmt.Errorf("%s was not refused for its %s: %w", version, reason, err)
	}
	_, why, _ := strings.Cut(refused.Text, ": ")
	return version + ": " + why, nil
}

// meets waits until the node knows a seed of the cell.
func (n *demoNode) meets(ctx context.Context, ref string, seed identity.Key) error {
	for {
		var met []identity.Key
		for f, err := range n.client.Seeds(ctx, ref) {
			if err != nil {
				break // nobody, so far
			}
			met = append(met, f.Node)
		}
		if slices.Contains(met, seed) {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("node %s has not met seed %s: %w", n.name, seed.Short(), ctx.Err())
		}
	}
}
