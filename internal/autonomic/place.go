package autonomic

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
)

// maxOpen is how many vacancies are filled at once.
const maxOpen = 64

// failure is how often, and how lately, replicas failed on a host.
type failure struct {
	count int
	until time.Duration // no attempt before
	till  time.Duration // forgotten after
}

// Limits of a host's rest after failed starts: doubled each time, forgotten after
// as much quiet again.
const (
	firstRest = time.Second
	maxRest   = time.Minute
)

// noteFailures lets hosts rest on which newborn replicas died. Each rests for
// itself: a lie about failures harms only the liar.
func (m *Memory) noteFailures(b *body, now time.Duration) {
	kept := make(map[identity.Key]failure, len(m.failures))
	for host, f := range m.failures {
		if now < f.till {
			kept[host] = f
		}
	}
	for _, r := range b.dead {
		f := kept[r.Host]
		if r.State != Failed || m.mourned[r.place()] {
			continue
		}
		rest := min(firstRest<<min(f.count, 16), maxRest)
		kept[r.Host] = failure{count: f.count + 1, until: now + rest, till: now + rest + 2*maxRest}
	}
	m.failures = kept
}

// vacancies names the n births that are due. Numbers skipped since the cell was
// last at rest come first: somebody else's claim may arrive before its elder's.
func (m *Memory) vacancies(b *body, n int, now time.Duration) []uint64 {
	from := max(m.settled, b.top)
	if len(b.living) > 0 {
		from = max(m.settled, b.living[0].Generation)
	}
	var numbers []uint64
	open := make(map[uint64]time.Duration, n)
	for g := from + 1; len(numbers) < min(n, maxOpen); g++ {
		if b.used[g] {
			continue
		}
		since, known := m.open[g]
		if !known {
			since = now
		}
		open[g] = since
		numbers = append(numbers, g)
	}
	m.open = open
	return numbers
}

// candidate is a host that could take the next replica.
type candidate struct {
	key   identity.Key
	room  int
	count int  // replicas of this cell
	busy  bool // little CPU left
	score uint64
}

func (m *Memory) candidates(b *body, now time.Duration) []candidate {
	count := map[identity.Key]int{}
	for _, r := range b.living {
		count[r.Host]++
	}
	var all []candidate
	for _, h := range b.hosts {
		if h.HasCode && h.Room > 0 && now >= m.failures[h.Key].until {
			all = append(all, candidate{key: h.Key, room: h.Room, count: count[h.Key], busy: !(h.CPUFree >= 0.1)})
		}
	}
	return all
}

// order puts the owner of a vacancy first and the next in line behind it.
func order(all []candidate, cell identity.Cell, generation uint64) {
	for i := range all {
		all[i].score = score(cell, generation, all[i].key)
	}
	slices.SortFunc(all, func(x, y candidate) int {
		full := func(c candidate) int {
			switch {
			case c.room <= 0:
				return 2
			case c.busy:
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(full(x), full(y)), cmp.Compare(x.count, y.count),
			cmp.Compare(y.score, x.score), bytes.Compare(x.key[:], y.key[:]))
	})
}

// score is a host's draw for a vacancy, the same for everybody who looks.
func score(cell identity.Cell, generation uint64, host identity.Key) uint64 {
	buf := make([]byte, 0, 160)
	buf = append(buf, "cell/vacancy/1"...)
	buf = append(buf, cell.Author[:]...)
	buf = append(buf, byte(len(cell.Name)))
	buf = append(buf, cell.Name...)
	buf = binary.LittleEndian.AppendUint64(buf, generation)
	sum := sha256.Sum256(append(buf, host[:]...))
	return binary.LittleEndian.Uint64(sum[:])
}

// births assigns the n vacancies. Those of other hosts are in the list too: they
// are what this host expects to see.
func (m *Memory) births(p Policy, v View, b *body, n int, now time.Duration) []Action {
	var actions []Action
	all := m.candidates(b, now)
	for _, g := range m.vacancies(b, n, now) {
		order(all, v.Cell, g)
		if len(all) == 0 || all[0].room <= 0 {
			break
		}
		rank := slices.IndexFunc(all, func(c candidate) bool { return c.key == v.Self && c.room > 0 })
		taker := 0
		if rank > 0 && now-m.open[g] >= time.Duration(rank)*p.Turn {
			taker = rank
		} else {
			rank = 0
		}
		actions = append(actions, Action{Kind: Divide, Host: all[taker].key, Generation: g,
			Reason: Reason{Rule: RuleVacancy, Generation: g, Rank: rank, Candidates: len(all)}})
		all[taker].room--
		all[taker].count++
	}
	return actions
}
