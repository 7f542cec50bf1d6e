package node

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/sim"
)

// bare is a node of which only what serves replicas is there.
func bare(t *testing.T) *Node {
	t.Helper()
	j, err := journal.Open(filepath.Join(t.TempDir(), "journal"), "test", journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return &Node{
		cfg:     Config{Pair: func() (net.Conn, net.Conn, error) { a, b := sim.Pipe(); return a, b, nil }},
		journal: j, services: make(map[identity.Cell]*service), relays: make(map[*frame.Conn]relay),
	}
}

var asker = identity.Cell{Author: ring(1).Author.Public(), Name: "asker"}

// TestReplicaFloodsRefusals asks for what is not in [needs], over and over: the
// journal must not lose its history to that.
func TestReplicaFloodsRefusals(t *testing.T) {
	n := bare(t)
	for i := range 100 {
		_, err := n.connectReplica(asker, "asker-1", Manifest{}, fmt.Sprint("cell-", i))
		if !errors.Is(err, &frame.Error{Code: frame.Refused}) {
			t.Fatal(err)
		}
	}
	if lines := n.journal.Last(); lines != 1 {
		t.Errorf("%d lines in the journal", lines)
	}
	if n.refused.count["asker needs"] != 100 {
		t.Error(n.refused.count)
	}
}

// TestReplicaHoardsConnections opens connections and closes none.
func TestReplicaHoardsConnections(t *testing.T) {
	n := bare(t)
	m := Manifest{Needs: map[identity.Name]identity.Ref{"ledger": {Name: "ledger", Author: ring(2).Author.Public().String()}}}
	var held []net.Conn
	for range maxRelays {
		c, err := n.connectReplica(asker, "asker-1", m, "ledger")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	if c, err := n.connectReplica(asker, "asker-1", m, "ledger"); !errors.Is(err, &frame.Error{Code: frame.Overloaded}) {
		t.Errorf("one more: %v", err)
		_ = c.Close()
	}
	other, err := n.connectReplica(asker, "asker-2", m, "ledger")
	if err != nil {
		t.Errorf("another replica: %v", err)
	}
	for _, c := range append(held, other) {
		_ = c.Close()
	}
	n.wg.Wait()
	if len(n.relays) != 0 {
		t.Errorf("%d relays are left", len(n.relays))
	}
}
