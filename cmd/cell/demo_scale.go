package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"syscall"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/node"
)

// The load: more processor time than demoMin replicas may use, on any machine.
const (
	heavyRate  = 50 // calls a second
	heavyBurst = 4  // of which so many come at once: on each node every replica gets some
	heavyWork  = 16 // milliseconds of processor time each
	lightRate  = 10

	afterHealing = 25 // calls that must succeed once the killed replicas are replaced
)

// lookEvery is how often the demo looks at what the nodes say of the cell.
const lookEvery = 100 * time.Millisecond

// demoLoad puts load on the cell and waits until it has divided.
func demoLoad(ctx context.Context, d *demo) (string, error) {
	hosts := []*demoNode{d.b, d.c}
	before, err := d.population(ctx, d.b)
	if err != nil {
		return "", err
	}
	if d.steady, err = d.call(ctx, hosts, "hello", `{"Name":"Ada"}`, lightRate, 1); err != nil {
		return "", err
	}
	if len(live(before)) >= demoMax {
		return "", fmt.Errorf("%d replicas are alive before there is any load", len(live(before)))
	}
	work := heavyWork
	if d.breaks() { // as many calls, but no work
		work = 0
	}
	if d.heavy, err = d.call(ctx, hosts, "burn", fmt.Sprintf(`{"Milliseconds":%d}`, work), heavyRate, heavyBurst); err != nil {
		return "", err
	}
	grown, err := d.until(ctx, d.b, func(s node.CellStatus) (missing string, err error) {
		on := live(s)
		switch {
		case len(on) < demoMax:
			missing = fmt.Sprintf("%d replicas are alive, %d are wanted", len(on), demoMax)
		case d.on(s, d.b) == 0 || d.on(s, d.c) == 0:
			missing = "they are not on both nodes"
		}
		return missing, d.calls().err()
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s; on node b %d, on node c %d; node b says: %s", counted(before, grown), d.on(grown, d.b), d.on(grown, d.c), grown.Decision), nil
}

// demoRest takes the load off and waits until the oldest replicas have gone,
// while somebody still calls.
func demoRest(ctx context.Context, d *demo) (string, error) {
	full, err := d.population(ctx, d.b)
	if err != nil {
		return "", err
	}
	if d.breaks() { // somebody calls what is not there
		wrong, err := d.call(ctx, []*demoNode{d.c}, "goodbye", `{}`, lightRate, 1)
		if err != nil {
			return "", err
		}
		d.heavy.stop()
		d.heavy = wrong
	} else {
		d.heavy.stop()
	}
	rested, err := d.until(ctx, d.b, func(s node.CellStatus) (missing string, err error) {
		if len(s.Replicas) != demoMin || len(live(s)) != demoMin {
			missing = fmt.Sprintf("%d replicas are left, %d of them alive, %d is the least", len(s.Replicas), len(live(s)), demoMin)
		}
		return missing, d.calls().err()
	})
	if err != nil {
		return "", err
	}
	stayed := live(rested)
	for _, went := range live(full) {
		for _, r := range stayed {
			// Nodes may judge differently for a while, and then the next oldest goes
			// on the one that has seen enough.
			if r.Node == went.Node && r.Generation < went.Generation && !slices.ContainsFunc(stayed, same(went)) {
				return "", fmt.Errorf("generation %d went and %d is left on the same node: it is not the oldest that went", went.Generation, r.Generation)
			}
		}
	}
	return fmt.Sprintf("%s; of generations %v %v are left; %d calls since the load began, 0 failed",
		counted(full, rested), generations(full), generations(rested), d.calls().sent), nil
}

// demoHeal kills half of the replicas, as a crash would, while somebody calls.
func demoHeal(ctx context.Context, d *demo) (string, error) {
	before, err := d.population(ctx, d.b)
	if err != nil {
		return "", err
	}
	calls := d.calls()
	pids, err := d.pids(ctx)
	if err != nil {
		return "", err
	}
	victims := pids[:(len(pids)+1)/2]
	begin := time.Now()
	for _, pid := range victims {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return "", fmt.Errorf("kill replica with pid %d: %w", pid, err)
		}
	}
	if d.breaks() { // and nobody is left to replace them
		d.b.end()
		d.c.end()
	}
	healed, err := d.until(ctx, d.b, func(s node.CellStatus) (missing string, err error) {
		now, err := d.pids(ctx)
		switch {
		case err != nil:
		case slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(victims, pid) }):
			missing = "a killed replica is still listed"
		case len(now) != len(pids) || len(live(s)) != len(live(before)):
			missing = fmt.Sprintf("%d replicas are alive, there were %d", len(now), len(pids))
		}
		return missing, err
	})
	took := time.Since(begin)
	if err != nil {
		return "", err
	}
	if _, err := d.b.greet(ctx, d.ref); err != nil {
		return "", err
	}
	meanwhile := d.calls()
	if err := d.steady.wait(ctx, afterHealing); err != nil {
		return "", err
	}
	if late := d.calls(); late.failed > meanwhile.failed {
		return "", fmt.Errorf("after all was well again: %w", late.err())
	}
	d.steady.stop()
	return fmt.Sprintf("%d of %d killed with signal 9, %s after %s; of %d calls meanwhile %d failed, of %d afterwards none",
		len(victims), len(pids), counted(before, healed), duration(took), meanwhile.sent-calls.sent, meanwhile.failed-calls.failed, afterHealing), nil
}

