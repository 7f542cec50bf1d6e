package autonomic

import (
	"math"
	"time"
)

// Signals, the numbers that can ask for a count.
const (
	signalInflight = "requests in flight"
	signalCPU      = "CPU"
	signalMin      = "minimum"
	signalMax      = "maximum"
	signalWound    = "replicas that died"
	signalWaiting  = "callers that wait"
)

// desire is how many replicas there should be, and why.
type desire struct {
	up, down int    // grow below up, shrink above down; up <= down
	signal   string // what asks for growth, or else what holds the cell up
	load     load
	demand   float64 // in the unit of signal
	target   float64 // of one replica
}

// want is the one count that follows for n replicas.
func (d desire) want(n int) int { return min(max(n, d.up), d.down) }

// evidence tells whether what is seen directly may move the population: the
// step before must have had its effect.
func (m *Memory) evidence(b *body, now time.Duration) bool {
	hold := 3 * time.Second
	if !m.flight.known {
		hold = time.Second
	}
	return b.starting() == 0 && now-m.changed >= hold
}

// desire weighs what the body reports and remembers it.
func (m *Memory) desire(p Policy, v View, b *body, now time.Duration) desire {
	l := b.weigh()
	dt := m.elapsed(now)
	n, live := float64(len(b.living)), float64(b.live)
	if len(b.living) != m.population {
		m.population, m.changed = len(b.living), now
	}
	if l.shed == 0 && l.inflight <= 1.3*live*p.InflightTarget && l.cpu <= live*p.ScaleUp {
		m.flight.learn(l.inflight, 0, l.offered, dt)
		m.cpu.learn(l.cpu, 0.1*live, l.offered, dt)
	}

	waiting := quantity(v.Waiting)
	flightSeen := min(l.inflight, (2*live+1)*p.InflightTarget)
	flight := l.offered*m.flight.value + waiting
	cpu := l.offered * m.cpu.value
	m.slowFlight.add(max(flight, flightSeen), dt, 3*time.Second)
	m.slowCPU.add(max(cpu, l.cpu), dt, 3*time.Second)
	m.recent.add(l.inflight, dt, time.Second)
	falls := l.inflight < 0.9*m.recent.value
	if m.evidence(b, now) && !falls {
		flight, cpu = max(flight, flightSeen), max(cpu, l.cpu)
	}
	m.steadyFlight.add(flight, dt, 3*time.Second)
	m.steadyCPU.add(cpu, dt, 3*time.Second)
	m.peakFlight.add(m.slowFlight.value, now, p.Down)
	m.peakCPU.add(m.slowCPU.value, now, p.Down)
	m.longCPU.add(m.slowCPU.value, now, p.Drift)

	d := desire{load: l, signal: signalInflight, demand: m.slowFlight.value, target: p.InflightTarget}
	grow := func(to int, signal string, demand, target float64) {
		if to > max(d.up, len(b.living)) {
			d.up, d.signal, d.demand, d.target = to, signal, demand, target
		}
	}

	// Requests in flight. Arrivals scatter by their square root; two of these are no news.
	scatter := m.flight.value * math.Sqrt(l.offered)
	switch full := n * p.InflightTarget; {
	case flight > 1.3*full+2*scatter, l.shed > 0 && flight > full:
		grow(count(flight, p.InflightTarget), signalInflight, flight, p.InflightTarget)
	case m.steadyFlight.value > 1.1*full+scatter:
		grow(count(m.steadyFlight.value, p.InflightTarget), signalInflight, m.steadyFlight.value, p.InflightTarget)
	}
	d.down = count(m.peakFlight.max(now, p.Down), p.InflightTarget)

	// CPU: beyond the thresholds soon, within them slowly.
	scatter = m.cpu.value * math.Sqrt(l.offered)
	warm := m.warmSince.hold(m.steadyCPU.value > min(p.CPUTarget+0.1, p.ScaleUp)*n, now, 10*time.Second)
	switch {
	case cpu > p.ScaleUp*n+scatter:
		grow(max(count(cpu, p.CPUTarget), len(b.living)+1), signalCPU, cpu, p.CPUTarget)
	case warm:
		grow(count(m.steadyCPU.value, p.CPUTarget), signalCPU, m.steadyCPU.value, p.CPUTarget)
	}
	keep := len(b.living)
	if peak := m.peakCPU.max(now, p.Down); peak < p.ScaleDown*n {
		keep = count(peak, p.CPUTarget)
	} else if long := m.longCPU.max(now, p.Drift); long < (p.CPUTarget-0.1)*n && now-m.start >= p.Drift {
		keep = count(long, p.CPUTarget)
	}
	if keep > d.down {
		d.down = keep
		if d.up == 0 {
			d.signal, d.demand, d.target = signalCPU, m.slowCPU.value, p.CPUTarget
		}
	}

	if waiting > 0 {
		grow(max(1, count(flight, p.InflightTarget)), signalWaiting, waiting, p.InflightTarget)
	}
	d.up = min(d.up, 4*len(b.living)+2)
	if to := min(m.heal(b, now), d.down); to > d.up {
		grow(to, signalWound, float64(to-len(b.living)), 1)
	}
	return m.bound(d, p, b, now)
}

// bound keeps the counts within the policy, and forbids scale-in while too
// little is known.
func (m *Memory) bound(d desire, p Policy, b *body, now time.Duration) desire {
	n := len(b.living)
	if now-m.start < p.Down || 5*b.silent > len(b.hosts)+b.silent {
		d.down = max(d.down, n)
	}
	if p.Min > max(n, d.up) {
		d.signal, d.demand, d.target = signalMin, float64(p.Min), 1
	}
	if max(n, d.up) > p.Max {
		d.signal, d.demand, d.target = signalMax, float64(p.Max), 1
	}
	d.up = min(max(d.up, p.Min), p.Max)
	d.down = min(max(d.down, d.up), p.Max)
	return d
}

// heal returns the count from before deaths that their own hosts saw; demand of
// the last while still has to want it.
func (m *Memory) heal(b *body, now time.Duration) int {
	mourned := make(map[place]bool, len(b.dead))
	fresh := 0
	for _, r := range b.dead {
		mourned[r.place()] = true
		if !m.mourned[r.place()] {
			fresh++
		}
	}
	m.mourned = mourned
	if now >= m.healTill {
		m.healTo = 0
	}
	if fresh > 0 {
		m.healTo, m.healTill = max(m.healTo, len(b.living)+fresh), now+10*time.Second
	}
	return m.healTo
}

// count is how many replicas carry demand at target each.
func count(demand, target float64) int {
	return int(min(math.Ceil(demand/target-1e-9), maxReplicas))
}
