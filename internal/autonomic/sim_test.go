package autonomic

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
)

// A world is a discrete-event simulation of hosts that run one cell: a queue per
// replica, rows that travel with delay and loss, and one law that scales.
// Everything follows from the seed.
type world struct {
	now    time.Duration
	events queue
	order  int
	rng    *rand.Rand
	seed   uint64

	policy Policy
	law    func(*world, *agent) // what an agent does when it looks
	agents []*agent
	cut    func(a, b *agent) bool // messages between a and b are lost
	loss   float64                // of each message
	load   func(time.Duration) float64
	bad    func(*agent) bool // replicas die as soon as they are ready

	arrived, failed float64
	spawns, drains  int
	seconds         float64 // replica-seconds
	waiting         float64
	trace           func()
}

const (
	simTick  = 50 * time.Millisecond
	simRate  = 100.0 // requests per second that a replica can serve
	simTime  = 0.1   // seconds that one takes
	simSpawn = 500 * time.Millisecond
	simRoute = 400 * time.Millisecond // until callers know
	simDrain = 2 * time.Second
)

type event struct {
	at    time.Duration
	order int
	do    func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

func (w *world) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.events, event{w.now + d, w.order, do})
}

// agent is one host.
type agent struct {
	w        *world
	index    int
	key      identity.Key
	alive    bool
	room     int
	noCode   bool
	lies     func(Replica) Replica
	rows     map[int]row
	replicas []*replica
	memory   Memory
	stopped  bool
	id       uint64
	seq      uint64
	sent     time.Duration
	shape    string
	offered  float64
	looking  bool
	last     Decision
}

type row struct {
	host     int
	seq      uint64
	replicas []Replica
	room     int
	shape    string // states, to see a change that matters
	got      time.Duration
}

type replica struct {
	Replica
	born, ready, drain, died time.Duration
	queue                    float64
	meter                    [20][4]float64 // offered, shed, inflight, CPU of the last second
}

func newWorld(seed uint64, hosts int, p Policy) *world {
	w := &world{seed: seed, rng: rand.New(rand.NewPCG(seed, 7)), policy: p, law: (*world).decide,
		cut: func(a, b *agent) bool { return false }, bad: func(*agent) bool { return false }, trace: func() {}}
	for i := range hosts {
		a := &agent{w: w, index: i, alive: true, room: 4, rows: map[int]row{}}
		for j := range a.key {
			a.key[j] = byte(w.rng.Uint32())
		}
		w.agents = append(w.agents, a)
		w.after(time.Duration(w.rng.Int64N(int64(500*time.Millisecond))), a.beat)
	}
	w.after(0, w.serve)
	return w
}

