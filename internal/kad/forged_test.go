package kad

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/fxamacker/cbor/v2"
	"github.com/libp2p/go-libp2p/core/network"
)

var (
	forgedCount = flag.Int("forged", 2_000, "records that an attacker makes")
	forgedSeed  = flag.Uint64("forgedseed", 1, "of what is forged")
)

// believe reads what a record says and checks nothing of it.
func believe(raw []byte) (l record.Lease, ok bool) {
	type unchecked struct {
		_                     struct{} `cbor:",toarray"`
		Schema                uint8
		Domain                string
		Network               identity.NetworkID
		Signer                identity.Key
		Incarnation, Sequence uint64
		Issued                int64
		TTL                   uint64
		Payload               cbor.RawMessage
		Reserved              map[uint64]cbor.RawMessage
	}
	type offer struct {
		_             struct{} `cbor:",toarray"`
		Author        identity.Key
		Name          string
		State         record.State
		Addrs         [][]byte
		Grant, Member []byte
	}
	var b unchecked
	var p offer
	if len(raw) <= identity.SignatureSize || cbor.Unmarshal(raw[identity.SignatureSize:], &b) != nil || cbor.Unmarshal(b.Payload, &p) != nil {
		return l, false
	}
	return record.Lease{
		Header: record.Header{Domain: b.Domain, Network: b.Network, Signer: b.Signer, Order: record.Order{Incarnation: b.Incarnation, Sequence: b.Sequence},
			Issued: time.UnixMilli(b.Issued), TTL: time.Duration(b.TTL) * time.Millisecond},
		Cell: identity.Cell{Author: p.Author, Name: identity.Name(p.Name)}, State: p.State, Addrs: p.Addrs, Raw: raw,
	}, true
}

// excusing leaves one check out.
func excusing(check string) func([]byte, string) (record.Lease, string) {
	return func(raw []byte, reason string) (record.Lease, string) {
		if reason == check {
			if l, ok := believe(raw); ok {
				return l, ""
			}
		}
		return record.Lease{}, reason
	}
}

// forger makes records from all that an attacker can have: what others signed,
// for this name or another, now or before, and a key that nobody granted anything.
type forger struct {
	now     time.Time
	current map[string]bool // what is true: the newest leases of who may serve
	honest  []record.Lease
	past    [][]byte // honest ones of before, some of them withdrawn since
	foreign [][]byte // of other names and other networks
	expired [][]byte
	mine    [][]byte // signed by the attacker with what others were granted
}

// serving is how many nodes may serve the cell, a third of which have withdrawn.
const serving = 9

func newForger(now time.Time) *forger {
	f := &forger{now: now, current: make(map[string]bool)}
	sign := func(node identity.Private, net identity.Network, cell identity.Cell, seq uint64, grant []byte, issued time.Time, ttl time.Duration) []byte {
		h := record.Header{Domain: record.DomainLease, Network: net.ID(), Order: record.Order{Incarnation: 1, Sequence: seq}, Issued: issued, TTL: ttl}
		raw, err := record.Sign(node, h, []any{cell.Author, string(cell.Name), record.StateAlive, [][]byte{addr("/ip4/1.2.3.4/udp/9/quic-v1")}, grant, []byte{}})
		if err != nil {
			panic(err)
		}
		return raw
	}
	mallet := testKey(666)
	own, err := record.SignGrant(mallet, testNet.ID(), "", []record.Subject{{Kind: record.SubjectAny}}, epoch, 24*time.Hour)
	if err != nil {
		panic(err)
	}
	for i := range serving {
		node := testKey(300 + i)
		grant := grantTo(node.Public(), epoch)
		for seq := range uint64(9) {
			f.past = append(f.past, sign(node, testNet, greeter, seq+1, grant, now, time.Hour))
		}
		ttl := time.Hour
		if i%3 == 0 {
			ttl = 0
		}
		raw := sign(node, testNet, greeter, 10, grant, now, ttl)
		f.current[string(raw)] = true
		l, err := record.OpenLease(raw, testNet.ID(), now)
		if err != nil {
			panic(err)
		}
		f.honest = append(f.honest, l)
		f.foreign = append(f.foreign, sign(node, testNet, cellNo(i), 1, grant, now, time.Hour), sign(node, "elsewhere", greeter, 1, grant, now, time.Hour))
		f.expired = append(f.expired, sign(node, testNet, greeter, 20, grant, now.Add(-2*time.Hour), time.Hour), sign(node, testNet, greeter, 20, grant, now.Add(time.Hour), time.Hour))
		f.mine = append(f.mine, sign(mallet, testNet, greeter, 30, grant, now, time.Hour), sign(mallet, testNet, greeter, 31+uint64(i), own.Raw, now, time.Hour))
	}
	return f
}

// The ways to forge, each with the check that is to notice.
var forgeries = []struct{ name, check string }{
	{"bits changed", "signature"},
	{"one record's signature on another", "signature"},
	{"a part of one record in another", "signature"},
	{"the attacker as signer", "signature"},
	{"the attacker with another's grant, or his own", "grant"},
	{"what was true before", "order"},
	{"what is true of another name", "key"},
	{"what is true in another network", "network"},
	{"what was true long ago, or may be once", "stale"},
}

