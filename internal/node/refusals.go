package node

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/record"
)

// refusalEvery is how often refusals of one kind and reason enter the journal:
// a flooder must not be able to fill it. All are counted.
const refusalEvery = time.Minute

// refusals counts what peers sent and this node did not believe.
type refusals struct {
	mu      sync.Mutex
	count   map[string]uint64    // by "tier reason"; guarded by mu
	told    map[string]time.Time // guarded by mu
	lost    uint64               // journal lines that could not be written; guarded by mu
	lostWhy error                // guarded by mu
}

// refuse counts a refusal and journals the first of its sort in a while.
func (n *Node) refuse(kind journal.Kind, tier, reason string) {
	key := tier + " " + reason
	now := time.Now()
	n.refused.mu.Lock()
	if n.refused.count == nil {
		n.refused.count, n.refused.told = make(map[string]uint64), make(map[string]time.Time)
	}
	n.refused.count[key]++
	total := n.refused.count[key]
	last, said := n.refused.told[key]
	tell := !said || now.Sub(last) >= refusalEvery
	if tell {
		n.refused.told[key] = now
	}
	n.refused.mu.Unlock()
	if !tell {
		return
	}
	n.event(kind, "", "", fmt.Sprintf("refused: %s (%s tier)", reason, tier), map[string]any{"tier": tier, "reason": reason, "total": total})
	if reason == record.Reason(record.ErrClock) {
		n.event(journal.Clock, "", "", "records come from the future: this machine's clock or the sender's is wrong by more than "+record.MaxSkew.String(), nil)
	}
}

// journal remembers that a line could not be written.
func (r *refusals) journal(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost++
	r.lostWhy = err
}

// Checks are what the node finds about itself, for `cell doctor`.
func (n *Node) Checks() []Check {
	st := n.Status()
	checks := []Check{n.lanCheck(st), dhtCheck(st)}
	n.refused.mu.Lock()
	defer n.refused.mu.Unlock()
	clock := Check{Name: "clock", Status: CheckOK, Evidence: "no record was refused because of the time"}
	future, stale := n.refused.sumLocked("clock"), n.refused.sumLocked("stale")
	if future+stale > 0 {
		clock.Status = CheckWarn
		clock.Evidence = fmt.Sprintf("%d records came from the future, %d had expired; clocks may differ by %v", future, stale, record.MaxSkew)
		clock.Remedy = "compare this machine's clock with another's: date -u; then let NTP set it"
	}
	lines := Check{Name: "journal", Status: CheckOK, Evidence: fmt.Sprintf("%d events written", n.journal.Last())}
	if n.refused.lost > 0 {
		lines = Check{Name: "journal", Status: CheckFail, Evidence: fmt.Sprintf("%d events could not be written: %v", n.refused.lost, n.refused.lostWhy), Remedy: "make room on the disk of " + n.cfg.Home.State}
	}
	refused := Check{Name: "refused", Status: CheckOK, Evidence: "nothing was refused"}
	if len(n.refused.count) > 0 {
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(n.refused.count)) {
			parts = append(parts, fmt.Sprintf("%s %d", k, n.refused.count[k]))
		}
		refused.Evidence = strings.Join(parts, ", ")
	}
	return append(checks, clock, lines, refused)
}

func (r *refusals) sumLocked(reason string) (sum uint64) {
	for k, v := range r.count {
		if strings.HasSuffix(k, " "+reason) {
			sum += v
		}
	}
	return sum
}

func (n *Node) lanCheck(st Status) Check {
	switch {
	case n.cfg.Bus == nil:
		return Check{Name: "lan", Status: CheckWarn, Evidence: "switched off: " + st.LAN.Note, Remedy: "cell config set lan.enabled true"}
	case !st.LAN.OK:
		return Check{Name: "lan", Status: CheckWarn, Evidence: st.LAN.Note, Remedy: "let UDP multicast through, or name neighbours: cell config set lan.directed HOST:PORT"}
	}
	return Check{Name: "lan", Status: CheckOK, Evidence: "announcing on " + strings.Join(st.LAN.Interfaces, ", ")}
}

func dhtCheck(st Status) Check {
	if st.DHT.Size == 0 {
		return Check{Name: "dht", Status: CheckWarn, Evidence: "no other node known, so only the local network is searched", Remedy: "name a node that is up: cell up --bootstrap ADDRESS"}
	}
	return Check{Name: "dht", Status: CheckOK, Evidence: fmt.Sprintf("%d nodes in the routing table, mode %s", st.DHT.Size, st.Mode)}
}
