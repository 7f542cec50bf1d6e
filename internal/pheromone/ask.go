package pheromone

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
)

// asks are the times at which an unanswered query is sent, counted from its
// start; patience is when it is given up.
var asks = [...]time.Duration{0, 40 * time.Millisecond, 120 * time.Millisecond, 300 * time.Millisecond}

const patience = 500 * time.Millisecond

// Limits on answers.
const (
	answerDelay   = 20 * time.Millisecond // at most; random, so that not all speak at once
	maxWaiting    = 256                   // answers that wait for their moment
	answerPackets = 8                     // in one answer; who serves more than fits is heard by his announcements
)

// asking counts the queries for one name that are under way.
type asking struct {
	queries int
	heard   bool // a lease has come since the first of them began
}

// Query asks everybody for leases of the cell at key, or with the zero key for
// any. What is answered goes to Config.OnLease. It returns after half a second,
// or when ctx ends; it asks up to four times, until the first lease comes.
func (l *LAN) Query(ctx context.Context, key identity.NameKey) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer l.endQuery(key)
	l.mu.Lock()
	if l.asked[key] == nil {
		l.asked[key] = new(asking)
	}
	a := l.asked[key]
	a.queries++
	l.mu.Unlock()

	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := range asks {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		l.mu.Lock()
		heard, nonce := a.heard, l.rand.Uint64()
		if i+1 < len(asks) {
			timer.Reset(time.Until(start.Add(l.jitterLocked(asks[i+1]))))
		}
		l.mu.Unlock()
		if heard {
			break
		}
		raw, err := signQuery(l.config.Key, l.network, key, nonce, time.Now())
		if err != nil {
			l.count("unsent")
			return
		}
		l.transmit(Packet{Kind: KindQuery, Records: [][]byte{raw}}, netip.AddrPort{})
	}
	<-ctx.Done()
}

func (l *LAN) endQuery(key identity.NameKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.asked[key]; a.queries > 1 {
		a.queries--
	} else {
		delete(l.asked, key)
	}
}

// answer is what a node that asked will be told.
type answer struct {
	due     time.Time
	to      netip.AddrPort
	key     identity.NameKey
	packets []Packet // filled when it is due
}

// plan notes an answer where this node has something to say.
func (l *LAN) plan(q question, to netip.AddrPort, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.leasesLocked(q.key)) == 0 {
		return
	}
	if slices.ContainsFunc(l.answers, func(a answer) bool { return a.to == to && a.key == q.key }) {
		return
	}
	if len(l.answers) >= maxWaiting {
		l.stats["ratelimited"]++
		return
	}
	delay := time.Duration(l.rand.Int64N(int64(answerDelay)))
	l.answers = append(l.answers, answer{due: now.Add(delay), to: to, key: q.key})
	l.wakeUp()
}

// takeAnswers returns the answers that are due, with what to say at this moment.
func (l *LAN) takeAnswers(now time.Time) (due []answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers = slices.DeleteFunc(l.answers, func(a answer) bool {
		if a.due.After(now) {
			return false
		}
		leases := l.leasesLocked(a.key)
		l.rand.Shuffle(len(leases), func(i, j int) { leases[i], leases[j] = leases[j], leases[i] })
		a.packets = pack(KindAnswer, leases)
		a.packets = a.packets[:min(len(a.packets), answerPackets)]
		if len(a.packets) > 0 {
			due = append(due, a)
			l.stats["answered"]++
		}
		return true
	})
	return due
}

// leasesLocked returns this node's leases that match a question's key.
func (l *LAN) leasesLocked(key identity.NameKey) [][]byte {
	if key != (identity.NameKey{}) {
		if s := l.own[key]; s != nil && !s.lease.Tombstone() {
			return [][]byte{s.lease.Raw}
		}
		return nil
	}
	var out [][]byte
	for _, k := range sortedKeys(l.own) {
		if s := l.own[k]; !s.lease.Tombstone() {
			out = append(out, s.lease.Raw)
		}
	}
	return out
}
