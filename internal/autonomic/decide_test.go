package autonomic

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
)

func key(i int) identity.Key { return identity.Key{byte(i)} }

// table is a view of host 1 with hosts 1 to hosts, room and code everywhere, and
// live replicas 1 to n, one after the other on hosts 1, 2, …
func table(hosts, n int, of Replica) View {
	v := View{Self: key(1), Cell: identity.Cell{Author: key(99), Name: "greeter"}}
	for i := range hosts {
		v.Hosts = append(v.Hosts, Host{Key: key(i + 1), Room: 16, HasCode: true, CPUFree: 1})
	}
	for i := range n {
		r := of
		r.Host, r.ID, r.Generation = key(i%hosts+1), uint64(i+1), uint64(i+1)
		if r.State == 0 {
			r.State = Live
		}
		v.Replicas = append(v.Replicas, r)
	}
	return v
}

// hold shows v to host v.Self every 500 ms for d and returns what it decides last.
func hold(p Policy, v View, d time.Duration, m Memory) (Decision, Memory) {
	var decision Decision
	from := m.last
	for t := from + 500*time.Millisecond; t <= from+d; t += 500 * time.Millisecond {
		decision, m = Decide(p, v, m, t)
	}
	return decision, m
}

func acts(d Decision, k Kind, host identity.Key) (n int) {
	for _, a := range d.Actions {
		if a.Kind == k && a.Host == host {
			n++
		}
	}
	return n
}

// Each key of [scaling] matters: with it changed, the same rows lead elsewhere.
func TestEveryKeyMatters(t *testing.T) {
	busy := func(cpu float64) Replica { return Replica{Offered: 10, Inflight: 1, CPU: cpu} }
	for _, c := range []struct {
		key         string
		view        View
		long        time.Duration
		one, other  Policy
		want, wants int
	}{
		{"min_replicas", table(4, 1, busy(0.5)), 5 * time.Second, Policy{Min: 1}, Policy{Min: 3}, 1, 3},
		{"max_replicas", table(4, 4, busy(0.95)), 5 * time.Second, Policy{Max: 8}, Policy{Max: 5}, 7, 5},
		{"cpu_target", table(4, 4, busy(0.9)), 5 * time.Second, Policy{CPUTarget: 0.6}, Policy{CPUTarget: 0.45}, 6, 8},
		{"cpu_target, in the band", table(4, 4, busy(0.45)), 3 * time.Minute, Policy{CPUTarget: 0.6}, Policy{CPUTarget: 0.5}, 3, 4},
		{"scale_up_threshold", table(4, 4, busy(0.75)), 5 * time.Second, Policy{CPUTarget: 0.7}, Policy{CPUTarget: 0.7, ScaleUp: 0.72}, 4, 5},
		{"scale_down_threshold", table(4, 4, busy(0.35)), time.Minute, Policy{}, Policy{ScaleDown: 0.4}, 4, 3},
		{"inflight_target", table(4, 4, Replica{Offered: 100, Inflight: 12}), 10 * time.Second, Policy{}, Policy{InflightTarget: 8}, 4, 6},
	} {
		t.Run(c.key, func(t *testing.T) {
			got, _ := hold(c.one, c.view, c.long, Memory{})
			gots, _ := hold(c.other, c.view, c.long, Memory{})
			if got.Want != c.want || gots.Want != c.wants {
				t.Errorf("wants %d and %d, expected %d and %d\n%v\n%v", got.Want, gots.Want, c.want, c.wants, got.Actions[0].Reason, gots.Actions[0].Reason)
			}
		})
	}
}

// Whatever they want, hosts agree on whose a vacancy is.
func TestOneOwner(t *testing.T) {
	v := table(5, 2, Replica{})
	owners := map[uint64]map[identity.Key]bool{}
	for i := range 5 {
		v.Self = key(i + 1)
		d, _ := hold(Policy{Min: 4 + i}, v, 2500*time.Millisecond, Memory{})
		for _, a := range d.Actions {
			if owners[a.Generation] == nil {
				owners[a.Generation] = map[identity.Key]bool{}
			}
			owners[a.Generation][a.Host] = true
		}
	}
	if len(owners) != 6 {
		t.Fatalf("vacancies %v, want 3 to 8", owners)
	}
	for g, o := range owners {
		if len(o) != 1 {
			t.Errorf("vacancy %d belongs to %d hosts", g, len(o))
		}
	}
}

func TestSpread(t *testing.T) {
	d, _ := hold(Policy{Min: 8}, table(4, 0, Replica{}), 2500*time.Millisecond, Memory{})
	for i := range 4 {
		if n := acts(d, Divide, key(i+1)); n != 2 {
			t.Errorf("host %d gets %d of 8 replicas, want 2", i+1, n)
		}
	}
}