func (w *world) run(until time.Duration) {
	for len(w.events) > 0 && w.events[0].at <= until {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	w.now = until
}

// beat looks, refreshes the row, and tells three others all rows.
func (a *agent) beat() {
	if !a.alive {
		return
	}
	a.w.after(500*time.Millisecond, a.beat)
	a.w.law(a.w, a)
	a.publish()
	for range 3 {
		to := a.w.agents[a.w.rng.IntN(len(a.w.agents))]
		for i := range a.w.agents {
			if r, ok := a.rows[i]; ok && to.rows[i].seq < r.seq { // deltas
				a.send(to, r)
			}
		}
	}
}

// publish sends the own row to all: at once where a state changed, soon where
// the load did, and every 2 s.
func (a *agent) publish() {
	r := row{host: a.index, room: a.room, got: a.w.now}
	offered := 0.0
	for _, x := range a.replicas {
		v := x.Replica
		if x.State == Live || x.State == Draining {
			for _, m := range x.meter {
				v.Offered += m[0]
				v.Shed += m[1]
				v.Inflight += m[2] / float64(len(x.meter))
				v.CPU += m[3] / float64(len(x.meter))
			}
		}
		if a.lies != nil {
			v = a.lies(v)
		}
		offered += v.Offered
		r.replicas = append(r.replicas, v)
		r.shape += string(rune('0'+v.State)) + string(rune(v.ID))
		if x.State <= Draining {
			r.room--
		}
	}
	if r.shape == a.shape && math.Abs(offered-a.offered) <= 0.1*a.offered && a.w.now-a.sent < 2*time.Second {
		return
	}
	a.seq++
	r.seq, a.sent, a.shape, a.offered = a.seq, a.w.now, r.shape, offered
	a.rows[a.index] = r
	for _, to := range a.w.agents {
		a.send(to, r)
	}
}

func (a *agent) send(to *agent, r row) {
	w := a.w
	delay := 5*time.Millisecond + time.Duration(w.rng.Int64N(int64(25*time.Millisecond)))
	if to == a || w.rng.Float64() < w.loss || w.cut(a, to) {
		return
	}
	w.after(delay, func() {
		old, known := to.rows[r.host]
		if !to.alive || r.host == to.index || known && old.seq >= r.seq {
			return
		}
		r.got = w.now
		to.rows[r.host] = r
		if old.shape != r.shape {
			to.look()
		}
	})
}

// look decides soon, once.
func (a *agent) look() {
	if a.looking || a.w.law == nil {
		return
	}
	a.looking = true
	a.w.after(time.Millisecond, func() {
		a.looking = false
		if a.alive {
			a.w.law(a.w, a)
			a.publish()
		}
	})
}

// view is what the agent hands to Decide.
func (a *agent) view() View {
	v := View{Self: a.key, Cell: identity.Cell{Name: "sim"}, Waiting: a.w.waiting, Stopped: a.stopped}
	for i, h := range a.w.agents {
		if i == a.index {
			room := a.room
			for _, r := range a.replicas {
				v.Replicas = append(v.Replicas, a.measured(r))
				if r.State <= Draining {
					room--
				}
			}
			v.Hosts = append(v.Hosts, Host{Key: a.key, Room: room, HasCode: !a.noCode, CPUFree: 1})
			continue
		}
		r, ok := a.rows[i]
		if !ok {
			continue
		}
		age := a.w.now - r.got
		for _, x := range r.replicas {
			x.Age = age
			v.Replicas = append(v.Replicas, x)
		}
		v.Hosts = append(v.Hosts, Host{Key: h.key, Room: r.room, HasCode: !h.noCode, CPUFree: 1, Age: age})
	}
	return v
}

func (a *agent) measured(x *replica) Replica {
	v := x.Replica
	if x.State == Live || x.State == Draining {
		for _, m := range x.meter {
			v.Offered += m[0]
			v.Shed += m[1]
			v.Inflight += m[2] / float64(len(x.meter))
			v.CPU += m[3] / float64(len(x.meter))
		}
	}
	if a.lies != nil {
		v = a.lies(v)
	}
	return v
}

// decide is the law under test.
func (w *world) decide(a *agent) {
	if a.lies != nil {
		return
	}
	var d Decision
	d, a.memory = Decide(w.policy, a.view(), a.memory, w.now+time.Duration(a.index)*time.Hour)
	a.last = d
	for _, x := range d.Actions {
		switch {
		case x.Host != a.key:
		case x.Kind == Divide:
			a.spawn(x.Generation)
		case x.Kind == Drain:
			for _, r := range a.replicas {
				if r.ID == x.Replica && r.State <= Live {
					w.drain(a, r)
				}
			}
		}
	}
	a.publish()
}

func (a *agent) spawn(generation uint64) *replica {
	w := a.w
	a.id++
	w.spawns++
	r := &replica{Replica: Replica{Host: a.key, ID: a.id, State: Starting, Generation: generation}, born: w.now}
	a.replicas = append(a.replicas, r)
	w.after(simSpawn, func() {
		if r.State != Starting || !a.alive {
			return
		}
		r.State, r.ready = Live, w.now
		a.look()
		if w.bad(a) {
			w.kill(a, r)
		}
	})
	return r
}

func (w *world) drain(a *agent, r *replica) {
	r.State, r.drain = Draining, w.now
	w.drains++
	w.after(simDrain, func() { a.remove(r) })
}

func (a *agent) remove(r *replica) {
	a.replicas = slices.DeleteFunc(a.replicas, func(x *replica) bool { return x == r })
	if a.alive {
		a.look()
	}
}

func (w *world) kill(a *agent, r *replica) {
	if r.State > Draining {
		return
	}
	if r.State = Dead; w.now-r.born < Newborn {
		r.State = Failed
	}
	r.died = w.now
	w.after(Mourning, func() { a.remove(r) })
	a.look()
}

// all lists the replicas that run on hosts that live.
func (w *world) all(keep func(*replica) bool) (rs []*replica, of []*agent) {
	for _, a := range w.agents {
		for _, r := range a.replicas {
			if a.alive && keep(r) {
				rs, of = append(rs, r), append(of, a)
			}
		}
	}
	return rs, of
}

func (w *world) population() int {
	rs, _ := w.all(func(r *replica) bool { return r.State <= Live })
	return len(rs)
}

// routed lists the replicas that callers know.
func (w *world) routed() []*replica {
	rs, _ := w.all(func(r *replica) bool {
		return r.State == Live && w.now-r.ready >= simRoute || r.State == Draining && w.now-r.drain < 1500*time.Millisecond
	})
	return rs
}

// serve moves requests for one tick.
func (w *world) serve() {
	w.after(simTick, w.serve)
	dt := simTick.Seconds()
	load := 0.0
	if w.load != nil {
		load = w.load(w.now)
	}
	to := w.routed()
	known := map[*replica]bool{}
	for _, r := range to {
		known[r] = true
	}
	if w.waiting = 0; len(to) == 0 {
		w.arrived += load * dt
		w.failed += load * dt
		w.waiting = load * simTime
	}
	all, _ := w.all(func(r *replica) bool { return r.State <= Draining })
	slot := int(w.now/simTick) % 20
	for _, r := range all {
		in := 0.0
		if known[r] {
			in = w.poisson(load * dt / float64(len(to)))
		}
		w.arrived += in
		r.queue += in
		out := min(r.queue, simRate*dt)
		r.queue -= out
		shed := max(0, r.queue-simRate)
		r.queue -= shed
		w.failed += shed
		r.meter[slot] = [4]float64{in, shed, out/dt*simTime + r.queue, out / (simRate * dt)}
		if r.State <= Live {
			w.seconds += dt
		}
	}
	w.trace()
}

func (w *world) poisson(mean float64) float64 {
	return max(0, math.Round(mean+math.Sqrt(mean)*w.rng.NormFloat64()))
}

// brief is the loop as the brief wrote it, kept as a baseline: every replica
// each 10 s, mean CPU of those that answer, one chance in five.
func (w *world) brief(a *agent) {
	for _, r := range a.replicas {
		if r.State != Live || r.died != 0 {
			continue
		}
		r.died = -1 // its loop runs
		var loop func()
		loop = func() {
			if r.State != Live || !a.alive {
				return
			}
			w.after(10*time.Second, loop)
			rs, of := w.all(func(r *replica) bool { return r.State == Live && w.now-r.ready >= simRoute })
			if len(rs) == 0 {
				return
			}
			sum, oldest := 0.0, 0
			for i, x := range rs {
				for _, m := range x.meter {
					sum += 100 * m[3] / float64(len(x.meter))
				}
				if x.born < rs[oldest].born {
					oldest = i
				}
			}
			cpu := sum / float64(len(rs))
			switch {
			case cpu > 100*w.policy.ScaleUp && len(rs) < w.policy.Max:
				if w.rng.Float64() < 0.2 {
					a.spawn(1)
				}
			case cpu < 100*w.policy.ScaleDown && len(rs) > w.policy.Min:
				w.drain(of[oldest], rs[oldest])
			}
		}
		w.after(time.Duration(w.rng.Int64N(int64(10*time.Second))), loop)
	}
}
