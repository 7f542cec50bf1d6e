package node

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/record"
)

// How often refusals of one kind and reason, and doubts about the clock, enter
// the journal: a flooder must not be able to fill it. All are counted.
const (
	refusalEvery = time.Minute
	clockEvery   = time.Hour
)

// Words for what clocks that differ bring about, in all tiers.
var (
	tooNew = []string{"clock"}
	tooOld = []string{"stale", "expired"}
)

// refusals counts what peers sent and this node did not believe.
type refusals struct {
	mu      sync.Mutex
	count   map[string]uint64    // by "tier reason" or "cell needs"; guarded by mu
	told    map[string]time.Time // guarded by mu
	doubted time.Time            // when the clock was last doubted in the journal; guarded by mu

	lost    uint64 // journal lines that could not be written; guarded by mu
	lostWhy error  // of the last line that was lost; guarded by mu
	failing bool   // the last line could not be written; guarded by mu
}

// countLocked counts a refusal; tell says that it is the first of its sort in a while.
func (r *refusals) countLocked(key string, now time.Time) (total uint64, tell bool) {
	if r.count == nil {
		r.count, r.told = make(map[string]uint64), make(map[string]time.Time)
	}
	r.count[key]++
	last, said := r.told[key]
	if tell = !said || now.Sub(last) >= refusalEvery; tell {
		r.told[key] = now
	}
	return r.count[key], tell
}

// refuseReplica counts that a replica asked for what it may not have, and
// journals the first time in a while.
func (n *Node) refuseReplica(from identity.Cell, target string) {
	n.refused.mu.Lock()
	total, tell := n.refused.countLocked(string(from.Name)+" needs", time.Now())
	n.refused.mu.Unlock()
	if tell {
		n.event(journal.Refuse, "", from.String(), "a replica asked for a cell that it does not need", map[string]any{"target": clipText(target), "total": total})
	}
}

// refuse counts a refusal and journals the first of its sort in a while.
func (n *Node) refuse(kind journal.Kind, tier, reason string) {
	now := time.Now()
	n.refused.mu.Lock()
	total, tell := n.refused.countLocked(tier+" "+reason, now)
	doubt := (slices.Contains(tooNew, reason) || slices.Contains(tooOld, reason)) &&
		(n.refused.doubted.IsZero() || now.Sub(n.refused.doubted) >= clockEvery)
	if doubt {
		n.refused.doubted = now
	}
	n.refused.mu.Unlock()
	var id string
	if tell {
		id = n.event(kind, "", "", fmt.Sprintf("refused: %s (%s tier)", reason, tier), map[string]any{"tier": tier, "reason": reason, "total": total})
	}
	switch {
	case doubt && slices.Contains(tooNew, reason):
		n.event(journal.Clock, id, "", "a record comes from the future: this machine's clock or the sender's is wrong by more than "+record.MaxSkew.String(), nil)
	case doubt:
		n.event(journal.Clock, id, "", "a record expired more than "+record.MaxSkew.String()+" ago: this machine's clock or the sender's is wrong, or it was replayed", nil)
	}
}

// journal remembers whether the last line could be written.
func (r *refusals) journal(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failing = err != nil
	if err != nil {
		r.lost++
		r.lostWhy = err
	}
}

// Checks are what the node finds about itself, for `cell doctor`.
func (n *Node) Checks() []Check {
	st := n.Status()
	checks := append([]Check{n.lanCheck(st), n.dhtCheck(st)}, n.entranceChecks()...)
	checks = append(checks, n.reachChecks()...)
	for i, c := range checks {
		checks[i].Remedy = n.cfg.Settings.heed(c.Remedy)
	}
	n.refused.mu.Lock()
	defer n.refused.mu.Unlock()
	clock := Check{Name: "clock", Status: CheckOK, Evidence: "no record was refused because of the time"}
	future, stale := n.refused.sumLocked(tooNew), n.refused.sumLocked(tooOld)
	if future+stale > 0 {
		clock.Status = CheckWarn
		clock.Evidence = fmt.Sprintf("%d records came from the future, %d had expired; clocks may differ by %v", future, stale, record.MaxSkew)
		clock.Remedy = "compare this machine's clock with another's: date -u; then let NTP set it"
	}
	lines := Check{Name: "journal", Status: CheckOK, Evidence: fmt.Sprintf("%d events written", n.journal.Last())}
	if n.refused.lost > 0 {
		lines = Check{Name: "journal", Status: CheckWarn, Evidence: fmt.Sprintf("%d events could not be written, later ones could: %v", n.refused.lost, n.refused.lostWhy), Remedy: "keep room on the disk of " + n.cfg.Home.State}
		if n.refused.failing {
			lines.Status, lines.Remedy = CheckFail, "make room on the disk of "+n.cfg.Home.State
			lines.Evidence = fmt.Sprintf("%d events could not be written: %v", n.refused.lost, n.refused.lostWhy)
		}
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

func (r *refusals) sumLocked(reasons []string) (sum uint64) {
	for k, v := range r.count {
		if _, reason, _ := strings.Cut(k, " "); slices.Contains(reasons, reason) {
			sum += v
		}
	}
	return sum
}

func (n *Node) lanCheck(st Status) Check {
	switch {
	case n.cfg.Settings.Only:
		return Check{Name: "lan", Status: CheckOK, Evidence: "switched off: a node that only lets others in is named by address"}
	case n.cfg.Bus == nil:
		return Check{Name: "lan", Status: CheckWarn, Evidence: "switched off", Remedy: "cell config set lan.enabled true"}
	case !st.LAN.OK:
		return Check{Name: "lan", Status: CheckWarn, Evidence: st.LAN.Note, Remedy: "let UDP multicast through, or name neighbours: cell config set lan.directed HOST:PORT"}
	}
	return Check{Name: "lan", Status: CheckOK, Evidence: "announcing on " + strings.Join(st.LAN.Interfaces, ", ")}
}

func (n *Node) dhtCheck(st Status) Check {
	if st.DHT.Size == 0 {
		c := Check{Name: "dht", Status: CheckWarn, Evidence: "no other node known, so only the local network is searched", Remedy: "name a node that is up: cell up --bootstrap ADDRESS"}
		if n.cfg.Bus == nil {
			c.Evidence = "no other node known, and the local network is switched off: nobody else's cells can be found"
		}
		return c
	}
	return Check{Name: "dht", Status: CheckOK, Evidence: fmt.Sprintf("%d nodes in the routing table, mode %s", st.DHT.Size, st.Mode)}
}