// call has somebody call a method of the cell through nodes.
func (d *demo) call(ctx context.Context, nodes []*demoNode, method, body string, rate, burst int) (*caller, error) {
	return startCaller(ctx, nodes, frame.Request{Target: d.ref + "/" + method, Codec: frame.JSON, Body: []byte(body)}, rate, burst)
}

// population is what a node says of the cell.
func (d *demo) population(ctx context.Context, n *demoNode) (node.CellStatus, error) {
	cells, err := n.client.Cells(ctx)
	if err != nil {
		return node.CellStatus{}, err
	}
	i := slices.IndexFunc(cells, func(s node.CellStatus) bool { return s.Cell == d.ref })
	if i < 0 {
		return node.CellStatus{}, fmt.Errorf("node %s does not know %s", n.name, d.ref)
	}
	return cells[i], nil
}

// calls is what all callers have counted so far.
func (d *demo) calls() tally { return tally{}.plus(d.heavy).plus(d.steady) }

// until looks at the cell, as a node sees it, until nothing is missing.
func (d *demo) until(ctx context.Context, n *demoNode, look func(node.CellStatus) (missing string, err error)) (node.CellStatus, error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for missing := "nobody answered"; ; {
		s, err := d.population(ctx, n)
		if err == nil {
			missing, err = look(s)
		}
		switch {
		case err == nil && missing == "":
			return s, nil
		case err != nil && ctx.Err() == nil:
			return s, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return s, fmt.Errorf("%s; node %s says: %s", missing, n.name, s.Decision)
		}
	}
}

// pids are the processes of all replicas that take calls, on all nodes.
func (d *demo) pids(ctx context.Context) ([]int, error) {
	var pids []int
	for _, n := range []*demoNode{d.b, d.c} {
		got, err := n.cell(ctx, "ps", "--json")
		if err != nil || got.exit != 0 {
			return nil, failed("cell ps on node "+n.name, got, err)
		}
		var list node.ReplicaList
		if err := json.Unmarshal([]byte(got.stdout), &list); err != nil {
			return nil, fmt.Errorf("cell ps on node %s: %w", n.name, err)
		}
		for _, r := range list.Replicas {
			if r.State == node.ReplicaAlive {
				pids = append(pids, r.PID)
			}
		}
	}
	return pids, nil
}

// live are the replicas that take calls.
func live(s node.CellStatus) []node.ReplicaLoad {
	return slices.DeleteFunc(slices.Clone(s.Replicas), func(r node.ReplicaLoad) bool { return r.State != node.ReplicaAlive })
}

func same(a node.ReplicaLoad) func(node.ReplicaLoad) bool {
	return func(b node.ReplicaLoad) bool { return a.Node == b.Node && a.ID == b.ID }
}

// generations are those of the replicas that take calls, the oldest first.
func generations(s node.CellStatus) []uint64 {
	var all []uint64
	for _, r := range live(s) {
		all = append(all, r.Generation)
	}
	slices.Sort(all)
	return all
}

func onNode(n *demoNode) func(node.ReplicaLoad) bool {
	return func(r node.ReplicaLoad) bool { return r.Node == n.status.Node }
}

func (d *demo) on(s node.CellStatus, n *demoNode) int {
	is := onNode(n)
	return len(slices.DeleteFunc(live(s), func(r node.ReplicaLoad) bool { return !is(r) }))
}

func counted(from, to node.CellStatus) string {
	return fmt.Sprintf("from %d to %d replicas", len(live(from)), len(live(to)))
}
