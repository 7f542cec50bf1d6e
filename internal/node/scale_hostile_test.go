package node

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cell.network/cell/internal/autonomic"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/pulse"
	"cell.network/cell/internal/record"
)

func grantedNode(t *testing.T) (*Node, KeyRing) {
	k := ring(7)
	n := newMachine(t, &k)
	return n, k
}

// A node takes no more than its row holds, however its cells share that.
func TestRowHoldsWhatRuns(t *testing.T) {
	k := ring(7)
	n := &Node{net: "lab", self: k.Node.Public(), known: make(chan struct{})}
	m, err := record.SignMember(k.Colony, n.net.ID(), k.Node.Public(), time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	busy := vitals{offered: 150, inflight: 3, p99: 40 * time.Millisecond, cpu: 0.4, memory: 60 << 20}
	for _, per := range []int{1, 2, 3, 4, 8, maxHostedCell} {
		n.services = make(map[identity.Cell]*service)
		n.certs.Member = &m
		hosted := 0
		for n.roomLocked() > 0 {
			if hosted%per == 0 {
				n.service(identity.Cell{Author: k.Author.Public(), Name: identity.Name(fmt.Sprintf("service-%d", hosted))})
			}
			for _, s := range n.services {
				if len(s.replicas) < per {
					hosted++
					s.replicas = append(s.replicas, &replica{number: uint64(300 + hosted), generation: uint64(100 + hosted), state: ReplicaAlive, vitals: busy})
					break
				}
			}
			o := n.row()
			o.Order, o.Issued, o.TTL = record.Order{Incarnation: uint64(time.Now().UnixMilli()), Sequence: 70000}, time.Now(), 10*time.Second
			r, err := record.SignRow(k.Node, n.net.ID(), o)
			if err != nil {
				t.Fatalf("%d replicas, %d of a cell: %v", hosted, per, err)
			}
			told := 0
			for _, c := range r.Cells {
				told += len(c.Replicas)
			}
			if told != hosted {
				t.Fatalf("the row tells of %d of %d replicas, %d of a cell", told, hosted, per)
			}
		}
		if t.Logf("%d replicas, %d of a cell", hosted, per); hosted < 12 {
			t.Errorf("room for %d replicas only, %d of a cell", hosted, per)
		}
	}
}

func words(t *testing.T, k KeyRing, cells int, stopped bool) []record.Population {
	var out []record.Population
	for i := range cells {
		p, err := record.SignPopulation(k.Author, identity.Network("lab").ID(), record.PopulationOffer{
			Cell: identity.Cell{Author: k.Author.Public(), Name: identity.Name(fmt.Sprintf("service-%02d", i))}, Stopped: stopped,
			Order: record.Order{Incarnation: uint64(time.Now().UnixMilli()), Sequence: 1}, Issued: time.Now(), TTL: CertTTL})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

// Of many stopped cells each has its turn in the row.
func TestEveryStopIsTold(t *testing.T) {
	t.Parallel()
	n, k := grantedNode(t)
	for _, p := range words(t, k, 12, true) {
		n.setPopulation(n.service(p.Cell), p)
	}
	told := map[identity.Name]bool{}
	for end := time.Now().Add(7 * time.Second); time.Now().Before(end) && len(told) < 12; time.Sleep(50 * time.Millisecond) {
		for _, c := range n.pulse.Own().Cells {
			if len(c.Population) > 0 {
				told[c.Cell.Name] = true
			}
		}
	}
	if len(told) < 12 {
		t.Errorf("of 12 stopped cells, rows ever told of %d", len(told))
	}
}

// A word from an operator whose clock is ahead counts as soon as it holds.
func TestRefusedForATime(t *testing.T) {
	n, k := grantedNode(t)
	cell := identity.Cell{Author: k.Author.Public(), Name: "greeter"}
	s := n.service(cell)
	p, err := record.SignPopulation(k.Author, n.net.ID(), record.PopulationOffer{Cell: cell, Stopped: true,
		Order: record.Order{Incarnation: 9, Sequence: 1}, Issued: time.Now().Add(record.MaxSkew + 500*time.Millisecond), TTL: CertTTL})
	if err != nil {
		t.Fatal(err)
	}
	n.hearPopulation(cell, p.Raw)
	time.Sleep(time.Second)
	if _, err := record.OpenPopulation(p.Raw, n.net.ID(), time.Now()); err != nil {
		t.Fatal(err)
	}
	n.hearPopulation(cell, p.Raw)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !s.population.Stopped {
		t.Error("the word holds now, and is still not obeyed: s.refused")
	}
}

// Of two words at once the newer one is on disk.
func TestNewestWordOnDisk(t *testing.T) {
	n, k := grantedNode(t)
	cell := identity.Cell{Author: k.Author.Public(), Name: "greeter"}
	s := n.service(cell)
	bad := 0
	const rounds = 300
	for i := range rounds {
		sign := func(seq uint64, stopped bool) record.Population {
			p, err := record.SignPopulation(k.Author, n.net.ID(), record.PopulationOffer{Cell: cell, Stopped: stopped,
				Order: record.Order{Incarnation: uint64(i + 1), Sequence: seq}, Issued: time.Now(), TTL: CertTTL})
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		a, b := sign(1, false), sign(2, true)
		done := make(chan struct{}, 2)
		go func() { n.setPopulation(s, a); done <- struct{}{} }()
		go func() { n.setPopulation(s, b); done <- struct{}{} }()
		<-done
		<-done
		raw, err := os.ReadFile(filepath.Join(n.cellDir(cell), populationFile))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(raw, b.Raw) {
			bad++
		}
	}
	if bad > 0 {
		t.Errorf("in %d of %d rounds the older word was left on disk", bad, rounds)
	}
}

// However many strangers seed a cell, its hosts stay partners.
func TestStrangersCutNobodyOff(t *testing.T) {
	n, k := grantedNode(t)
	cell := identity.Cell{Author: k.Author.Public(), Name: "greeter"}
	n.service(cell)
	n.mu.Lock()
	grant, _, err := n.certs.For(cell, n.self)
	n.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	addr := []byte{4, 127, 0, 0, 1, 0x91, 0x02, 0x0f, 0xa1, 0xcd, 0x03}
	honest := map[identity.Key]bool{}
	for range 5 {
		key := identity.NewPrivate()
		m, err := record.SignMember(k.Colony, n.net.ID(), key.Public(), time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		l, err := record.SignLease(key, n.net.ID(), record.Offer{Cell: cell, State: record.StateAlive, Addrs: [][]byte{addr}, Grant: grant, Member: m.Raw,
			Order: record.Order{Incarnation: 1, Sequence: 1}, Issued: time.Now(), TTL: 2 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		honest[key.Public()] = true
		n.mesh.Heard(l)
	}
	count := func() (h, s int) {
		for i, p := range n.partners() {
			if i >= pulse.MaxTargets {
				break
			}
			if honest[p.Node] {
				h++
			} else {
				s++
			}
		}
		return h, s
	}
	h, s := count()
	t.Logf("before: %d honest, %d strangers", h, s)
	made := 0
	for made < 40 {
		key := identity.NewPrivate()
		if key.Public()[0] > 4 { // ground in milliseconds
			continue
		}
		made++
		sp := record.Spore{Cell: cell, Seq: 1, Raw: []byte("anything")}
		seed, err := record.SignSeed(key, n.net.ID(), record.SeedOffer{Spore: sp, Addrs: [][]byte{addr}, Order: record.Order{Incarnation: 1, Sequence: 1}, Issued: time.Now(), TTL: 2 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		n.mesh.Heard(seed.Lease())
	}
	if h, s = count(); h < 5 {
		t.Errorf("after 40 strangers said that they seed: %d honest partners, %d strangers", h, s)
	}
}

// Where nobody has the code, a request is not held.
func TestHoldForNothing(t *testing.T) {
	n, k := grantedNode(t)
	for _, p := range words(t, k, 1, true) {
		n.setPopulation(n.service(p.Cell), p) // stopped: nobody will start it
		begin := time.Now()
		n.hold(context.Background(), p.Cell, new(time.Time))
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("held for %v although the cell is stopped", took)
		}
	}
}

// No more than maxHostedCell replicas of one cell are begun.
func TestNotTooManyOfOneCell(t *testing.T) {
	n, k := grantedNode(t)
	cell := identity.Cell{Author: k.Author.Public(), Name: "greeter"}
	s := n.service(cell)
	n.mu.Lock()
	n.machine = Machine{Cores: 16, CPUFree: 1, Memory: 64 << 30, MemoryFree: 64 << 30}
	s.deploy = &deployment{manifest: Manifest{Scaling: ScalingSection{MinReplicas: 48, MaxReplicas: 48, InflightTarget: 16, CPUTarget: 60, ScaleUpThreshold: 80, ScaleDownThreshold: 30}}}
	defer n.mu.Unlock()
	var mem autonomic.Memory
	own := 0
	for now := time.Duration(0); now < 4*time.Second; now += 500 * time.Millisecond {
		var d autonomic.Decision
		d, mem = autonomic.Decide(s.policy(), n.viewLocked(s, nil), mem, now)
		for _, a := range d.Actions {
			if a.Kind == autonomic.Divide && a.Host == n.self {
				own++
				n.nextID++
				s.claims = append(s.claims, &claim{number: n.nextID, generation: a.Generation, cancel: func() {}})
			}
		}
	}
	c, _ := n.rowCellLocked(s)
	if len(s.claims) > maxHostedCell {
		t.Errorf("%d replicas of one cell begun, %d are allowed; the row tells of %d", len(s.claims), maxHostedCell, len(c.Replicas))
	}
	s.claims = nil
}

// Junk in place of a population makes no stranger's row wanted.
func TestJunkIsUnwanted(t *testing.T) {
	n, k := grantedNode(t)
	cell := identity.Cell{Author: k.Author.Public(), Name: "greeter"}
	n.service(cell)
	got := 0
	for i := range 300 {
		r, err := record.SignRow(identity.NewPrivate(), n.net.ID(), record.RowOffer{Cells: []record.RowCell{{Cell: cell, Population: []byte{byte(i)}}},
			Order: record.Order{Incarnation: 1, Sequence: 1}, Issued: time.Now(), TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		n.pulse.Hear(r.Raw)
		got = len(n.pulse.Rows())
	}
	if got > 0 {
		t.Errorf("rows of %d strangers are held, who may serve nothing", got)
	}
}

// The longest manifest that is allowed is taken up again.
func TestLongDeployment(t *testing.T) {
	n, k := grantedNode(t)
	cell := identity.Cell{Author: k.Author.Public(), Name: "greeter"}
	s := n.service(cell)
	text := "[cell]\nname = \"greeter\"\n# " + string(bytes.Repeat([]byte("<"), 30<<10)) + "\n"
	if _, err := ParseManifest("x", []byte(text)); err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	s.deploy = &deployment{text: text, dir: "/", program: "/bin/true"}
	n.mu.Unlock()
	if err := n.keepDeployment(s); err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	s.deploy = nil
	n.mu.Unlock()
	if err := n.restoreCell(context.Background(), cell); err != nil {
		t.Error(err)
	}
}

// A start that a drained node refuses undoes no stop.
func TestRunOnDrainedNode(t *testing.T) {
	n, k := grantedNode(t)
	p := words(t, k, 1, true)[0]
	s := n.service(p.Cell)
	if _, err := n.setPopulation(s, p); err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.drained = true
	n.mu.Unlock()
	if _, err := n.claimNext(s, &deployment{}); err == nil {
		t.Fatal("claimed")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !s.population.Stopped {
		t.Error("a start that was refused has undone the stop")
	}
}