func TestNoCodeNoRoomNoTurn(t *testing.T) {
	for name, spoil := range map[string]func(*Host){
		"no code":     func(h *Host) { h.HasCode = false },
		"no room":     func(h *Host) { h.Room = 0 },
		"less than 0": func(h *Host) { h.Room = -5 },
		"silent":      func(h *Host) { h.Age = 5 * time.Second },
	} {
		v := table(2, 0, Replica{})
		spoil(&v.Hosts[0])
		d, _ := hold(Policy{Min: 2}, v, 2500*time.Millisecond, Memory{})
		if n := acts(d, Divide, key(2)); n != 2 {
			t.Errorf("%s: the other host gets %d, want 2", name, n)
		}
		spoil(&v.Hosts[1])
		if d, _ = hold(Policy{Min: 2}, v, 2500*time.Millisecond, Memory{}); d.Actions[0].Kind != Wait || d.Actions[0].Reason.Rule != RuleNoHost {
			t.Errorf("%s everywhere: %+v", name, d.Actions)
		}
	}
}

func TestListenFirst(t *testing.T) {
	v := table(1, 0, Replica{})
	if d, _ := hold(Policy{Min: 1}, v, 1500*time.Millisecond, Memory{}); d.Actions[0].Reason.Rule != RuleListen {
		t.Errorf("a new memory: %v", d.Actions[0].Reason)
	}
	if d, _ := hold(Policy{Min: 1}, v, 3*time.Second, Memory{}); acts(d, Divide, key(1)) != 1 {
		t.Errorf("having listened: %v", d.Actions[0].Reason)
	}
}

// The next in line takes over when the owner says nothing, not before.
func TestRunnerUp(t *testing.T) {
	v := table(3, 0, Replica{})
	d, _ := hold(Policy{Min: 1}, v, 2500*time.Millisecond, Memory{})
	owner := d.Actions[0].Host
	for i := range 3 {
		v.Self = key(i + 1)
		var when time.Duration
		m := Memory{}
		for now := time.Duration(0); now < 6*time.Second; now += 100 * time.Millisecond {
			if d, m = Decide(Policy{Min: 1}, v, m, now); when == 0 && acts(d, Divide, v.Self) == 1 {
				when = now
			}
		}
		if v.Self == owner && when != 2*time.Second || v.Self != owner && (when < 2800*time.Millisecond || when > 3600*time.Millisecond) {
			t.Errorf("host %d acts after %v (owner: %v)", i+1, when, v.Self == owner)
		}
	}
}

func TestClaims(t *testing.T) {
	v := table(2, 2, Replica{State: Starting})
	p := Policy{Min: 2}
	d, m := hold(p, v, 9*time.Second, Memory{})
	if d.Want != 2 || d.Actions[0].Kind != Wait {
		t.Errorf("young claims do not count: %v", d.Actions[0].Reason)
	}
	d, _ = hold(p, v, 2*time.Second, m)
	if acts(d, Drain, key(1)) != 1 || d.Actions[0].Reason.Rule != RuleOverdue {
		t.Errorf("an old claim of ours is kept: %+v", d.Actions)
	}
	if acts(d, Divide, key(1))+acts(d, Divide, key(2)) != 2 {
		t.Errorf("old claims still count: %+v", d.Actions)
	}
}

// Two hosts claimed the same vacancy: one gives up, and it is the same one for both.
func TestOutdrawn(t *testing.T) {
	v := table(2, 2, Replica{State: Starting})
	v.Replicas[1].Generation = 1
	gave := 0
	for i := range 2 {
		v.Self = key(i + 1)
		d, _ := Decide(Policy{Min: 1}, v, Memory{}, time.Second)
		gave += acts(d, Drain, v.Self)
	}
	if gave != 1 {
		t.Errorf("%d give up, want 1", gave)
	}
}

// Only the oldest of all drains, and one at a time.
func TestOldestDrains(t *testing.T) {
	p := Policy{Min: 1, Max: 20}
	v := table(3, 9, Replica{})
	v.Replicas[4].Generation = 0 // on host 2
	for i := range 3 {
		v.Self = key(i + 1)
		d, m := Decision{}, Memory{}
		for d.Want = 9; d.Want == 9; {
			d, m = hold(p, v, 500*time.Millisecond, m)
		}
		if n := acts(d, Drain, v.Self); n != map[int]int{1: 1}[i] {
			t.Errorf("host %d drains %d", i+1, n)
		}
		if m.last < 29*time.Second {
			t.Errorf("scale-in after %v", m.last)
		}
		if d, m = hold(p, v, 4*time.Second, m); i != 1 && acts(d, Drain, v.Self) > 0 {
			t.Errorf("host %d does not wait for the oldest", i+1)
		}
		if d, _ = hold(p, v, 12*time.Second, m); acts(d, Drain, v.Self) != 1 {
			t.Errorf("host %d waits for ever for another that does not drain", i+1)
		}
		w := v
		w.Replicas = append([]Replica{}, v.Replicas...)
		w.Replicas[8].State = Draining
		if d, _ = hold(p, w, 20*time.Second, m); acts(d, Drain, v.Self) != 0 {
			t.Errorf("host %d drains while another does", i+1)
		}
	}
}

