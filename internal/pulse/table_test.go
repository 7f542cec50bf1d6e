package pulse

import (
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// quick makes a row without signing it: the table does not look.
func quick(i int, incarnation, sequence uint64, ttl time.Duration) record.Row {
	r := record.Row{Raw: append(make([]byte, 40), byte(i), byte(i>>8), byte(incarnation), byte(sequence))}
	r.Raw[0], r.Raw[1], r.Raw[2], r.Raw[3] = byte(i), byte(i>>8), byte(incarnation), byte(sequence)
	r.Signer = identity.Key{0: byte(i), 1: byte(i >> 8), 2: 1}
	r.Order, r.TTL = record.Order{Incarnation: incarnation, Sequence: sequence}, ttl
	return r
}

var someone, other = identity.Key{31: 1}, identity.Key{31: 2}

func TestTableKeepsTheNewest(t *testing.T) {
	tab, now := newTable(), time.Now()
	for _, c := range []struct {
		inc, seq uint64
		news     bool
	}{{5, 1, true}, {5, 1, false}, {5, 3, true}, {5, 2, false}, {6, 0, true}, {5, 9, false}} {
		if news, reason := tab.put(quick(1, c.inc, c.seq, time.Minute), 0, someone, false, now); news != c.news || reason != "" {
			t.Errorf("(%d, %d): news %v, %q", c.inc, c.seq, news, reason)
		}
	}
	for i := range uint64(10) {
		tab.put(quick(1, 7, i, time.Minute), 0, someone, false, now)
	}
	e := tab.nodes[quick(1, 0, 0, 0).Signer]
	if len(e.past) != history-1 || e.at(record.Order{Incarnation: 7, Sequence: 6}) == nil || e.at(record.Order{Incarnation: 7, Sequence: 5}) != nil {
		t.Errorf("keeps %d earlier rows", len(e.past))
	}
	if e.find(base(quick(1, 7, 7, 0).Raw)) == nil || e.find(base(quick(1, 7, 1, 0).Raw)) != nil {
		t.Error("earlier rows are not found by their first bytes")
	}
}

func TestTableForgets(t *testing.T) {
	tab, now := newTable(), time.Now()
	tab.put(quick(1, 1, 5, 10*time.Second), 4*time.Second, someone, false, now)
	tab.put(quick(2, 1, 5, 10*time.Second), 0, someone, false, now)
	tab.put(quick(3, 1, 5, 0), 0, someone, false, now)
	if news, _ := tab.put(quick(4, 1, 5, 10*time.Second), 10*time.Second, someone, false, now); news {
		t.Error("a row that is over is news")
	}
	if gone := tab.expire(now.Add(6 * time.Second)); len(gone) != 1 || gone[0] != quick(1, 0, 0, 0).Signer {
		t.Errorf("after 6 s: %d gone", len(gone))
	}
	tab.expire(now.Add(11 * time.Second))
	if len(tab.nodes) != 1 || len(tab.tags) != 1 || tab.brought[someone] != 1 || tab.relayed != 1 {
		t.Errorf("after 11 s: %d nodes, %d tags, %d brought, %d relayed; want the goodbye only", len(tab.nodes), len(tab.tags), tab.brought[someone], tab.relayed)
	}
	later := now.Add(20 * time.Second)
	if news, reason := tab.put(quick(1, 1, 4, time.Minute), 0, other, false, later); news || reason != ReasonOrder {
		t.Errorf("a replay after a node was forgotten: news %v, %q", news, reason)
	}
	if news, reason := tab.put(quick(1, 1, 5, time.Minute), 0, other, false, later); news || reason != "" {
		t.Errorf("the row itself after it was forgotten: news %v, %q", news, reason)
	}
	if news, _ := tab.put(quick(3, 1, 4, time.Minute), 0, other, false, later); news {
		t.Error("a node came back after its goodbye")
	}
	if news, _ := tab.put(quick(1, 1, 6, time.Minute), 0, other, false, later); !news {
		t.Error("a node cannot come back")
	}
}

// No neighbour can make a row live longer than from when it first came, and
// none can make it look older than the best word on it.
func TestTableAges(t *testing.T) {
	tab, now := newTable(), time.Now()
	r := quick(1, 1, 1, 10*time.Second)
	tab.put(r, 8*time.Second, someone, false, now)
	e := tab.nodes[r.Signer]
	tab.put(r, 0, other, false, now.Add(time.Second)) // as if signed after it first came
	if !e.signed.Equal(now) {
		t.Errorf("signed at %v after now, want 0", e.signed.Sub(now))
	}
	tab.put(r, 5*time.Second, someone, false, now.Add(9*time.Second))
	tab.put(r, 0, someone, false, now.Add(9*time.Second))
	if !e.signed.Equal(now) {
		t.Errorf("signed at %v after now, want 0", e.signed.Sub(now))
	}
}

func TestTableIsBounded(t *testing.T) {
	tab, now := newTable(), time.Now()
	for i := range 2 * MaxNodes {
		tab.put(quick(i, 1, 1, time.Minute), 0, someone, false, now)
	}
	if len(tab.nodes) != maxBrought {
		t.Errorf("%d nodes from one neighbour, want %d", len(tab.nodes), maxBrought)
	}
	for i := range 4 * MaxNodes {
		tab.put(quick(i, 1, 1, time.Minute), 0, identity.Key{byte(i / 100), 31: 9}, false, now)
	}
	if len(tab.nodes) != maxRelayed {
		t.Errorf("%d nodes that no link leads to, want %d", len(tab.nodes), maxRelayed)
	}
	for i := range 100 {
		r := quick(10_000+i, 1, 1, time.Minute)
		if news, reason := tab.put(r, 0, r.Signer, true, now); !news {
			t.Fatalf("a neighbour finds no room: %q", reason)
		}
	}
	for i := range 3 * maxFloor {
		r := quick(i%60000, 1, 1, time.Minute)
		r.Signer[3] = byte(i >> 16)
		tab.put(r, 0, r.Signer, true, now)
		if i%100 == 0 {
			now = now.Add(2 * time.Minute)
			tab.expire(now)
		}
	}
	if len(tab.nodes) > MaxNodes || len(tab.floor)+len(tab.oldFloor) > 2*(maxFloor+MaxNodes) {
		t.Errorf("%d nodes, floors of %d and %d", len(tab.nodes), len(tab.floor), len(tab.oldFloor))
	}
}

func TestPace(t *testing.T) {
	now := time.Now()
	p := pace{rate: 10, burst: 20, at: now}
	if p.spend(20, now) != 0 || p.spend(5, now) != 500*time.Millisecond {
		t.Error("wrong wait beyond the burst")
	}
	if wait := p.spend(5, now.Add(time.Second)); wait != 0 {
		t.Errorf("waits %v after a second", wait)
	}
}

func TestFar(t *testing.T) {
	for _, c := range []struct {
		a, b, noise uint32
		want        bool
	}{{0, 0, 0, false}, {0, 1, 0, true}, {100, 110, 0, false}, {100, 112, 0, true}, {112, 100, 0, true},
		{500, 1400, 1000, false}, {500, 1600, 1000, true}, {0, 1 << 31, 1000, true}} {
		if got := far(c.a, c.b, c.noise); got != c.want {
			t.Errorf("from %d to %d with noise of %d: told at once %v, want %v", c.a, c.b, c.noise, got, c.want)
		}
	}
}

func TestDiffers(t *testing.T) {
	base := offerOf(1)
	for name, c := range map[string]struct {
		change func(o *record.RowOffer, r *record.RowReplica)
		want   bool
	}{
		"nothing":          {func(*record.RowOffer, *record.RowReplica) {}, false},
		"5 % more load":    {func(_ *record.RowOffer, r *record.RowReplica) { r.Offered = 105_000 }, false},
		"15 % more load":   {func(_ *record.RowOffer, r *record.RowReplica) { r.Offered = 115_000 }, true},
		"15 % less load":   {func(_ *record.RowOffer, r *record.RowReplica) { r.Offered = 85_000 }, true},
		"first shed":       {func(_ *record.RowOffer, r *record.RowReplica) { r.Shed = 1 }, true},
		"noise in flight":  {func(_ *record.RowOffer, r *record.RowReplica) { r.Inflight = 4300 }, false},
		"more in flight":   {func(_ *record.RowOffer, r *record.RowReplica) { r.Inflight = 5000 }, true},
		"more CPU":         {func(_ *record.RowOffer, r *record.RowReplica) { r.CPU = 500 }, true},
		"slower":           {func(_ *record.RowOffer, r *record.RowReplica) { r.P99 = 90_000 }, false},
		"state":            {func(_ *record.RowOffer, r *record.RowReplica) { r.State = record.ReplicaDead }, true},
		"another replica":  {func(_ *record.RowOffer, r *record.RowReplica) { r.ID = 77 }, true},
		"generation":       {func(_ *record.RowOffer, r *record.RowReplica) { r.Generation++ }, true},
		"room":             {func(o *record.RowOffer, _ *record.RowReplica) { o.Capacity.Room-- }, true},
		"a little CPU":     {func(o *record.RowOffer, _ *record.RowReplica) { o.Capacity.CPUFree -= 500 }, false},
		"much CPU":         {func(o *record.RowOffer, _ *record.RowReplica) { o.Capacity.CPUFree -= 1000 }, true},
		"a caller waits":   {func(o *record.RowOffer, _ *record.RowReplica) { o.Cells[0].Waiting = 1 }, true},
		"a newer release":  {func(o *record.RowOffer, _ *record.RowReplica) { o.Cells[0].Seq++ }, true},
		"code":             {func(o *record.RowOffer, _ *record.RowReplica) { o.Cells[0].Code = false }, true},
		"a cell less":      {func(o *record.RowOffer, _ *record.RowReplica) { o.Cells = nil }, true},
		"a replica less":   {func(o *record.RowOffer, _ *record.RowReplica) { o.Cells[0].Replicas = o.Cells[0].Replicas[1:] }, true},
		"no membership":    {func(o *record.RowOffer, _ *record.RowReplica) { o.Member = nil }, true},
		"a population":     {func(o *record.RowOffer, _ *record.RowReplica) { o.Cells[0].Population = []byte{1} }, true},
		"another cell now": {func(o *record.RowOffer, _ *record.RowReplica) { o.Cells[0].Cell.Name = "ledger" }, true},
	} {
		o := offerOf(1)
		c.change(&o, &o.Cells[0].Replicas[0])
		if got := differs(base, o) && differs(o, base); got != c.want {
			t.Errorf("%s: told at once %v, want %v", name, got, c.want)
		}
	}
}
