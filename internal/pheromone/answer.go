package pheromone

import (
	"net/netip"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
)

// Limits on answers.
const (
	answerGap     = 500 * time.Microsecond // between the answers of all to one question, on average
	maxDelay      = 500 * time.Millisecond // of an answer
	maxWaiting    = 256                    // answers that wait for their moment
	answerPackets = 8                      // in one answer; who serves more than fits is heard by his announcements
	greetedRate   = 2000                   // answers to greetings a second, by all nodes of a LAN together
	greetedBurst  = 16                     // and by one of them at once
)

// answer is what a node that asked will be told.
type answer struct {
	due     time.Time
	to      netip.AddrPort
	key     identity.NameKey
	packets []Packet // filled when it is due
}

// plan notes an answer where this node has something to say. It waits for a
// random time, so that not all speak at once: the shorter, the fewer are known
// who might answer, and none where there is nobody else.
func (l *LAN) plan(q question, to netip.AddrPort, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.answerLocked(q.key)) == 0 {
		return
	}
	if slices.ContainsFunc(l.answers, func(a answer) bool { return a.to == to && a.key == q.key }) {
		return
	}
	others := l.crowd.answers(q.key)
	if len(l.answers) >= maxWaiting || q.key == anything && !l.greetsLocked(others, now) {
		l.stats["ratelimited"]++
		return
	}
	delay := time.Duration(l.rand.Float64() * float64(min(time.Duration(others)*answerGap, maxDelay)))
	l.answers = append(l.answers, answer{due: now.Add(delay), to: to, key: q.key})
	l.wakeUp()
}

// greetsLocked reports whether a greeting is answered: when many come at once,
// those who are not answered hear the next round.
func (l *LAN) greetsLocked(others int, now time.Time) bool {
	if l.greeted.drain(now, greetedRate/float64(1+others)) > greetedBurst-1 {
		return false
	}
	l.greeted.level++
	return true
}

// takeAnswers returns the answers that are due, with what to say at this moment.
func (l *LAN) takeAnswers(now time.Time) (due []answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers = slices.DeleteFunc(l.answers, func(a answer) bool {
		if a.due.After(now) {
			return false
		}
		leases := l.answerLocked(a.key)
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

// answerLocked returns this node's leases that match a question's key. To a
// greeting it leaves out what everybody is about to be told.
func (l *LAN) answerLocked(key identity.NameKey) [][]byte {
	if key != anything {
		if s := l.own[key]; s != nil && !s.lease.Tombstone() {
			return [][]byte{s.lease.Raw}
		}
		return nil
	}
	var out [][]byte
	for _, k := range sortedKeys(l.own) {
		if s := l.own[k]; !s.lease.Tombstone() && s.urgency() != urgent {
			out = append(out, s.lease.Raw)
		}
	}
	return out
}