// forge makes one record, no two alike where that is possible.
func (f *forger) forge(way int, rng *rand.Rand) []byte {
	pick := func(from [][]byte) []byte { return bytes.Clone(from[rng.IntN(len(from))]) }
	victim := bytes.Clone(f.honest[rng.IntN(len(f.honest))].Raw)
	switch way {
	case 0:
		for range 1 + rng.IntN(3) {
			victim[rng.IntN(len(victim))] ^= 1 << rng.IntN(8)
		}
		return victim
	case 1:
		other := pick(f.past)
		for bytes.Equal(other[:identity.SignatureSize], victim[:identity.SignatureSize]) {
			other = pick(f.past)
		}
		return append(other[:identity.SignatureSize], victim[identity.SignatureSize:]...)
	case 2:
		other := pick(f.past)
		n := min(len(victim), len(other))
		at := identity.SignatureSize + rng.IntN(n-identity.SignatureSize-1)
		end := at + 1 + rng.IntN(n-at-1)
		return slices.Concat(victim[:at], other[at:end], victim[end:])
	case 3:
		other := pick(f.mine)
		l, _ := believe(victim)
		me := testKey(666).Public()
		spliced := bytes.Replace(victim, l.Signer[:], me[:], 1)
		copy(spliced, other[:identity.SignatureSize])
		return spliced
	case 4:
		return pick(f.mine)
	case 5:
		return pick(f.past)
	case 6:
		return bytes.Clone(f.foreign[2*rng.IntN(serving)])
	case 7:
		return bytes.Clone(f.foreign[2*rng.IntN(serving)+1])
	}
	return pick(f.expired)
}

// Nobody is found, or held, for whom the author and the node have not both
// signed, whatever an attacker makes of what they signed; go test -forged
// 1000000 tries that often. Each check in turn is left out, and lets them in.
func TestForgedRecords(t *testing.T) {
	t.Logf("seed %d, %d records", *forgedSeed, *forgedCount)
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		f, key := newForger(now), greeter.Key(testNet.ID())
		attack := func(without string, ways []int, count int) (unauthorised []uint64) {
			w := newWorld(t, *forgedSeed)
			n := w.add(0, Config{still: true, Mode: ModeServer})
			for _, l := range f.honest {
				if r := n.hold(key, l.Raw, origin{source: "honest", group: "honest"}, now); r != "" {
					t.Fatal(r)
				}
			}
			if without != "" {
				n.conf.weak.excuse = excusing(without)
			}
			let := make([]atomic.Uint64, len(forgeries))
			var all sync.WaitGroup
			for part := range runtime.NumCPU() {
				rng := rand.New(rand.NewPCG(*forgedSeed, uint64(part)))
				all.Go(func() {
					for i := part; i < count; i += runtime.NumCPU() {
						way := ways[i%len(ways)]
						raw := f.forge(way, rng)
						if l, reason := n.admit(raw, key, now); reason == "" && !f.current[string(l.Raw)] { // to a finder
							let[way].Add(1)
						}
						if i%16 == 0 {
							n.hold(key, raw, origin{source: "mallet", group: "mallet"}, now) // and to a holder
						}
					}
				})
			}
			all.Wait()
			for i := range let {
				unauthorised = append(unauthorised, let[i].Load())
			}
			if without == "" {
				for _, raw := range n.store.get(key, now, n.hidden) {
					if !f.current[string(raw)] {
						t.Error("a forged record is held and handed out")
					}
				}
				if held, _ := n.Held(); held != len(f.honest) {
					t.Errorf("%d records are held, %d are true", held, len(f.honest))
				}
			}
			return unauthorised
		}
		every := make([]int, len(forgeries))
		for i := range every {
			every[i] = i
		}
		for way, got := range attack("", every, *forgedCount) {
			if got != 0 {
				t.Errorf("%s: %d unauthorised endpoints", forgeries[way].name, got)
			}
		}
		for way, kind := range forgeries {
			if got := attack(kind.check, []int{way}, 60)[way]; got == 0 {
				t.Errorf("%s: none gets in where %q is not checked, so the test shows nothing", kind.name, kind.check)
			} else {
				t.Logf("%s: %d of 60 get in where %q is not checked", kind.name, got, kind.check)
			}
		}
	})
}

// A holder that lies about who serves a name is not believed. Where signatures
// are not checked it is.
func TestLyingHolder(t *testing.T) {
	for _, weak := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 51)
			w.seeded(3)
			finder, honest := w.nodes[0], w.nodes[1]
			if weak {
				finder.conf.weak.excuse = excusing("signature")
			}
			w.put(honest, greeter, 1, time.Minute)
			good := lease(testKey(50), greeter, 1, time.Now(), time.Minute)
			me := testKey(666).Public()
			forged := bytes.Replace(good.Raw, good.Signer[:], me[:], 1)
			var asked atomic.Int32
			for i := range 3 {
				w.liar(finder, 20+i, func(s network.Stream) {
					asked.Add(1)
					_, _ = readMessage(s, MaxRequest)
					_ = writeMessage(s, answer{Leases: [][]byte{forged}})
					_ = s.Close()
				})
			}
			got, _, _, err := finder.find(greeter)
			_, fooled := got[me]
			if err != nil || fooled != weak || got[honest.key.Public()].Raw == nil || asked.Load() == 0 {
				t.Errorf("weak %v: found %d, among them the attacker: %v; %v, %d lies were told", weak, len(got), fooled, err, asked.Load())
			}
		})
	}
}
