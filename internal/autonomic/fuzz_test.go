package autonomic

import (
	"encoding/binary"
	"math"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
)

// reader makes values of any kind from the fuzzer's bytes.
type reader []byte

func (r *reader) u64() uint64 {
	var b [8]byte
	n := copy(b[:], *r)
	*r = (*r)[n:]
	return binary.LittleEndian.Uint64(b[:])
}

func (r *reader) small() uint64 {
	if len(*r) == 0 {
		return 0
	}
	b := (*r)[0]
	*r = (*r)[1:]
	return uint64(b)
}

// number is often one that breaks arithmetic.
func (r *reader) number() float64 {
	switch r.small() % 8 {
	case 0:
		return math.NaN()
	case 1:
		return math.Inf(1)
	case 2:
		return math.Inf(-1)
	case 3:
		return -1
	case 4:
		return math.MaxFloat64
	case 5:
		return math.Float64frombits(r.u64())
	}
	return float64(r.small()) / 16
}

func (r *reader) span() time.Duration {
	if r.small()%4 == 0 {
		return time.Duration(r.u64())
	}
	return time.Duration(r.small()) * 100 * time.Millisecond
}

// integer is often close to what makes sense.
func (r *reader) integer() uint64 {
	if r.small()%8 == 0 {
		return r.u64()
	}
	return r.small() % 32
}

func FuzzDecide(f *testing.F) {
	f.Add([]byte{})
	for seed := range byte(8) {
		b := make([]byte, 600)
		for i := range b {
			b[i] = seed*31 + byte(i*i)*(seed|1) + byte(i>>3)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := reader(data)
		p := Policy{Min: int(r.integer()), Max: int(r.integer()), CPUTarget: r.number(), ScaleUp: r.number(), ScaleDown: r.number(),
			InflightTarget: r.number(), Down: r.span(), Drift: r.span(), Start: r.span(), Suspect: r.span(), Turn: r.span(), Listen: r.span()}
		normal := p.normal()
		if normal.Min < 0 || normal.Min > normal.Max || normal.Max > maxReplicas {
			t.Fatalf("policy %+v", normal)
		}
		var m Memory
		var now time.Duration
		for range 8 {
			v := View{Self: identity.Key{1}, Waiting: r.number(), Stopped: r.small()%16 == 15}
			for range r.small() % 5 {
				v.Hosts = append(v.Hosts, Host{Key: identity.Key{byte(r.small() % 4)}, Room: int(r.integer()), HasCode: r.small()%4 > 0, CPUFree: r.number(), Age: r.span()})
			}
			for range r.small() % 12 {
				v.Replicas = append(v.Replicas, Replica{Host: identity.Key{byte(r.small() % 4)}, ID: r.integer(), State: State(r.small() % 7), Generation: r.integer(),
					Offered: r.number(), Shed: r.number(), Inflight: r.number(), CPU: r.number(), Age: r.span()})
			}
			now += r.span()
			var d Decision
			d, m = Decide(p, v, m, now)
			if !v.Stopped && (d.Want < normal.Min || d.Want > normal.Max) || v.Stopped && d.Want != 0 {
				t.Fatalf("wants %d with %d to %d", d.Want, normal.Min, normal.Max)
			}
			if len(d.Actions) == 0 {
				t.Fatal("no action")
			}
			var scratch Memory
			scratch.claims = m.claims
			b := look(normal, v, &scratch, m.last)
			live, gone := b.live, 0
			for _, a := range d.Actions {
				if a.Reason.String() == "" || a.Reason.Kind != a.Kind {
					t.Fatalf("reason %+v", a.Reason)
				}
				if a.Kind == Drain && a.Host != v.Self {
					t.Fatal("drains another host's replica")
				}
				if a.Kind == Drain && a.Reason.Rule == RuleOldest {
					gone++
				}
				if a.Kind == Divide && v.Stopped {
					t.Fatal("divides while stopped")
				}
			}
			if gone > 0 && live-gone < d.Want {
				t.Fatalf("drains %d of %d live where %d are wanted", gone, live, d.Want)
			}
		}
	})
}
