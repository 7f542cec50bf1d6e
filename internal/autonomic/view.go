package autonomic

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
)

// Newborn is the age below which an unexpected exit is [Failed], not [Dead].
const Newborn = 10 * time.Second

// Mourning is how long a host keeps [Dead] and [Failed] replicas in its row, so
// that everybody hears of them.
const Mourning = 5 * time.Second

// State is where a replica is in its life.
type State uint8

// The states of a replica.
const (
	Starting State = iota + 1 // claimed or not ready yet
	Live
	Draining // finishes what is in flight; takes no part in any count
	Dead     // exited without being asked; its host saw it
	Failed   // the same, before it was ready or Newborn old: its host rests before it tries again
)

// Replica is what a host's row says of one replica.
type Replica struct {
	Host       identity.Key
	ID         uint64 // unique on its host
	State      State
	Generation uint64 // order of birth, from 1; lower is older

	// Over the last second. Replicas that are not ready report zero.
	Offered  float64 // requests per second that arrived, refused ones included
	Shed     float64 // of these, refused because of load
	Inflight float64 // requests at once, waiting ones included
	CPU      float64 // share of its limit; above 1 where the system does not hold it to that

	Age time.Duration // since its host's newest row was received here
}

// Host is a machine that may run the cell.
type Host struct {
	Key     identity.Key
	Room    int           // replicas of any cell that it would still take
	HasCode bool          // could start the cell now, without fetch or build
	CPUFree float64       // share of the machine, 0 to 1
	Age     time.Duration // since its newest row was received here
}

// View is what one host sees of one cell. It may be as old and as wrong as its
// rows; order does not matter.
type View struct {
	Cell     identity.Cell
	Self     identity.Key // the host that decides; its own rows have age 0
	Replicas []Replica
	Hosts    []Host  // Self among them, if it may run the cell
	Waiting  float64 // requests held by callers that know no replica
	Stopped  bool    // the operator wants none at all
}

// place names a replica for ever.
type place struct {
	host identity.Key
	id   uint64
}

func (r Replica) place() place { return place{r.Host, r.ID} }

// older orders by generation, then host, then id, so that all hosts agree.
func older(a, b Replica) int {
	return cmp.Or(cmp.Compare(a.Generation, b.Generation), bytes.Compare(a.Host[:], b.Host[:]), cmp.Compare(a.ID, b.ID))
}

// body is a view put in order: everything that the laws count.
type body struct {
	living   []Replica // starting and live, oldest first
	draining []Replica
	dead     []Replica // dead and failed
	overdue  []Replica // own claims that nobody counts any more
	used     map[uint64]bool
	top      uint64 // greatest generation in use
	live     int
	hosts    []Host // heard of lately, by key
	silent   int    // hosts not heard of for Suspect, but not long gone either
}

func (b *body) starting() int { return len(b.living) - b.live }

// forget is when a silent host no longer holds up anything.
const forget = 30 * time.Second

// look puts a view in order.
func look(p Policy, v View, m *Memory, now time.Duration) *body {
	b := &body{used: make(map[uint64]bool, len(v.Replicas))}
	seen := make(map[identity.Key]bool, len(v.Hosts))
	hosts := slices.Clone(v.Hosts)
	slices.SortStableFunc(hosts, func(x, y Host) int {
		return cmp.Or(bytes.Compare(x.Key[:], y.Key[:]), cmp.Compare(x.Age, y.Age))
	})
	for _, h := range hosts {
		switch {
		case seen[h.Key]:
		case h.Age <= p.Suspect:
			b.hosts = append(b.hosts, h)
		case h.Age <= forget:
			b.silent++
		}
		seen[h.Key] = true
	}
	replicas := slices.Clone(v.Replicas)
	plausible(replicas, v.Self)
	slices.SortStableFunc(replicas, older)
	held := make(map[place]bool, len(v.Replicas))
	claims := map[place]time.Duration{}
	for _, r := range replicas {
		if held[r.place()] {
			continue
		}
		held[r.place()] = true
		b.used[r.Generation] = true
		b.top = max(b.top, r.Generation)
		if r.Age > p.Suspect {
			continue
		}
		switch r.State {
		case Starting:
			since, known := m.claims[r.place()]
			if !known {
				since = now
			}
			claims[r.place()] = since
			if now-since < p.Start {
				b.living = append(b.living, r)
			} else if r.Host == v.Self {
				b.overdue = append(b.overdue, r)
			}
		case Live:
			b.living = append(b.living, r)
			b.live++
		case Draining:
			b.draining = append(b.draining, r)
		case Dead, Failed:
			b.dead = append(b.dead, r)
		}
	}
	m.claims = claims
	return b
}

// leap is how far one host's generations may run ahead of everybody else's.
const leap = 1 << 20

// plausible makes generations that only one host knows of and that leap far
// ahead the oldest, so that a lie cannot use the numbers up.
func plausible(replicas []Replica, self identity.Key) {
	var first, second uint64 // greatest generations of two different hosts
	var leader identity.Key
	for _, r := range replicas {
		switch {
		case r.Host == leader:
			first = max(first, r.Generation)
		case r.Generation > first:
			first, second, leader = r.Generation, first, r.Host
		default:
			second = max(second, r.Generation)
		}
	}
	if second == 0 && leader == self || first-second <= leap {
		return
	}
	for i := range replicas {
		if replicas[i].Generation > second+leap {
			replicas[i].Generation = 0
		}
	}
}

// load is the sum of what replicas report.
type load struct{ offered, shed, inflight, cpu float64 }

// weigh sums the load of live and draining replicas. A report above three times
// the median of at least three hosts counts as three times the median.
func (b *body) weigh() load {
	var l load
	serving := slices.Concat(b.living, b.draining)
	sum := func(of func(Replica) float64) (total float64) {
		var some []float64
		var hosts []identity.Key // the first three
		for _, r := range serving {
			if x := quantity(of(r)); x > 0 && r.State != Starting {
				some = append(some, x)
				if len(hosts) < 3 && !slices.Contains(hosts, r.Host) {
					hosts = append(hosts, r.Host)
				}
			}
		}
		slices.Sort(some)
		limit := math.Inf(1)
		if len(hosts) == 3 {
			limit = 3 * some[len(some)/2]
		}
		for _, x := range some {
			total += min(x, limit)
		}
		return total
	}
	l.offered = sum(func(r Replica) float64 { return r.Offered })
	l.shed = sum(func(r Replica) float64 { return r.Shed })
	l.inflight = sum(func(r Replica) float64 { return r.Inflight })
	l.cpu = sum(func(r Replica) float64 { return min(r.CPU, maxCPU) })
	return l
}

// maxCPU is how far a replica can be beyond its CPU limit, where the system
// does not hold it to that.
const maxCPU = 64

// quantity reads a number that a peer sent: neither negative, nor beyond reason.
func quantity(x float64) float64 {
	if !(x > 0) {
		return 0
	}
	return min(x, 1e9)
}
