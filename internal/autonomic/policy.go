package autonomic

import (
	"math"
	"time"
)

// maxReplicas bounds Policy.Max.
const maxReplicas = 10_000

// Policy is what an author or operator wants of a cell's population. The zero
// value works. Values that make no sense are moved to the nearest that do.
type Policy struct {
	Min int // replicas; default 0: the cell may sleep
	Max int // replicas; default 8

	CPUTarget float64 // share of a replica's CPU limit to settle at, give or take 0.1; default 0.6
	ScaleUp   float64 // mean share above which the cell grows at once; default 0.8
	ScaleDown float64 // mean share below which it shrinks after Down; default 0.3

	InflightTarget float64 // requests at once per replica; default 16

	Down    time.Duration // how long a lower demand must last before the cell shrinks; default 30 s
	Drift   time.Duration // the same while CPU lies between ScaleDown and its target; default 2 min
	Start   time.Duration // how long a claim counts as a replica; default 10 s
	Suspect time.Duration // a host not heard of for so long counts no more; default 4 s
	Listen  time.Duration // how long a new memory only listens before it divides; default 2 s
	Turn    time.Duration // how long the next in line for a vacancy waits; default 800 ms
}

// normal returns p with defaults filled in and nonsense removed.
func (p Policy) normal() Policy {
	share := func(x *float64, def float64) {
		if !(*x > 0) {
			*x = def
		}
		*x = min(max(*x, 0.01), 1)
	}
	span := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
		*d = min(*d, 24*time.Hour)
	}
	if p.Max <= 0 {
		p.Max = 8
	}
	p.Max = min(p.Max, maxReplicas)
	p.Min = min(max(p.Min, 0), p.Max)
	share(&p.CPUTarget, 0.6)
	share(&p.ScaleUp, 0.8)
	share(&p.ScaleDown, 0.3)
	p.CPUTarget = min(p.CPUTarget, p.ScaleUp)
	if !(p.InflightTarget > 0) {
		p.InflightTarget = 16
	}
	p.InflightTarget = min(max(p.InflightTarget, 1e-3), math.MaxInt32)
	span(&p.Down, 30*time.Second)
	span(&p.Drift, 2*time.Minute)
	span(&p.Start, 10*time.Second)
	span(&p.Suspect, 4*time.Second)
	span(&p.Listen, 2*time.Second)
	span(&p.Turn, 800*time.Millisecond)
	return p
}
