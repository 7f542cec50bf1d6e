package node

import (
	"fmt"
	"sync"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/mesh"
)

// How the journal is kept short.
const (
	gatherFirst = time.Second      // for which news of strangers is gathered
	gatherMost  = time.Minute      // the same while there is news all the time: it doubles up to this
	gatherNamed = 8                // of them that a line names
	vainEvery   = 10 * time.Minute // how often a search that goes on finding nobody is told
	maxVain     = 256              // names of which that is known
)

// digest tells in one line of the journal what happens to many nodes at once, or
// again and again. The zero digest is ready to use; time is an argument.
type digest struct {
	mu     sync.Mutex
	crowds [len(fates)]crowd       // guarded by mu
	vain   map[identity.Cell]*vain // guarded by mu
}

// fate is what became of another node.
type fate int

const (
	died fate = iota
	left
	back
)

var fates = [...]struct {
	kind      journal.Kind
	one, many string
}{
	died: {journal.PeerDown, "does not answer: it is taken for dead", "do not answer: they are taken for dead"},
	left: {journal.PeerDown, "has left", "have left"},
	back: {journal.PeerUp, "is back", "are back"},
}

// crowd is the nodes of one fate that are not told of yet.
type crowd struct {
	count   int
	nodes   []string      // some of them
	waiting bool          // until wait is over
	wait    time.Duration // the last one
	told    time.Time
}

// gather adds a node. It returns after which time to take the crowd, 0 where
// somebody waits for it already.
func (d *digest) gather(node identity.Key, f fate, now time.Time) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &d.crowds[f]
	if c.count++; len(c.nodes) < gatherNamed {
		c.nodes = append(c.nodes, node.String())
	}
	if c.waiting {
		return 0
	}
	if c.waiting = true; now.Sub(c.told) <= 2*c.wait {
		c.wait = min(2*c.wait, gatherMost)
	} else {
		c.wait = gatherFirst
	}
	return c.wait
}

// take empties a crowd and returns how many there were, and some of them.
func (d *digest) take(f fate, now time.Time) (count int, nodes []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &d.crowds[f]
	count, nodes = c.count, c.nodes
	*c = crowd{wait: c.wait, told: now}
	return count, nodes
}

// fate journals what became of another node: at once of one that may serve what
// is known here; strangers, of whom there may be thousands, are told of together.
func (n *Node) fate(node identity.Key, f fate) {
	n.mu.Lock()
	_, partner := n.partnersKnown[node]
	n.mu.Unlock()
	if partner {
		n.event(fates[f].kind, "", "", "node "+node.Short()+" "+fates[f].one, map[string]any{"node": node.String()})
		return
	}
	if wait := n.digest.gather(node, f, time.Now()); wait > 0 {
		time.AfterFunc(wait, func() { n.tellCrowd(f) })
	}
}

func (n *Node) tellCrowd(f fate) {
	select {
	case <-n.quit:
		return
	default:
	}
	count, nodes := n.digest.take(f, time.Now())
	text := "a node that shares no cells with this one " + fates[f].one
	if count > 1 {
		text = fmt.Sprintf("%d nodes that share no cells with this one %s", count, fates[f].many)
	}
	n.event(fates[f].kind, "", "", text, map[string]any{"count": count, "nodes": nodes})
}

// vain is a search that found nobody.
type vain struct {
	why    string
	told   time.Time
	untold int // the same since
}

// search takes in how a search ended. It reports whether to tell, and how many
// before it found nobody and were not told.
func (d *digest) search(cell identity.Cell, found int, why string, now time.Time) (untold int, tell bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := d.vain[cell]
	if v != nil {
		untold = v.untold
	}
	switch {
	case found > 0:
		delete(d.vain, cell)
		return untold, true
	case v != nil && v.why == why && now.Sub(v.told) < vainEvery:
		v.untold++
		return 0, false
	case v == nil && len(d.vain) >= maxVain:
		for c := range d.vain { // any
			delete(d.vain, c)
			break
		}
	}
	if d.vain == nil {
		d.vain = make(map[identity.Cell]*vain)
	}
	d.vain[cell] = &vain{why: why, told: now}
	return untold, true
}

// meshEvent journals what discovery did.
func (n *Node) meshEvent(e mesh.Event) {
	if found, ok := e.Data["found"].(int); ok {
		untold, tell := n.digest.search(e.Cell, found, fmt.Sprint(e.Data[string(mesh.TierLAN)], e.Data[string(mesh.TierDHT)]), time.Now())
		if !tell {
			return
		}
		if untold > 0 {
			e.Data["untold"] = untold
			e.Text += fmt.Sprintf("; in vain before: %d", untold)
		}
	}
	n.event(journal.Kind(e.Kind), "", e.Cell.String(), e.Text, e.Data)
}
