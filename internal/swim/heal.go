package swim

import "time"

// How parts of a network that was cut come together again.
const (
	healTime  = 15 * time.Second // in which tables are compared more often
	healEvery = 1500 * time.Millisecond
	backTime  = time.Minute     // in which neighbours can vouch for the dead, after one of these is back
	accord    = 5 * time.Second // after a death, until all agree on it
)

// vouch revives a dead member on the word of a neighbour, if another one has just
// turned out not to be dead: that both were lost may have been the fault of this
// node or of its part of the network. Otherwise everybody would have to sign a
// new contact whenever one node was cut off. Nobody is revived twice so, and who
// is revived wrongly is accused by the neighbours that know better.
func (d *Detector) vouch(m *member, now time.Time) {
	if m.state != Dead || m.vouched || d.returned.IsZero() || now.Sub(d.returned) > backTime ||
		now.Sub(m.died) > recent || d.returned.Sub(m.died) < accord {
		return
	}
	m.vouched, m.accusers = true, nil
	d.become(m, Alive, now)
}