// Silent hosts forbid scale-in, and are no reason to grow.
func TestSilence(t *testing.T) {
	v := table(4, 8, Replica{Offered: 10, Inflight: 1})
	for i := range v.Replicas {
		if v.Replicas[i].Host == key(4) {
			v.Replicas[i].Age = 6 * time.Second
		}
	}
	v.Hosts[3].Age = 6 * time.Second
	d, m := hold(Policy{}, v, time.Minute, Memory{})
	if d.Want != 6 {
		t.Errorf("wants %d with 6 of 8 in sight", d.Want)
	}
	v.Hosts[3].Age = time.Minute
	if d, _ = hold(Policy{}, v, time.Second, m); d.Want != 1 {
		t.Errorf("wants %d once the silent host is long gone", d.Want)
	}
}

// A death that its host saw heals at once, within what was wanted lately.
func TestHeal(t *testing.T) {
	p := Policy{Max: 20, InflightTarget: 10}
	v := table(4, 8, Replica{Offered: 100, Inflight: 9})
	_, m := hold(p, v, 40*time.Second, Memory{})
	gone := v
	gone.Replicas = v.Replicas[:7]
	if d, _ := Decide(p, gone, m, m.last+time.Millisecond); d.Want != 7 {
		t.Errorf("wants %d where one is only missing", d.Want)
	}
	v.Replicas[7].State = Dead
	d, m := Decide(p, v, m, m.last+time.Millisecond)
	if d.Want != 8 || !strings.Contains(d.Actions[0].Reason.String(), "died") {
		t.Errorf("wants %d after a death: %v", d.Want, d.Actions[0].Reason)
	}
	v.Replicas = append(v.Replicas, Replica{Host: key(1), ID: 20, State: Starting, Generation: 9})
	if d, _ = Decide(p, v, m, m.last+time.Millisecond); d.Want != 8 {
		t.Errorf("wants %d when the dead one is replaced and still mourned", d.Want)
	}
}

func TestBackOff(t *testing.T) {
	v := table(1, 0, Replica{})
	_, m := hold(Policy{Min: 1}, v, 2*time.Second, Memory{})
	var rests []time.Duration
	for i := range 9 {
		v.Replicas = []Replica{{Host: key(1), ID: uint64(i + 1), Generation: uint64(i + 1), State: Failed}}
		from := m.last
		for d := (Decision{}); acts(d, Divide, key(1)) == 0; {
			d, m = hold(Policy{Min: 1}, v, 500*time.Millisecond, m)
		}
		rests = append(rests, m.last-from)
	}
	for i, rest := range rests {
		if want := min(time.Second<<i, time.Minute); rest < want || rest > want+time.Second {
			t.Errorf("rest %d is %v, want %v", i+1, rest, want)
		}
	}
}

func TestStopped(t *testing.T) {
	v := table(2, 6, Replica{Offered: 100, Inflight: 50})
	v.Stopped = true
	d, _ := Decide(Policy{Min: 2}, v, Memory{}, time.Second)
	if d.Want != 0 || acts(d, Drain, key(1)) != 3 || len(d.Actions) != 3 {
		t.Errorf("stopped: %+v", d)
	}
}

func TestFromZero(t *testing.T) {
	v := table(1, 0, Replica{})
	d, m := hold(Policy{}, v, time.Minute, Memory{})
	if d.Want != 0 {
		t.Errorf("wants %d asleep", d.Want)
	}
	v.Waiting = 1
	if d, _ = Decide(Policy{}, v, m, m.last+1); d.Want != 1 || acts(d, Divide, key(1)) != 1 {
		t.Errorf("a caller waits: %+v", d)
	}
	v.Waiting = 30
	if d, _ = Decide(Policy{}, v, m, m.last+1); d.Want != 2 {
		t.Errorf("30 callers wait: %+v", d)
	}
}

// Ten times the arrivals are seen before the requests in flight have piled up.
func TestArrivalsLead(t *testing.T) {
	_, m := hold(Policy{}, table(4, 2, Replica{Offered: 50, Inflight: 5}), 10*time.Second, Memory{})
	d, _ := Decide(Policy{}, table(4, 2, Replica{Offered: 500, Inflight: 8}), m, m.last+100*time.Millisecond)
	if d.Want != 7 {
		t.Errorf("wants %d for 1000 requests per second of 0.1 s each at 16 per replica: %v", d.Want, d.Actions[0].Reason)
	}
}

