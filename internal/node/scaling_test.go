package node

import (
	"testing"
	"time"

	"cell.network/cell/internal/autonomic"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// settled is what a host wants of a cell with this [scaling], after it has
// seen n replicas that report load for a while.
func settled(t *testing.T, scaling string, n int, load autonomic.Replica, while time.Duration) autonomic.Decision {
	t.Helper()
	m, err := ParseManifest(ManifestFile, []byte("[cell]\nname = \"greeter\"\n[scaling]\n"+scaling))
	if err != nil {
		t.Fatal(err)
	}
	s := &service{deploy: &deployment{manifest: m}}
	v := autonomic.View{Self: identity.Key{1}, Hosts: []autonomic.Host{{Key: identity.Key{1}, Room: 40, HasCode: true, CPUFree: 1}}}
	for i := range n {
		r := load
		r.Host, r.ID, r.Generation, r.State = v.Self, uint64(i+1), uint64(i+1), autonomic.Live
		v.Replicas = append(v.Replicas, r)
	}
	var d autonomic.Decision
	var memory autonomic.Memory
	for now := time.Duration(0); now <= while; now += 500 * time.Millisecond {
		d, memory = autonomic.Decide(s.policy(), v, memory, now)
	}
	return d
}

// Every key of [scaling] is obeyed: another value, another decision.
func TestScalingKeys(t *testing.T) {
	busy := func(cpu float64) autonomic.Replica { return autonomic.Replica{Offered: 10, Inflight: 1, CPU: cpu} }
	for _, c := range []struct {
		key        string
		one, other string // [scaling]
		n          int    // replicas there are
		load       autonomic.Replica
		while      time.Duration
		want, then int // replicas there should be, with one and with the other
	}{
		{"min_replicas", "min_replicas = 1", "min_replicas = 3", 1, autonomic.Replica{}, 3 * time.Second, 1, 3},
		{"max_replicas", "max_replicas = 8", "max_replicas = 2", 1, autonomic.Replica{Offered: 500, Inflight: 50}, 10 * time.Second, 3, 2},
		{"cpu_target", "cpu_target = 60", "cpu_target = 30", 2, busy(0.9), 10 * time.Second, 3, 6},
		{"scale_up_threshold", "scale_up_threshold = 80", "scale_up_threshold = 70", 4, busy(0.75), 8 * time.Second, 4, 5},
		{"scale_down_threshold", "scale_down_threshold = 30", "scale_down_threshold = 40", 4, busy(0.35), 40 * time.Second, 4, 3},
		{"inflight_target", "inflight_target = 16", "inflight_target = 4", 2, autonomic.Replica{Offered: 100, Inflight: 10}, 10 * time.Second, 2, 5},
	} {
		one, other := settled(t, c.one, c.n, c.load, c.while), settled(t, c.other, c.n, c.load, c.while)
		if one.Want != c.want || other.Want != c.then {
			t.Errorf("%s: wants %d with %s (%s), %d with %s (%s); want %d and %d", c.key,
				one.Want, c.one, one.Actions[0].Reason, other.Want, c.other, other.Actions[0].Reason, c.want, c.then)
		}
	}
}

// CPU above its threshold divides, below it shrinks, and it settles near the target.
func TestCPUBoundCell(t *testing.T) {
	const scaling = "max_replicas = 40"
	for _, c := range []struct {
		demand float64 // CPU that all requests need, in limits
		n      int     // replicas at the start
	}{{3, 1}, {3, 20}, {7.7, 5}} {
		n := c.n
		for range 20 {
			cpu := min(c.demand/float64(n), 1)
			n = settled(t, scaling, n, autonomic.Replica{Offered: 20 / float64(n), Inflight: c.demand / float64(n), CPU: cpu}, 3*time.Minute).Want
		}
		if cpu := c.demand / float64(n); cpu < 0.5 || cpu > 0.7 {
			t.Errorf("demand for %.1f, from %d replicas: settles at %d, %.0f %% each", c.demand, c.n, n, 100*cpu)
		}
	}
}

// The operator's word goes before Cell.toml.
func TestPolicyOfPopulation(t *testing.T) {
	m, err := ParseManifest(ManifestFile, []byte("[cell]\nname = \"greeter\"\n[scaling]\nmin_replicas = 2\nmax_replicas = 4\n"))
	if err != nil {
		t.Fatal(err)
	}
	s := &service{deploy: &deployment{manifest: m}}
	for _, c := range []struct {
		word     record.Population
		min, max int
	}{
		{record.Population{}, 2, 4},
		{record.Population{Min: 0, Max: 9}, 0, 9},
		{record.Population{Stopped: true}, 2, 4},
	} {
		s.population = c.word
		if p := s.policy(); p.Min != c.min || p.Max != c.max {
			t.Errorf("%+v: %d to %d, want %d to %d", c.word, p.Min, p.Max, c.min, c.max)
		}
	}
}

// The states of a replica are the same in rows and decisions.
func TestStatesAgree(t *testing.T) {
	for in, out := range map[record.ReplicaState]autonomic.State{
		record.ReplicaStarting: autonomic.Starting, record.ReplicaLive: autonomic.Live, record.ReplicaDraining: autonomic.Draining,
		record.ReplicaDead: autonomic.Dead, record.ReplicaFailed: autonomic.Failed,
	} {
		if autonomic.State(in) != out {
			t.Errorf("state %d of a row is %d of a decision", in, out)
		}
	}
}
