package node

import (
	"context"
	"errors"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
)

// The last replica ends while the next one joins: what lives is announced.
func TestNoReplicaUnannounced(t *testing.T) {
	t.Parallel()
	k := ring(7)
	p := &versions{version: "old"}
	n := machineWith(t, k, p)
	dir := source(t, "min_replicas = 0\nmax_replicas = 8\n")
	if _, err := n.RunCell(context.Background(), dir, func(Progress) {}); err != nil {
		t.Fatal(err)
	}
	cell := identity.Cell{Author: k.Author.Public(), Name: "greeter"}
	s := n.service(cell)
	n.mu.Lock()
	d := s.deploy
	n.drained = true // nothing starts by itself
	n.mu.Unlock()
	stop := make(chan struct{})
	defer close(stop)
	for range 3 { // others want the lock as well
		go func() {
			for {
				select {
				case <-stop:
					return
				default:
					n.mu.Lock()
					for i := 0; i < 2000; i++ {
						_ = i
					}
					n.mu.Unlock()
				}
			}
		}()
	}
	bad := 0
	gen := uint64(10)
	end := time.Now().Add(3 * time.Second)
	rounds := 0
	for time.Now().Before(end) {
		rounds++
		gen++
		n.mu.Lock()
		n.nextID++
		c := &claim{number: n.nextID, generation: gen, deploy: d, cancel: func() {}}
		s.claims = append(s.claims, c)
		old := s.replicas[0]
		n.mu.Unlock()
		r, err := n.spawn(context.Background(), s, d, c, "")
		if err != nil {
			t.Fatal(err)
		}
		_ = old.proc.Kill()
		if rounds%2 == 0 {
			for { // join just when the old one is gone
				n.mu.Lock()
				g := len(s.replicas)
				n.mu.Unlock()
				if g == 0 {
					break
				}
			}
		}
		n.mu.Lock()
		joined := n.joinLocked(s, c, r)
		n.mu.Unlock()
		if !joined {
			t.Fatal("not joined")
		}
		<-old.done
		n.mu.Lock()
		if len(s.replicas) == 1 && s.lease == nil {
			bad++
		}
		n.mu.Unlock()
	}
	if bad > 0 {
		t.Errorf("in %d of %d rounds a live replica was left that nothing announces", bad, rounds)
	}
}

// Where the code is not, one bound alone would have the other made up.
func TestScaleWithoutCode(t *testing.T) {
	n, k := grantedNode(t)
	cell := identity.Cell{Author: k.Author.Public(), Name: "greeter"}
	n.service(cell)
	lo, hi := 2, 6
	if got, err := n.Scale(context.Background(), "greeter", nil, &hi, false); !errors.Is(err, &APIError{Code: CodeUsage}) {
		t.Errorf("scaled to %+v, %v", got, err)
	}
	if got, err := n.Scale(context.Background(), "greeter", &lo, &hi, false); err != nil || got.Min != lo || got.Max != hi {
		t.Errorf("scaled to %+v, %v", got, err)
	}
}
