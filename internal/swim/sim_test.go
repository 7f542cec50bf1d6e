package swim

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

var (
	epoch   = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	testNet = identity.Network("test").ID()
)

func testKey(i int) identity.Private {
	return identity.PrivateFromSeed([32]byte{byte(i), byte(i >> 8), 77})
}

// world is a discrete-event simulation of nodes with streams: delays by region,
// losses that come as the delays of retransmissions, order kept within a
// stream. Everything follows from the seed.
type world struct {
	t      testing.TB
	seed   uint64
	now    time.Time
	events eventQueue
	order  int
	rng    *rand.Rand
	loss   float64
	base   func(a, b *node) time.Duration // one way
	cut    func(a, b *node) bool          // nothing gets from a to b
	nodes  []*node
	byKey  map[identity.Key]*node
	opened map[id]*record.Contact // the work of all nodes together

	gullible bool // its nodes believe everything

	onChange func(n *node, c Change)
	junk     func(n, from *node, err error)
	suspects int
	bytes    int // of messages
	messages int
	dials    int
	handled  int
}

type event struct {
	at    time.Time
	order int
	do    func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].order < q[j].order
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}

func (w *world) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.events, event{w.now.Add(d), w.order, do})
}

func (w *world) run(d time.Duration) {
	end := w.now.Add(d)
	for len(w.events) > 0 && !w.events[0].at.After(end) {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		w.handled++
		e.do()
	}
	w.now = end
}

// node is one machine with its detector.
type node struct {
	w      *world
	index  int
	key    identity.Private
	id     identity.Key
	region int
	d      *Detector
	up     bool
	frozen time.Time // until when it does nothing
	links  map[*node]*pipe
	seq    uint64
	inc    uint64
	timer  time.Time
	sent   int
	noAddr bool // cannot be dialled
}

// pipe is one direction of a stream.
type pipe struct{ last time.Time }

// wan are the one-way delays between six regions, in milliseconds.
var wan = [6][6]int{
	{5, 40, 75, 110, 140, 95}, {40, 5, 45, 80, 125, 60}, {75, 45, 5, 60, 100, 90},
	{110, 80, 60, 5, 50, 155}, {140, 125, 100, 50, 5, 130}, {95, 60, 90, 155, 130, 5},
}

func overWAN(a, b *node) time.Duration {
	return time.Duration(wan[a.region][b.region]) * time.Millisecond
}

func overLAN(a, b *node) time.Duration { return 500 * time.Microsecond }

func newWorld(t testing.TB, seed uint64, base func(a, b *node) time.Duration, loss float64) *world {
	w := &world{t: t, seed: seed, now: epoch, rng: rand.New(rand.NewPCG(seed, 5)), loss: loss, base: base,
		cut: func(a, b *node) bool { return false }, byKey: map[identity.Key]*node{}, opened: map[id]*record.Contact{},
		onChange: func(*node, Change) {}}
	w.junk = func(n, from *node, err error) { t.Errorf("node %d hears node %d: %v", n.index, from.index, err) }
	return w
}

func (w *world) open(raw []byte, now time.Time) (*record.Contact, error) {
	if c := w.opened[idOf(raw)]; c != nil {
		if string(c.Raw) != string(raw) {
			return nil, errors.New("not the same")
		}
		return c, nil
	}
	c, err := record.OpenContact(raw, testNet, now)
	if err == nil {
		w.opened[idOf(raw)] = &c
	}
	return &c, err
}

func (w *world) add() *node {
	i := len(w.nodes)
	n := &node{w: w, index: i, key: testKey(i), region: i % 6, links: map[*node]*pipe{}}
	n.id = n.key.Public()
	w.nodes = append(w.nodes, n)
	w.byKey[n.id] = n
	return n
}

func (n *node) start() {
	n.up, n.inc, n.seq = true, n.inc+1, 0
	n.d = New(Config{Self: n.id, Network: testNet, Sign: n.key.Sign, Rand: rand.New(rand.NewPCG(n.w.seed, uint64(n.index))), open: n.w.open, gullible: n.w.gullible})
	n.sign(false, record.Order{})
	n.act()
}

func (n *node) sign(left bool, above record.Order) {
	n.seq = max(n.seq, above.Sequence) + 1
	o := record.ContactOffer{Server: true, Left: left, Order: record.Order{Incarnation: max(n.inc, above.Incarnation), Sequence: n.seq}, Issued: n.w.now}
	if !n.noAddr {
		o.Addrs = [][]byte{{4, 10, byte(n.index >> 16), byte(n.index >> 8), byte(n.index), 0x91, 2, 0x23, 0x6b, 0xcc, 3}}
	}
	c, err := record.SignContact(n.key, testNet, o)
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.d.Own(c, n.w.now)
}

// act does what the detector wants.
func (n *node) act() {
	w := n.w
	if !n.up || w.now.Before(n.frozen) {
		return
	}
	o := n.d.Take(w.now)
	for _, c := range o.Changes {
		if c.Is == Suspect {
			w.suspects++
		}
		w.onChange(n, c)
	}
	for _, e := range o.Send {
		n.send(w.byKey[e.To], e.Msg)
	}
	for _, c := range o.Dial {
		n.call(c.Signer)
	}
	for _, k := range o.Drop {
		n.unlink(w.byKey[k])
	}
	if o.Refute != (record.Order{}) {
		n.sign(false, o.Refute)
		n.act()
		return
	}
	at := o.Next
	if at.Equal(n.timer) {
		return
	}
	n.timer = at
	w.after(at.Sub(w.now), func() {
		if n.timer.Equal(at) {
			n.timer = time.Time{}
			n.act()
		}
	})
}

