package node

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/kad"
	"cell.network/cell/internal/record"
)

// entrances is what came of the ways into the network that the operator named:
// bootstrap addresses and signed hints.
type entrances struct {
	mu     sync.Mutex
	hints  map[hintSource]hinted // guarded by mu
	failed map[string]string     // what was last said to fail, and why; guarded by mu
}

// hinted is what came of reading a source of hints.
type hinted struct {
	at    time.Time
	hints record.Hints // that hold, maybe those of an earlier copy
	err   error
}

// news reports whether it is new that a way in fails for this reason, or is open
// again where reason is "".
func (e *entrances) news(way, reason string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	was := e.failed[way]
	if e.failed == nil {
		e.failed = make(map[string]string)
	}
	e.failed[way] = reason
	return was != reason
}

// entered takes in what came of a bootstrap address.
func (n *Node) entered(e kad.Entry) {
	reason := ""
	if e.Err != nil {
		reason = e.Err.Error()
	}
	if !n.entrances.news(e.Addr, reason) {
		return
	}
	if reason == "" {
		n.event(journal.Join, "", "", "bootstrap "+e.Addr+" answers again", nil)
		return
	}
	n.event(journal.Join, "", "", "bootstrap "+e.Addr+": "+reason, nil)
	if n.cfg.Settings.origins["bootstrap"] != "" { // the operator named it
		n.warn("bootstrap " + e.Addr + ": " + reason + "; it is tried again and again (see: cell doctor)")
	}
}

// hinted takes in what came of a source of hints.
func (n *Node) hinted(s hintSource, h record.Hints, err error) {
	reason := ""
	if err != nil {
		reason = err.Error()
	}
	n.entrances.mu.Lock()
	if n.entrances.hints == nil {
		n.entrances.hints = make(map[hintSource]hinted)
	}
	n.entrances.hints[s] = hinted{time.Now(), h, err}
	n.entrances.mu.Unlock()
	if n.entrances.news(s.String(), reason) && err != nil {
		n.event(journal.Refuse, "", "", "hints from "+s.at+": "+reason, nil)
		n.warn("spores " + s.at + ": " + reason + " (see: cell doctor)")
	}
}

// warn tells whoever started this node.
func (n *Node) warn(text string) {
	if n.cfg.Warn != nil {
		n.cfg.Warn(text)
	}
}

// entranceChecks say what came of each way into the network.
func (n *Node) entranceChecks() []Check {
	var checks []Check
	now := time.Now()
	for _, e := range n.kad.Entries() {
		c := Check{Name: "bootstrap", Status: CheckOK, Evidence: e.Addr + " is being dialled"}
		switch {
		case e.Err != nil:
			c.Status, c.Evidence = CheckWarn, fmt.Sprintf("%s: %v, tried %s", e.Addr, e.Err, ago(now.Sub(e.Tried)))
			if !e.Met.IsZero() {
				c.Evidence += ", answered last " + ago(now.Sub(e.Met))
			}
			c.Remedy = "see that a node of the network " + string(n.net) + " is up there and UDP gets to it; the address that it says at its start, as listen, is the one to name: cell up --bootstrap ADDRESS"
			if n.cfg.Settings.origins["bootstrap"] == "" && n.kad.Size() > 0 {
				c.Status = CheckOK // nobody named it, and it is not needed
			}
		case !e.Tried.IsZero():
			c.Evidence = e.Addr + " answered " + ago(now.Sub(e.Met))
		}
		checks = append(checks, c)
	}
	for _, text := range n.cfg.Settings.Spores {
		s, err := parseHintSource(text)
		if err != nil {
			continue // the settings were checked
		}
		n.entrances.mu.Lock()
		h, read := n.entrances.hints[s]
		n.entrances.mu.Unlock()
		c := Check{Name: "spores", Status: CheckOK, Evidence: s.at + " is being read"}
		if read {
			c.Evidence = fmt.Sprintf("%s: %d addresses signed by %s, good until %s", s.at, len(h.hints.Peers), s.signer.Short(), h.hints.Expires.Format(time.DateOnly))
		}
		if h.err != nil {
			c.Status, c.Evidence, c.Remedy = CheckWarn, fmt.Sprintf("%s: %v, read %s", s.at, h.err, ago(now.Sub(h.at))), s.remedy(h.err)
			if len(h.hints.Peers) > 0 {
				c.Evidence += fmt.Sprintf("; a copy of %s serves", h.hints.Issued.Format(time.DateOnly))
			}
		}
		checks = append(checks, c)
	}
	return checks
}

// remedy says what to do about a source of hints that is of no use.
func (s hintSource) remedy(err error) string {
	switch {
	case errors.Is(err, record.ErrSignature):
		return "name the key of who signed it: PATH#KEY; cell hints prints it"
	case errors.Is(err, record.ErrStale), errors.Is(err, record.ErrOrder):
		return "have it made anew: cell hints >spores.json, on a node of the network"
	case errors.Is(err, fs.ErrNotExist):
		return "put the file there, or name another: --spores PATH#KEY, https://…#KEY or http://…#KEY; it is made by: cell hints >spores.json"
	case s.remote():
		return "see that " + s.at + " can be read from here and is what cell hints printed"
	}
	return "see that it is what cell hints printed, for the network that this node is in"
}

func ago(d time.Duration) string { return d.Round(time.Second).String() + " ago" }

// held says how a choice can be changed that something goes before: a variable
// or a flag, that `cell config set` does not change.
func (s Settings) held(key string) string {
	origin := s.origins[key]
	if name, ok := strings.CutPrefix(origin, "env "); ok {
		return "; but " + name + " is set, which goes before: unset it"
	}
	if name, ok := strings.CutPrefix(origin, "flag "); ok {
		return "; but this node was started with " + name + ", which goes before"
	}
	return ""
}

// heed adds to a remedy that names a setting what goes before that.
func (s Settings) heed(remedy string) string {
	for _, word := range []string{"cell config set ", "cell config unset "} {
		_, rest, found := strings.Cut(remedy, word)
		if !found {
			continue
		}
		key, _, _ := strings.Cut(rest, " ")
		return remedy + s.held(strings.TrimRight(key, ",;"))
	}
	return remedy
}
