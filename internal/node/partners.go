package node

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/pulse"
	"cell.network/cell/internal/record"
)

// Whom a node exchanges rows with.
const (
	maxPartners  = 64             // that are remembered
	maxStrangers = 8              // that only seed a cell: for that they need nobody's leave
	partnerLife  = 24 * time.Hour // without a sign of it, while this node is up
	partnersFile = "partners.json"
)

// partner is a node that may serve a cell which this node knows, and said so.
// It is remembered though it serves nothing now: the operator's word must reach
// hosts that sleep, and those that were away.
type partner struct {
	addrs [][]byte // binary multiaddrs
	seen  time.Time
}

// savedPartner is a partner as it lies on disk.
type savedPartner struct {
	Node  identity.Key `json:"node"`
	Addrs [][]byte     `json:"addrs"`
}

// partners returns the nodes to exchange rows with: first those that may serve
// a cell which is known here, then a few that seed one.
func (n *Node) partners() []pulse.Target {
	rows := n.pulse.Rows()
	known := n.mesh.Known()
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for _, seen := range rows {
		if node := seen.Row.Node(); n.sharesLocked(seen.Row, now) {
			p := n.partnersKnown[node]
			p.seen = now
			if len(p.addrs) == 0 {
				p.addrs = n.remoteAddrs(node)
			}
			n.rememberLocked(node, p)
		}
	}
	var strangers []pulse.Target
	for _, ep := range known {
		switch cell := ep.Lease.Cell; {
		case ep.Node == n.self:
		case n.services[cell] != nil: // its lease carries the author's grant
			n.rememberLocked(ep.Node, partner{addrs: ep.Addrs, seen: now})
		case n.seedsKnownLocked(cell):
			strangers = append(strangers, pulse.Target{Node: ep.Node, Addrs: ep.Addrs})
		}
	}
	var out []pulse.Target
	for node, p := range n.partnersKnown {
		if now.Sub(p.seen) > partnerLife {
			delete(n.partnersKnown, node)
			continue
		}
		out = append(out, pulse.Target{Node: node, Addrs: p.addrs})
	}
	out = slices.DeleteFunc(out, func(t pulse.Target) bool { return len(t.Addrs) == 0 })
	n.shuffle(out)
	n.shuffle(strangers)
	strangers = slices.DeleteFunc(strangers, func(t pulse.Target) bool { return len(n.partnersKnown[t.Node].addrs) > 0 })
	strangers = strangers[:min(len(strangers), maxStrangers)]
	out = out[:min(len(out), pulse.MaxTargets-len(strangers))]
	return append(out, strangers...)
}

// shuffle orders nodes in a way that is this node's own: nobody can choose a
// key that comes first everywhere.
func (n *Node) shuffle(targets []pulse.Target) {
	draw := func(t pulse.Target) [sha256.Size]byte {
		return sha256.Sum256(append(slices.Clone(n.self[:]), t.Node[:]...))
	}
	slices.SortFunc(targets, func(a, b pulse.Target) int {
		x, y := draw(a), draw(b)
		return bytes.Compare(x[:], y[:])
	})
}

func (n *Node) rememberLocked(node identity.Key, p partner) {
	if _, known := n.partnersKnown[node]; !known && len(n.partnersKnown) >= maxPartners {
		oldest, at := identity.Key{}, p.seen
		for k, q := range n.partnersKnown {
			if q.seen.Before(at) {
				oldest, at = k, q.seen
			}
		}
		if oldest.IsZero() {
			return // all of them are as lively
		}
		delete(n.partnersKnown, oldest)
	}
	n.partnersKnown[node] = p
}

// sharesLocked reports whether a row's node may serve a cell that is known here.
func (n *Node) sharesLocked(row record.Row, now time.Time) bool {
	return slices.ContainsFunc(row.Cells, func(c record.RowCell) bool {
		return n.services[c.Cell] != nil && n.countsLocked(row, c.Cell, now)
	})
}

func (n *Node) seedsKnownLocked(topic identity.Cell) bool {
	for cell := range n.services {
		if cell.Seeds() == topic {
			return true
		}
	}
	return false
}

// remoteAddrs returns where a connected node is.
func (n *Node) remoteAddrs(node identity.Key) (addrs [][]byte) {
	id, err := host.PeerID(node)
	if err != nil {
		return nil
	}
	for _, c := range n.host.Network().ConnsToPeer(id) {
		if !c.Stat().Limited {
			addrs = append(addrs, c.RemoteMultiaddr().Bytes())
		}
	}
	return addrs[:min(len(addrs), record.MaxAddrs)]
}

// keepPartners writes them down for the next life of this node, where they have changed.
func (n *Node) keepPartners() error {
	n.mu.Lock()
	var all []savedPartner
	for _, node := range slices.SortedFunc(maps.Keys(n.partnersKnown), func(a, b identity.Key) int { return strings.Compare(a.String(), b.String()) }) {
		all = append(all, savedPartner{node, n.partnersKnown[node].addrs})
	}
	n.mu.Unlock()
	b, err := json.Marshal(all)
	if err != nil || bytes.Equal(b, n.partnersKept) || len(all) == 0 {
		return err
	}
	if err := replaceFile(filepath.Join(n.cfg.Home.State, partnersFile), b); err != nil {
		return fmt.Errorf("keep partners: %w", err)
	}
	n.partnersKept = b
	return nil
}

// loadPartners reads what an earlier life wrote.
func (n *Node) loadPartners() error {
	b, err := os.ReadFile(filepath.Join(n.cfg.Home.State, partnersFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var all []savedPartner
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return fmt.Errorf("read partners: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range all[:min(len(all), maxPartners)] {
		n.partnersKnown[p.Node] = partner{addrs: p.Addrs[:min(len(p.Addrs), 2*record.MaxAddrs)], seen: time.Now()}
	}
	return nil
}
