package pheromone

import (
	"net/netip"
	"time"

	"cell.network/cell/internal/identity"
)

const (
	maxCrowd = 8192            // voices that are counted
	memory   = 5 * time.Minute // for which one counts after it was last heard
	payload  = 1300            // bytes of leases in a full packet, about
)

// crowd counts who else speaks on the local network, as far as this node has
// heard. It is an estimate: whoever wants to be many can be.
type crowd struct {
	voices map[voice]sound
	nodes  map[identity.Key]int     // voices of each
	cells  map[identity.NameKey]int // voices for each
	bytes  int                      // of all
	swept  time.Time
}

// voice is a node that serves a cell; with the zero key, one that has asked.
type voice struct {
	node identity.Key
	cell identity.NameKey
}

// strangers is what all serve who are in other networks: they share the air, but do not answer.
var strangers = identity.NameKey{0xff}

// stranger is somebody of another network, known by an address.
func stranger(from netip.AddrPort) voice {
	v := voice{cell: strangers}
	b, _ := from.MarshalBinary() // cannot fail; longer than a key only with a zone
	copy(v.node[:], b)
	return v
}

type sound struct {
	at    time.Time
	bytes int
}

func newCrowd() *crowd {
	return &crowd{voices: make(map[voice]sound), nodes: make(map[identity.Key]int), cells: make(map[identity.NameKey]int)}
}

// heard counts a voice that said so many bytes.
func (c *crowd) heard(v voice, bytes int, now time.Time) {
	c.forget(now)
	old, known := c.voices[v]
	if !known {
		if len(c.voices) >= maxCrowd {
			return
		}
		c.nodes[v.node]++
		c.cells[v.cell]++
	}
	c.bytes += bytes - old.bytes
	c.voices[v] = sound{now, bytes}
}

// gone discounts a voice that has said goodbye.
func (c *crowd) gone(v voice) {
	old, known := c.voices[v]
	if !known {
		return
	}
	delete(c.voices, v)
	c.bytes -= old.bytes
	if c.nodes[v.node]--; c.nodes[v.node] == 0 {
		delete(c.nodes, v.node)
	}
	if c.cells[v.cell]--; c.cells[v.cell] == 0 {
		delete(c.cells, v.cell)
	}
}

func (c *crowd) forget(now time.Time) {
	if now.Sub(c.swept) < memory/10 {
		return
	}
	c.swept = now
	for v, s := range c.voices {
		if now.Sub(s.at) > memory {
			c.gone(v)
		}
	}
}

// packets is about how many it takes for everybody to say all he has to say:
// full ones, and for each node one that is half empty.
func (c *crowd) packets() float64 { return float64(c.bytes)/payload + float64(len(c.nodes))/2 }

// answers is how many others may answer a question.
func (c *crowd) answers(key identity.NameKey) int {
	if key == (identity.NameKey{}) {
		return len(c.nodes) - c.cells[strangers]
	}
	return c.cells[key]
}
