package node

import (
	"context"
	"time"

	"cell.network/cell/internal/ops"
)

// How replicas are measured.
const (
	vitalsEvery  = 500 * time.Millisecond
	vitalsWindow = 2 // of these: rates are those of the last second
	pongTime     = 2 * time.Second
)

// vitals is how a replica fared over the last second.
type vitals struct {
	offered, shed float64 // requests per second that arrived; of these, refused for load
	inflight      float64 // requests at once
	cpu           float64 // share of its limit, 0 to 1 and above
	p99           time.Duration
	memory        int64 // bytes
}

// reading is what a replica had counted at a moment.
type reading struct {
	at    time.Time
	stats ops.Stats
	usage Usage
}

// between returns how a replica fared from one reading to another, with cores
// as the limit of its CPU.
func between(a, b reading, cores float64) vitals {
	v := vitals{inflight: float64(b.stats.Serving), p99: time.Duration(b.stats.P99) * time.Microsecond, memory: b.usage.Memory}
	dt := b.at.Sub(a.at).Seconds()
	if dt <= 0 {
		return v
	}
	rate := func(from, to uint64) float64 {
		if to < from { // a replica may say what it likes
			return 0
		}
		return float64(to-from) / dt
	}
	arrived := func(s ops.Stats) uint64 { return s.Served + s.Serving + s.Shed }
	v.offered, v.shed = rate(arrived(a.stats), arrived(b.stats)), rate(a.stats.Shed, b.stats.Shed)
	if used := b.usage.CPU - a.usage.CPU; used > 0 && cores > 0 {
		v.cpu = used.Seconds() / dt / cores
	}
	return v
}

// observe measures the replica until it ends. cores is its limit of CPU.
func (n *Node) observe(r *replica, cores float64) {
	if cores <= 0 {
		cores = 1
	}
	tick := time.NewTicker(vitalsEvery)
	defer tick.Stop()
	var past []reading
	for {
		now := reading{at: time.Now()}
		ctx, cancel := context.WithTimeout(context.Background(), pongTime)
		stats, _, err := r.port.Ping(ctx)
		cancel()
		if err == nil {
			now.stats = stats
			if n.cfg.Meter != nil {
				now.usage, _ = n.cfg.Meter.Sample(r.proc.PID()) // else it has just ended, or nobody can tell
			}
			if past = append(past, now); len(past) > vitalsWindow+1 {
				past = past[1:]
			}
			v := between(past[0], now, cores)
			v.inflight = max(v.inflight, float64(r.trunk.Inflight())) // what waits for it counts as well
			shed := v.shed > 0
			r.mu.Lock()
			shed = shed && r.vitals.shed == 0
			r.vitals = v
			r.mu.Unlock()
			if shed {
				n.changed()
			}
		}
		select {
		case <-tick.C:
		case <-r.done:
			return
		}
	}
}

func (r *replica) getVitals() vitals {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.vitals
}
