package record

import "cell.network/cell/internal/identity"

// A node's life begins with each of its starts and has a number, the incarnation
// in the orders of all that it signs. Its end is not always announced; but what
// says that a new one has begun says that the one before is over, and with it
// every lease that was signed in it. An older incarnation in a lease that was
// signed later is no former life: that node has lost count.

// Began takes from a verified contact in which life its node is. After a
// goodbye it is in none: no lease that it has signed so far holds. It reports
// whether a life that was known is over.
func (f *Floor) Began(c Contact) (over bool) {
	life := c.Order.Incarnation
	if c.Left {
		life++
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.atLocked(lifeKey(c.Signer)).Incarnation
	f.beganLocked(c.Header, life)
	return 0 < was && was < life
}

// Over reports whether the life in which l was signed is over.
func (f *Floor) Over(l Lease) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.overLocked(l)
}

// lifeKey is under which a node's newest life is remembered: its number, and
// the time at which the first was signed that was seen of it.
func lifeKey(node identity.Key) floorKey { return floorKey{signer: node} }

func (f *Floor) beganLocked(h Header, life uint64) {
	k := lifeKey(h.Signer)
	now := f.atLocked(k)
	if life > now.Incarnation {
		now = Order{life, uint64(h.Issued.UnixMilli())}
	}
	if now.Incarnation > 0 {
		f.raiseLocked(k, now)
	}
}

func (f *Floor) overLocked(l Lease) bool {
	life := f.atLocked(lifeKey(l.Signer))
	return l.Order.Incarnation < life.Incarnation && l.Issued.UnixMilli() < int64(life.Sequence)
}
