package pheromone

import (
	"bytes"
	"context"
	"time"

	"cell.network/cell/internal/identity"
)

// asks are the delays after which an unanswered query is sent again, each
// counted from the one before; patience is when it is given up, and that of a
// greeting when the air was too full for it.
var asks = [...]time.Duration{40 * time.Millisecond, 80 * time.Millisecond, 180 * time.Millisecond}

const (
	patience         = 500 * time.Millisecond
	greetingPatience = 5 * time.Second
)

// anything is the key of a question for whatever there is: a greeting.
var anything identity.NameKey

// asking is what is asked for one name.
type asking struct {
	key     identity.NameKey
	queries int       // that wait for it
	sent    int       // how often it has been asked
	next    time.Time // when to ask again
	done    bool      // a lease has come, or it has been asked often enough
}

func (a *asking) urgency() urgency {
	if a.sent == 0 && a.key != anything {
		return urgent
	}
	return repeated
}

// Query asks everybody for leases of the cell at key, or with the zero key for
// any. What is answered goes to Config.OnLease. It returns after half a second,
// or when ctx ends; it asks up to four times, until the first lease comes.
func (l *LAN) Query(ctx context.Context, key identity.NameKey) { l.query(ctx, key, patience) }

func (l *LAN) query(ctx context.Context, key identity.NameKey, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	l.mu.Lock()
	a := l.asked[key]
	if a == nil {
		a = &asking{key: key, next: time.Now()}
		l.asked[key] = a
	}
	a.queries++
	l.wakeUp()
	l.mu.Unlock()
	<-ctx.Done()
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.queries--; a.queries == 0 {
		delete(l.asked, key)
	}
}

// firstAskedLocked returns the most urgent question that is due, if any.
func (l *LAN) firstAskedLocked(now time.Time) (first *asking) {
	for _, a := range l.asked {
		if a.done || a.next.After(now) {
			continue
		}
		before := first == nil || a.urgency() < first.urgency()
		if !before && a.urgency() == first.urgency() {
			before = a.next.Before(first.next) || a.next.Equal(first.next) && bytes.Compare(a.key[:], first.key[:]) < 0
		}
		if before {
			first = a
		}
	}
	return first
}

// takeAskedLocked returns the packet that asks a, and plans when to ask again.
func (l *LAN) takeAskedLocked(a *asking, now time.Time) (Packet, error) {
	if a.sent < len(asks) {
		a.next = now.Add(l.jitterLocked(asks[a.sent]))
	} else {
		a.done = true
	}
	a.sent++
	raw, err := signQuery(l.config.Key, l.network, a.key, l.rand.Uint64(), now)
	return Packet{Kind: KindQuery, Records: [][]byte{raw}}, err
}

// answeredLocked notes that a lease has come which ends questions for its cell.
// A greeting is ended only by an answer to it.
func (l *LAN) answeredLocked(key identity.NameKey, kind Kind) {
	if a := l.asked[key]; a != nil {
		a.done = true
	}
	if a := l.asked[anything]; a != nil && kind == KindAnswer {
		a.done = true
	}
}