// A backlog that is going away is no reason to grow; one that stays is.
func TestBacklog(t *testing.T) {
	for _, falls := range []bool{true, false} {
		_, m := hold(Policy{}, table(4, 2, Replica{Offered: 100, Inflight: 10}), 10*time.Second, Memory{})
		var d Decision
		most := 0
		for i := range 11 {
			queue := 60.0
			if falls {
				queue -= 4 * float64(i)
			}
			d, m = hold(Policy{}, table(4, 4, Replica{Offered: 100, Inflight: queue}), 500*time.Millisecond, m)
			most = max(most, d.Want)
		}
		if falls != (most == 4) {
			t.Errorf("falls %v: wants up to %d of 4", falls, most)
		}
	}
}

// A vacancy's number is free, is fresh once the cell was at rest, and cannot be driven up by a lie.
func TestNumbers(t *testing.T) {
	v := table(4, 4, Replica{})
	number := func(rest time.Duration) uint64 {
		_, m := hold(Policy{Min: 3}, v, rest, Memory{})
		d, _ := Decide(Policy{Min: 5}, v, m, m.last+1)
		return d.Actions[0].Generation
	}
	v.Replicas[3].Generation = 6 // its claim came before those of 4 and 5
	if n := number(5 * time.Second); n != 4 {
		t.Errorf("number %d while others may be on their way, want 4", n)
	}
	if n := number(15 * time.Second); n != 7 {
		t.Errorf("number %d after a rest, want 7", n)
	}
	v.Replicas[3].Generation = 1 << 60
	if n := number(15 * time.Second); n != 4 {
		t.Errorf("number %d beside a liar, want 4", n)
	}
}

// CPU settles within 10 points of its target, from above and from below.
func TestCPUSettles(t *testing.T) {
	t.Parallel()
	p := Policy{Min: 1, Max: 40, InflightTarget: 1000}
	w := newWorld(3, 6, p)
	w.load = func(t time.Duration) float64 {
		switch {
		case t < 3*time.Minute:
			return 1000
		case t < 9*time.Minute:
			return 650
		}
		return 900
	}
	first(w, 11)
	for _, at := range []time.Duration{3, 9, 12} {
		w.run(at*time.Minute - time.Second)
		cpu := w.load(w.now) / simRate / float64(w.population())
		if t.Logf("CPU %.0f %% of %d replicas", 100*cpu, w.population()); cpu < 0.48 || cpu > 0.72 {
			t.Errorf("CPU settles at %.2f with %d replicas", cpu, w.population())
		}
	}
}

// A decision can be taken again from the same memory: it was not touched.
func TestPure(t *testing.T) {
	v := table(3, 5, Replica{Offered: 500, Inflight: 40, CPU: 0.9})
	v.Replicas[4].State = Failed
	v.Replicas[3].State = Starting
	_, m := hold(Policy{}, v, 5*time.Second, Memory{})
	before := fmt.Sprintf("%+v %+v", m, v)
	one, next := Decide(Policy{}, v, m, 6*time.Second)
	hold(Policy{Min: 5}, v, time.Minute, next)
	two, again := Decide(Policy{}, v, m, 6*time.Second)
	if fmt.Sprintf("%+v %+v", m, v) != before {
		t.Error("memory or view changed")
	}
	if !reflect.DeepEqual(one, two) || !reflect.DeepEqual(next, again) {
		t.Error("two decisions from the same")
	}
}

func TestReasons(t *testing.T) {
	for want, r := range map[string]Reason{
		"divide: 6 wanted, number 5 goes to the first of 3 hosts with room; 4 live; 88.0 requests in flight at 16 per replica": {
			Kind: Divide, Rule: RuleVacancy, Want: 6, Generation: 5, Candidates: 3, Live: 4, Signal: signalInflight, Demand: 88, Target: 16},
		"divide: 6 wanted, number 5 goes to host 2 of 3 with room, since those before it kept silent; 4 live, 1 starting; CPU for 3.60 replicas at 60 % each": {
			Kind: Divide, Rule: RuleVacancy, Want: 6, Generation: 5, Rank: 1, Candidates: 3, Live: 4, Starting: 1, Signal: signalCPU, Demand: 3.6, Target: 0.6},
		"drain: 2 wanted, number 1 is the oldest; 4 live; CPU for 0.80 replicas at 60 % each": {
			Kind: Drain, Rule: RuleOldest, Want: 2, Generation: 1, Live: 4, Signal: signalCPU, Demand: 0.8, Target: 0.6},
		"wait: 2 wanted; 2 live; the minimum is 2; silent hosts: 1": {
			Kind: Wait, Rule: RuleEnough, Want: 2, Live: 2, Signal: signalMin, Min: 2, Silent: 1},
		"drain: the cell is stopped; 4 live": {Kind: Drain, Rule: RuleStopped, Live: 4},
	} {
		if got := r.String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
