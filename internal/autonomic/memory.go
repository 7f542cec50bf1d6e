package autonomic

import (
	"math"
	"time"

	"cell.network/cell/internal/identity"
)

// Memory is what a host keeps between two decisions for one cell. The zero value
// remembers nothing: it only listens for [Policy.Listen], and forbids scale-in until it is
// [Policy.Down] old. [Decide]
// never changes the one it is given, so a decision can be taken again from a copy.
type Memory struct {
	begun bool
	start time.Duration // of the first decision
	last  time.Duration // of the latest

	flight, cpu cost // of one request: seconds in flight, CPU limits times seconds

	recent                  average // requests in flight, to see a backlog go away
	steadyFlight, steadyCPU average // demand, for growth
	slowFlight, slowCPU     average // demand and backlog, for scale-in
	peakFlight, peakCPU     peak    // greatest of these over Policy.Down
	longCPU                 peak    // over Policy.Drift
	warmSince               since   // CPU above its target by more than 0.1

	population int
	changed    time.Duration // when population last changed

	restSince since
	settled   uint64 // greatest generation when the cell was last at rest

	taken    map[uint64]bool          // generations above settled that were ever seen
	open     map[uint64]time.Duration // vacancies, when they were first seen
	claims   map[place]time.Duration  // starting replicas, the same
	mourned  map[place]bool           // deaths that were already counted
	healTo   int
	healTill time.Duration
	failures map[identity.Key]failure

	surplusSince since
	oldest       place
}

// elapsed returns the time since the last decision, never negative.
func (m *Memory) elapsed(now time.Duration) time.Duration { return max(0, now-m.last) }

// since holds for how long something has been true.
type since struct {
	true bool
	at   time.Duration
}

// hold tells whether it has been true for d.
func (s *since) hold(yes bool, now, d time.Duration) bool {
	if yes && !s.true {
		s.at = now
	}
	s.true = yes
	return yes && now-s.at >= d
}

// maxTaken bounds Memory.taken.
const maxTaken = 1024

// settle remembers which generations are taken; a cell at rest needs to know only
// the greatest.
func (m *Memory) settle(b *body, rest bool) {
	if rest || len(m.taken) > maxTaken {
		m.settled = max(m.settled, b.top)
	}
	for g := range m.taken {
		b.used[g] = true
	}
	taken := make(map[uint64]bool, len(b.used))
	for g := range b.used {
		if g > m.settled {
			taken[g] = true
		}
	}
	m.taken = taken
}

// average is an exponential mean over time.
type average struct {
	known bool
	value float64
}

func (a *average) add(x float64, dt, tau time.Duration) {
	if !a.known {
		a.known, a.value = true, x
		return
	}
	a.value += (x - a.value) * (1 - math.Exp(-dt.Seconds()/tau.Seconds()))
}

// cost is what one request takes, once learnt.
type cost struct{ average }

// learn takes in total over arrivals. An idle cell teaches nothing: what it uses it
// would use without requests.
func (c *cost) learn(total, floor, arrivals float64, dt time.Duration) {
	if arrivals >= 5 && total >= floor {
		c.add(total/arrivals, dt, 5*time.Second)
	}
}

// peakParts is how finely a peak forgets.
const peakParts = 16

// peak is the greatest value of the last while.
type peak struct {
	part  [peakParts]int64
	value [peakParts]float64
}

func (p *peak) add(x float64, now, window time.Duration) {
	n := p.number(now, window)
	i := n % peakParts
	if p.part[i] != n {
		p.part[i], p.value[i] = n, 0
	}
	p.value[i] = max(p.value[i], x)
}

func (p *peak) max(now, window time.Duration) float64 {
	n, top := p.number(now, window), 0.0
	for i, part := range p.part {
		if part > n-peakParts && part <= n {
			top = max(top, p.value[i])
		}
	}
	return top
}

func (p *peak) number(now, window time.Duration) int64 {
	return 1 + int64(max(now, 0)/max(window/(peakParts-1), 1))
}
