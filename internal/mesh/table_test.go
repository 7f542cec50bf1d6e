package mesh

import (
	"fmt"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// tableFor returns an empty table of a node that measures round trips with rtt.
func tableFor(rtt func(identity.Key) (time.Duration, bool)) table {
	if rtt == nil {
		rtt = func(identity.Key) (time.Duration, bool) { return 0, false }
	}
	return newTable(new(record.Floor), rtt)
}

// names writes a table's view of one cell as node numbers in order of trial.
func view(tb *table, cell string, now time.Time, of map[identity.Key]int) string {
	s := ""
	for _, e := range tb.list(cellOf(cell), now) {
		s += fmt.Sprint(" ", of[e.Node])
		for _, a := range e.Addrs {
			s += "/" + string(a)
		}
	}
	return s
}

// TestTableMerges is a truth table: what one table says after each lease.
func TestTableMerges(t *testing.T) {
	of := map[identity.Key]int{}
	for i := range 10 {
		of[key(i).Public()] = i
	}
	start := time.Now()
	for _, script := range []struct {
		name  string
		steps []step
	}{
		{"a newer lease replaces", []step{
			{0, TierLAN, 2, 1, []func(*record.Offer){addrs("a")}, stored, " 2/a"},
			{1, TierLAN, 2, 2, []func(*record.Offer){addrs("b")}, stored, " 2/b"},
			{2, TierLAN, 2, 1, []func(*record.Offer){addrs("a")}, ordered, " 2/b"},
		}},
		{"tiers of one order join, the LAN's first", []step{
			{0, TierDHT, 2, 1, []func(*record.Offer){addrs("far", "both")}, stored, " 2/far/both"},
			{1, TierLAN, 2, 1, []func(*record.Offer){addrs("near", "both")}, merged, " 2/near/both/far"},
		}},
		{"the other tier's addresses stay until they lapse", []step{
			{0, TierLAN, 2, 1, []func(*record.Offer){addrs("near")}, stored, " 2/near"},
			{60, TierDHT, 2, 2, []func(*record.Offer){addrs("far")}, stored, " 2/near/far"},
			{119, TierDHT, 2, 3, []func(*record.Offer){addrs("far")}, stored, " 2/near/far"},
			{121, TierDHT, 2, 4, []func(*record.Offer){addrs("far")}, stored, " 2/far"},
		}},
		{"a tombstone withdraws and stays", []step{
			{0, TierLAN, 2, 1, nil, stored, " 2/node-2"},
			{1, TierDHT, 2, 2, []func(*record.Offer){tombstone}, gone, ""},
			{2, TierLAN, 2, 1, nil, ordered, ""},
			{3, TierLAN, 2, 3, nil, stored, " 2/node-2"},
		}},
		{"a late tombstone is nothing", []step{
			{0, TierLAN, 2, 5, nil, stored, " 2/node-2"},
			{1, TierDHT, 2, 4, []func(*record.Offer){tombstone}, ordered, " 2/node-2"},
			{2, TierDHT, 3, 4, []func(*record.Offer){tombstone}, gone, " 2/node-2"},
		}},
		{"a lapsed lease is not revived by its copy", []step{
			{0, TierLAN, 2, 1, nil, stored, " 2/node-2"},
			{119, TierDHT, 2, 1, nil, merged, " 2/node-2"}, // nor prolonged
			{120, TierLAN, 2, 1, nil, spent, ""},
			{200, TierLAN, 2, 1, nil, spent, ""},
			{201, TierLAN, 2, 2, nil, stored, " 2/node-2"},
		}},
		{"order of trial: alive, near, long known", []step{
			{0, TierDHT, 2, 1, nil, stored, " 2/node-2"},
			{1, TierLAN, 3, 1, []func(*record.Offer){draining}, stored, " 2/node-2 3/node-3"},
			{2, TierDHT, 4, 1, nil, stored, " 2/node-2 4/node-4 3/node-3"},
			{3, TierLAN, 5, 1, nil, stored, " 5/node-5 2/node-2 4/node-4 3/node-3"},
			{4, TierDHT, 2, 2, nil, stored, " 5/node-5 2/node-2 4/node-4 3/node-3"},
			{5, TierLAN, 3, 2, nil, stored, " 3/node-3 5/node-5 2/node-2 4/node-4"},
		}},
		{"a lease does not outlive its grant", []step{
			{0, TierLAN, 2, 1, []func(*record.Offer){func(o *record.Offer) {
				g, err := record.SignGrant(author, network, "", []record.Subject{{Kind: record.SubjectAny}}, start.Add(-record.MaxSkew), time.Minute)
				if err != nil {
					panic(err)
				}
				o.Grant = g.Raw
			}}, stored, " 2/node-2"},
			{60, "", 0, 0, nil, "", ""},
		}},
	} {
		t.Run(script.name, func(t *testing.T) {
			tb := tableFor(nil)
			for i, s := range script.steps {
				now := start.Add(s.at * time.Second)
				if s.node != 0 {
					l := lease(t, s.node, "greeter", s.sequence, append([]func(*record.Offer){func(o *record.Offer) { o.Issued = start }}, s.change...)...)
					if got := tb.admit(l, told{tier: s.tier}, now); got != s.verdict {
						t.Errorf("step %d: %s, want %s", i, got, s.verdict)
					}
				}
				if got := view(&tb, "greeter", now, of); got != s.view {
					t.Errorf("step %d: table says%s, want%s", i, got, s.view)
				}
			}
		})
	}
}

type step struct {
	at       time.Duration // seconds since the start
	tier     Tier
	node     int
	sequence uint64
	change   []func(*record.Offer)
	verdict  string
	view     string
}

func TestOneTierCannotCrowdOutTheOther(t *testing.T) {
	tb, now := tableFor(nil), time.Now()
	verdicts := map[string]int{}
	for i := range 100 {
		verdicts[tb.admit(lease(t, 100+i, "greeter", 1), told{tier: TierDHT}, now)]++
	}
	for i := range 100 {
		verdicts[tb.admit(lease(t, 300+i, "greeter", 1), told{tier: TierLAN}, now)]++
	}
	if n := len(tb.list(cellOf("greeter"), now)); n != maxPerName || verdicts[stored] != maxPerName {
		t.Errorf("%d endpoints, verdicts %v; want %d", n, verdicts, maxPerName)
	}
	lan := 0
	for _, e := range tb.list(cellOf("greeter"), now) {
		if e.Tier == TierLAN {
			lan++
		}
	}
	if lan != maxPerName-maxPerTier {
		t.Errorf("%d neighbours got in after a flood from the DHT, want %d", lan, maxPerName-maxPerTier)
	}
	// One that has been found dead makes room.
	tb.forget(cellOf("greeter"), key(100).Public(), now)
	if got := tb.admit(lease(t, 500, "greeter", 1), told{tier: TierDHT}, now); got != stored {
		t.Errorf("with a dead one to displace: %s, want %s", got, stored)
	}
}

func TestTableIsBounded(t *testing.T) {
	tb, now := tableFor(nil), time.Now()
	wanted := lease(t, 2, "wanted", 1)
	tb.ask(wanted.Cell)
	tb.admit(wanted, told{tier: TierLAN}, now)
	// One well-signed lease stands for many: the table does not verify.
	l := lease(t, 3, "flood", 1)
	for i := range maxPerNode + 100 {
		l.Cell.Name = identity.Name(fmt.Sprint("n", i))
		tb.admit(l, told{tier: TierLAN}, now)
	}
	if n := tb.heard.names.Len(); n != maxPerNode {
		t.Errorf("one node fills %d unasked places, want %d", n, maxPerNode)
	}
	var nodes []identity.Key
	for i := range 5 {
		nodes = append(nodes, key(1000+i).Public())
	}
	for i := range 3 * maxNames {
		l.Signer = nodes[i%len(nodes)]
		l.Cell.Name = identity.Name(fmt.Sprint("m", i))
		tb.admit(l, told{tier: TierLAN}, now)
	}
	if n, e := tb.heard.names.Len(), tb.heard.entries; n > maxNames || e > maxEntries {
		t.Errorf("%d names with %d leases on the shelf of the merely heard", n, e)
	}
	if len(tb.list(wanted.Cell, now)) != 1 {
		t.Error("a flood on the LAN displaced a cell that somebody uses")
	}
	for i := range 2 * maxNames {
		tb.ask(identity.Cell{Author: author.Public(), Name: identity.Name(fmt.Sprint("q", i))})
	}
	if n := tb.asked.names.Len(); n > maxNames {
		t.Errorf("%d names asked for are kept", n)
	}
	tb.sweep(now.Add(time.Hour))
	if tb.heard.names.Len() != 0 || tb.heard.entries != 0 || len(tb.unasked) != 0 || tb.asked.entries != 0 {
		t.Errorf("after an hour %d names, %d + %d leases, %d nodes are left",
			tb.heard.names.Len(), tb.heard.entries, tb.asked.entries, len(tb.unasked))
	}
}

// made is a lease as [record.OpenLease] would return it, without the time that signing takes.
func made(node identity.Key, cell identity.Cell, order, grant uint64, now time.Time) record.Lease {
	return record.Lease{
		Header: record.Header{Signer: node, Order: record.Order{Sequence: order}, Issued: now, TTL: record.MaxLeaseTTL},
		Cell:   cell, State: record.StateAlive,
		Grant: record.Grant{Header: record.Header{Signer: cell.Author, Order: record.Order{Incarnation: grant}, Issued: now, TTL: 24 * time.Hour}},
	}
}

// TestFloodDoesNotRollBack sends as many leases of a stranger's cells as a
// floor remembers: what was known of a cell that somebody asked for must stay.
func TestFloodDoesNotRollBack(t *testing.T) {
	tb, now := tableFor(nil), time.Now()
	early, late := cellOf("early"), cellOf("late")
	tb.ask(early)
	tb.admit(made(key(2).Public(), late, 7, 3, now), told{tier: TierLAN}, now) // heard first, asked for then
	tb.ask(late)
	tb.admit(made(key(2).Public(), early, 7, 3, now), told{tier: TierLAN}, now)
	stranger := key(9).Public()
	for i := range record.MaxFloor + 1 {
		tb.admit(made(stranger, identity.Cell{Author: stranger, Name: identity.Name(fmt.Sprint("n-", i))}, 1, 1, now), told{tier: TierLAN}, now)
	}
	for _, cell := range []identity.Cell{early, late} {
		if what := tb.admit(made(key(2).Public(), cell, 6, 3, now), told{tier: TierLAN}, now); what != ordered {
			t.Errorf("%s: an old lease is %s", cell.Name, what)
		}
		if what := tb.admit(made(key(3).Public(), cell, 1, 2, now), told{tier: TierLAN}, now); what != ordered {
			t.Errorf("%s: a lease under a revoked grant is %s", cell.Name, what)
		}
	}
}

// TestRevokedGrantEndsLeases shows a newer grant after a long lease under the old one.
func TestRevokedGrantEndsLeases(t *testing.T) {
	tb, now := tableFor(nil), time.Now()
	of := map[identity.Key]int{key(2).Public(): 2, key(3).Public(): 3}
	tb.ask(cellOf("greeter"))
	tb.admit(made(key(2).Public(), cellOf("greeter"), 1, 1, now), told{tier: TierLAN}, now)
	tb.admit(made(key(3).Public(), cellOf("other"), 1, 2, now), told{tier: TierLAN}, now) // the same grant, a newer one
	if got := view(&tb, "greeter", now, of); got != "" {
		t.Errorf("still served by%s", got)
	}
	tb.admit(made(key(2).Public(), cellOf("greeter"), 2, 2, now), told{tier: TierLAN}, now)
	if got := view(&tb, "greeter", now, of); got != " 2" {
		t.Errorf("served by%s", got)
	}
}
