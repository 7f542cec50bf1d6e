package pulse

import (
	"bytes"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// speak signs a new row where there is something to say, and returns when that
// must be looked at again, and whether something waits until then. With look,
// the node is asked what it has to say.
func (p *Pulse) speak(now time.Time, look bool) (again time.Time, owed bool) {
	p.mu.Lock()
	last, offer, said := p.spoke, p.offer, p.own.row.Raw != nil
	period := p.periodLocked()
	p.mu.Unlock()
	refresh := last.Add(period)
	if !look && said && now.Before(refresh) {
		return refresh, false
	}
	o := p.cfg.Row()
	switch {
	case said && now.Before(refresh) && !differs(offer, o):
		return refresh, false
	case said && now.Before(last.Add(minGap)):
		return last.Add(minGap), true
	}
	p.sign(o, p.cfg.TTL)
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Add(p.periodLocked()), false
}

// periodLocked is how long a row stands that nothing has changed in.
func (p *Pulse) periodLocked() time.Duration {
	if p.cut {
		return min(turn, p.cfg.Refresh)
	}
	return max(p.cfg.Refresh, min(time.Duration(len(p.table.nodes))*perRow, p.cfg.TTL/3))
}

// sign makes the node's newest row and sends it to all neighbours.
func (p *Pulse) sign(o record.RowOffer, ttl time.Duration) {
	now := time.Now()
	p.mu.Lock()
	o.Order = record.Order{Incarnation: p.cfg.Incarnation, Sequence: p.own.row.Order.Sequence + 1}
	p.mu.Unlock()
	o.Issued, o.TTL = now, ttl
	if ttl == 0 {
		o.Cells = nil
	}
	r, err := record.SignRow(p.cfg.Key, p.id, o)
	if err != nil {
		p.cfg.OnRefused(p.self, record.Reason(err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offer, p.spoke = o, now
	if err != nil {
		return
	}
	p.cut = cut(o, r)
	p.own.push(r, now, now)
	for _, l := range p.toldLocked() {
		l.due[p.self] = struct{}{}
		l.rouse()
	}
}

// cut reports whether a row leaves out some of what there was to say.
func cut(o record.RowOffer, r record.Row) bool {
	said := make(map[identity.Cell]bool, len(r.Cells))
	for _, c := range r.Cells {
		said[c.Cell] = len(c.Population) > 0
	}
	for _, c := range o.Cells {
		if told, ok := said[c.Cell]; !ok || !told && len(c.Population) > 0 {
			return true
		}
	}
	return false
}

// differs reports whether others must hear at once that a became b: something
// that is counted has changed, or a measured number by more than a tenth.
func differs(a, b record.RowOffer) bool {
	x, y := a.Capacity, b.Capacity
	if x.Room != y.Room || x.CPU != y.CPU || x.Memory != y.Memory || len(a.Cells) != len(b.Cells) || !bytes.Equal(a.Member, b.Member) ||
		far(x.CPUFree, y.CPUFree, x.CPU/10) || far(x.MemoryFree, y.MemoryFree, x.Memory/10) {
		return true
	}
	cells := make(map[identity.Cell]record.RowCell, len(a.Cells))
	for _, c := range a.Cells {
		cells[c.Cell] = c
	}
	for _, d := range b.Cells {
		c, ok := cells[d.Cell]
		if !ok || c.Code != d.Code || c.Epoch != d.Epoch || c.Seq != d.Seq || !bytes.Equal(c.Population, d.Population) ||
			far(c.Waiting, d.Waiting, 0) || replicasDiffer(c.Replicas, d.Replicas) {
			return true
		}
	}
	return false
}

// Changes of a replica's load that are noise however large a share they are.
const (
	noiseRate     = 1000 // thousandths of a request per second
	noiseInflight = 500  // thousandths of a request
	noiseCPU      = 50   // thousandths of the limit
)

func replicasDiffer(a, b []record.RowReplica) bool {
	if len(a) != len(b) {
		return true
	}
	byID := make(map[uint64]record.RowReplica, len(a))
	for _, r := range a {
		byID[r.ID] = r
	}
	for _, s := range b {
		r, ok := byID[s.ID]
		if !ok || r.State != s.State || r.Generation != s.Generation || far(r.Shed, s.Shed, 0) ||
			far(r.Offered, s.Offered, noiseRate) || far(r.Inflight, s.Inflight, noiseInflight) || far(r.CPU, s.CPU, noiseCPU) {
			return true
		}
	}
	return false
}

// far reports whether two numbers differ by more than noise and a tenth.
func far(a, b, noise uint32) bool {
	d := max(a, b) - min(a, b)
	return d > noise && float64(d) > moved*float64(max(a, b))
}
