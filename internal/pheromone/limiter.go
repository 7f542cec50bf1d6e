package pheromone

import (
	"net/netip"
	"time"
)

// maxSources is how many addresses a limiter tells apart; all others share one budget.
const maxSources = 1024

// limiter lets each address do something rate times a second, and burst times
// at once. It is not safe for concurrent use.
type limiter struct {
	rate, burst float64
	budgets     map[netip.Addr]*budget
	swept       time.Time // when full budgets were last looked for
}

type budget struct {
	left  float64
	since time.Time
}

func newLimiter(rate, burst float64) *limiter {
	return &limiter{rate: rate, burst: burst, budgets: make(map[netip.Addr]*budget)}
}

func (l *limiter) allow(a netip.Addr, now time.Time) bool {
	b, ok := l.budgets[a]
	if !ok {
		if len(l.budgets) >= maxSources && now.Sub(l.swept) >= time.Second {
			l.forget(now)
		}
		if len(l.budgets) >= maxSources && a.IsValid() {
			return l.allow(netip.Addr{}, now)
		}
		b = &budget{left: l.burst, since: now}
		l.budgets[a] = b
	}
	b.left = min(l.burst, b.left+now.Sub(b.since).Seconds()*l.rate)
	b.since = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// forget drops the addresses whose budget is full again.
func (l *limiter) forget(now time.Time) {
	l.swept = now
	for a, b := range l.budgets {
		if b.left+now.Sub(b.since).Seconds()*l.rate >= l.burst {
			delete(l.budgets, a)
		}
	}
}