// delay is that of one message: what is lost is sent again after a probe
// timeout that doubles. It returns false where it never arrives.
func (w *world) delay(a, b *node) (time.Duration, bool) {
	if !b.up || w.cut(a, b) {
		return 0, false
	}
	one := w.base(a, b)
	d := one + time.Duration(w.rng.Int64N(int64(one/10)+1))
	pto := 2*one + max(one/2, time.Millisecond) + 25*time.Millisecond
	for ; w.rng.Float64() < w.loss; pto *= 2 {
		d += pto
	}
	return d, true
}

func (n *node) send(to *node, msg []byte) {
	p := n.links[to]
	if p == nil {
		return
	}
	n.sent += len(msg)
	n.w.bytes += len(msg)
	n.w.messages++
	d, ok := n.w.delay(n, to)
	if !ok {
		return
	}
	at := n.w.now.Add(d)
	if at.Before(p.last) {
		at = p.last
	}
	p.last = at
	n.w.deliver(at, n, to, to.links[n], msg)
}

func (w *world) deliver(at time.Time, n, to *node, back *pipe, msg []byte) {
	w.after(at.Sub(w.now), func() {
		if !to.up || to.links[n] != back || w.cut(n, to) {
			return
		}
		if w.now.Before(to.frozen) {
			w.deliver(to.frozen, n, to, back, msg)
			return
		}
		if err := to.d.Hear(n.id, msg, w.now); err != nil {
			w.junk(to, n, err)
			to.unlink(n)
		}
		to.act()
	})
}

// call opens a stream to where a contact says that a node is.
func (n *node) call(k identity.Key) {
	if to := n.w.byKey[k]; to != nil {
		n.dial(to)
		return
	}
	n.w.dials++ // nobody is there
	n.w.after(5*time.Second, func() {
		if n.up {
			n.d.Failed(k, n.w.now)
			n.act()
		}
	})
}

// dial opens a stream: two round trips, or a failure after 5 s.
func (n *node) dial(to *node) {
	w := n.w
	w.dials++
	if n.links[to] != nil {
		w.after(0, func() { n.d.Linked(to.id, w.now); n.act() })
		return
	}
	var whole time.Duration
	ok := !to.noAddr
	for range 2 {
		a, ok1 := w.delay(n, to)
		b, ok2 := w.delay(to, n)
		whole += a + b
		ok = ok && ok1 && ok2
	}
	if !ok || whole > 5*time.Second {
		w.after(5*time.Second, func() {
			if n.up {
				n.d.Failed(to.id, w.now)
				n.act()
			}
		})
		return
	}
	w.after(whole, func() {
		if n.up && to.up && !w.cut(n, to) && !w.cut(to, n) {
			n.link(to)
		}
	})
}

// link makes a stream between two nodes.
func (n *node) link(to *node) {
	if n.links[to] != nil && to.links[n] != nil {
		return
	}
	n.links[to], to.links[n] = &pipe{}, &pipe{}
	for _, x := range [][2]*node{{n, to}, {to, n}} {
		x[0].d.Linked(x[1].id, n.w.now)
		x[0].act()
	}
}

// unlink ends a stream; the other end learns of it where it can.
func (n *node) unlink(to *node) {
	w, p, back := n.w, n.links[to], to.links[n]
	if p == nil {
		return
	}
	delete(n.links, to)
	w.after(0, func() {
		if n.up && n.links[to] == nil {
			n.d.Unlinked(to.id, w.now)
			n.act()
		}
	})
	d, ok := w.delay(n, to)
	if !ok {
		return
	}
	at := w.now.Add(d)
	if at.Before(p.last) {
		at = p.last
	}
	w.after(at.Sub(w.now), func() {
		if to.up && back != nil && to.links[n] == back {
			delete(to.links, n)
			to.d.Unlinked(n.id, w.now)
			to.act()
		}
	})
}

// crash ends a node without a word.
func (n *node) crash() {
	n.up = false
	n.timer = time.Time{}
}

// build makes a network of n nodes that know each other and are well linked.
func build(w *world, n int) {
	for range n {
		w.add().start()
	}
	all := make([]record.Contact, 0, n)
	for _, x := range w.nodes {
		all = append(all, *x.d.me.contact)
	}
	for _, x := range w.nodes {
		for _, c := range all {
			x.d.Learn(c, w.now)
		}
		delayed := x
		w.after(time.Duration(w.rng.Int64N(int64(time.Second))), delayed.act)
	}
	w.run(20 * time.Second)
}

// settle fails where live nodes do not hold each other alive.
func (w *world) settled() error {
	for _, a := range w.nodes {
		for _, b := range w.nodes {
			if a != b && a.up && b.up && a.d.State(b.id) != Alive {
				return fmt.Errorf("node %d holds node %d %v", a.index, b.index, a.d.State(b.id))
			}
		}
	}
	return nil
}
