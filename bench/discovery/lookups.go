package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// lookupRows are about names that are found, or are not.
var lookupRows = []row{
	{
		name: "first verified endpoint", peer: stockDHT,
		ours: source{oursLookups, first}, theirs: source{stockLookups, first},
		goal: bound{p50: 120 * ms, p99: 400 * ms},
	},
	{
		name: "full live set", peer: stockDHT,
		ours: source{oursLookups, full}, theirs: source{stockLookups, full},
		must: bound{p50: 500 * ms}, goal: bound{p50: 350 * ms, p99: 800 * ms, rpcs: 8},
	},
	{
		name: "full live set, 20 % vanish now", peer: stockDHT,
		ours: source{oursLookups, vanished + full}, theirs: source{stockLookups, vanished + full},
		must: bound{p50: 1000 * ms}, goal: bound{p50: 450 * ms, p99: 1200 * ms},
	},
	{
		name: "full live set, 20 % dead for a minute", peer: stockDHT,
		ours: source{oursLookups, dead + full}, theirs: source{stockLookups, dead + full},
		must: bound{p50: 1000 * ms}, goal: bound{p50: 450 * ms, p99: 1200 * ms},
	},
	{
		name: "first verified endpoint, 20 % dead for a minute", peer: stockDHT,
		ours: source{oursLookups, dead + first}, theirs: source{stockLookups, dead + first},
	},
	{
		name: "announced", peer: stockDHT,
		ours: source{oursLookups, announced}, theirs: source{stockLookups, announced},
		must: bound{p50: 1200 * ms}, goal: bound{p50: 400 * ms},
	},
	{
		name: "found right after by", peer: stockDHT, unit: share,
		ours: source{oursLookups, announcedSeen}, theirs: source{stockLookups, announcedSeen},
		must: bound{share: 0.99},
	},
	{
		name: "announced, 20 % vanish now", peer: stockDHT,
		ours: source{oursLookups, vanished + announced}, theirs: source{stockLookups, vanished + announced},
		must: bound{p50: 2000 * ms}, goal: bound{p50: 800 * ms},
	},
	{
		name: "found right after by, 20 % vanish now", peer: stockDHT, unit: share,
		ours: source{oursLookups, vanished + announcedSeen}, theirs: source{stockLookups, vanished + announcedSeen},
		must: bound{share: 0.99},
	},
	{
		name: "announced, 20 % dead for a minute", peer: stockDHT,
		ours: source{oursLookups, dead + announced}, theirs: source{stockLookups, dead + announced},
		must: bound{p50: 2000 * ms}, goal: bound{p50: 800 * ms},
	},
	{
		name: "nobody serves it", peer: stockDHT,
		ours: source{oursLookups, nobody}, theirs: source{stockLookups, nobody},
		goal: bound{p50: 400 * ms},
	},
	{
		name: "nobody serves it, 20 % vanish now", peer: stockDHT,
		ours: source{oursLookups, vanished + nobody}, theirs: source{stockLookups, vanished + nobody},
		goal: bound{p50: 400 * ms},
	},
	{
		name: "nobody serves it, 20 % dead for a minute", peer: stockDHT,
		ours: source{oursLookups, dead + nobody}, theirs: source{stockLookups, dead + nobody},
		goal: bound{p50: 400 * ms},
	},
}

// What the scenes of lookups measure, in this order.
const (
	announced     = "announced"      // from the call to its return, all alive
	announcedSeen = "announced seen" // share of hosts that found the name right after
	first         = "first"          // from the question to the first endpoint
	full          = "full"           // from the question to the end of the search
	nobody        = "nobody"         // a name that nobody serves
)

// The same is measured twice with dead hosts: a figure's name begins with one
// of these then.
const (
	vanished = "vanished " // at that moment; whoever was connected to them has not noticed
	dead     = "dead "     // for a minute
)

const (
	oursLookups  = "our lookups"
	stockLookups = "stock lookups"
)

func lookupsOurs(s setup, figures map[string]figure) error {
	net, err := newOurs(s, newWAN(s), nil)
	if err != nil {
		return err
	}
	defer net.close()
	if err := net.preseed(); err != nil {
		return err
	}
	return lookups(s, net, figures)
}

func lookupsStock(s setup, figures map[string]figure) error {
	net, err := newStock(s, newWAN(s))
	if err != nil {
		return err
	}
	defer net.close()
	return lookups(s, net, figures)
}

// deadShare is how many hosts vanish.
const deadShare = 0.2

// lookups announces names on random hosts and finds them from others.
func lookups(s setup, net finder, figures map[string]figure) error {
	n := pick(s, 30, 100)
	who := newCrowd(s)
	name := func(kind string, i int) string { return fmt.Sprintf("%s-%d", kind, i) }

	// One operation every tenth of a second, so that they do not disturb each other.
	const gap = 100 * time.Millisecond
	owners := who.some(n)
	figures[announced], figures[announcedSeen] = announcing(net, owners, who.some(n), gap, func(i int) string { return name("cell", i) })
	if f := figures[announced]; f.Samples == 0 {
		return fmt.Errorf("no announcement succeeded: %s", f.Note)
	}
	phase(s, "announced")
	figures[first], figures[full] = finding(net, who.some(n), owners, gap, func(i int) string { return name("cell", i) })
	_, figures[nobody] = finding(net, who.some(n), nil, gap, func(i int) string { return name("nobody", i) })

	phase(s, "found")

	// Now the dead: all of these begin before anybody can have noticed.
	net.kill(who.doom(deadShare, owners))
	mixed(net, who, owners, vanished, figures)
	phase(s, "found among the dying")
	time.Sleep(time.Minute)
	mixed(net, who, owners, dead, figures)
	return nil
}

// mixed begins searches for what there is and what there is not, and
// announcements, within a second. What they cost cannot be told apart.
func mixed(net finder, who *crowd, owners []int, when string, figures map[string]figure) {
	n := len(owners)
	gap := time.Second / time.Duration(n)
	finders, deniers, late := who.some(n), who.some(n), who.some(n)
	askers := who.some(n)
	var found, whole, denied, put, seen figure
	var all sync.WaitGroup
	all.Go(func() {
		found, whole = finding(net, finders, owners, gap, func(i int) string { return fmt.Sprintf("cell-%d", i) })
	})
	all.Go(func() {
		_, denied = finding(net, deniers, nil, gap, func(i int) string { return fmt.Sprintf("%snobody-%d", when[:4], i) })
	})
	all.Go(func() {
		put, seen = announcing(net, late, askers, gap, func(i int) string { return fmt.Sprintf("%s-%d", when[:4], i) })
	})
	all.Wait()
	for _, f := range []*figure{&found, &whole, &denied, &put} {
		f.RPCs, f.CPU = 0, 0
	}
	figures[when+first], figures[when+full], figures[when+nobody] = found, whole, denied
	figures[when+announced], figures[when+announcedSeen] = put, seen
}

// announcing announces names, one every gap, and has each looked up by an asker
// as soon as that has returned.
func announcing(net finder, owners, askers []int, gap time.Duration, name func(int) string) (took, seen figure) {
	results := make([]time.Duration, len(owners))
	found := make([]bool, len(owners))
	var fault error
	asked, cpu := net.requests(), used()
	burst(len(owners), gap, func(ctx context.Context, i int) {
		began := time.Now()
		err := net.announce(ctx, owners[i], name(i))
		if results[i] = time.Since(began); err != nil {
			results[i], fault = -1, err
			return
		}
		found[i] = slices.Contains(net.find(ctx, askers[i], name(i)).who, owners[i])
	})
	took = perOperation(results, net.requests()-asked, used()-cpu)
	if fault != nil {
		took.Note = fault.Error()
	}
	took.RPCs, took.CPU = 0, 0 // the lookups that follow are in it
	for _, ok := range found {
		if ok {
			seen.Samples++
		} else {
			seen.Failed++
		}
	}
	seen.Share = float64(seen.Samples) / float64(len(owners))
	return took, seen
}

// finding looks up names from askers, one every gap. owners[i] serves the i-th
// name; nil: nobody serves any.
func finding(net finder, askers, owners []int, gap time.Duration, name func(int) string) (firsts, alls figure) {
	one, whole := make([]time.Duration, len(askers)), make([]time.Duration, len(askers))
	asked, cpu := net.requests(), used()
	burst(len(askers), gap, func(ctx context.Context, i int) {
		r := net.find(ctx, askers[i], name(i))
		one[i], whole[i] = r.first, r.all
		switch missed := owners != nil && !slices.Contains(r.who, owners[i]); {
		case missed, owners == nil && len(r.who) > 0, ctx.Err() != nil:
			one[i], whole[i] = -1, -1
		}
	})
	asked, cpu = net.requests()-asked, used()-cpu
	return perOperation(one, asked, cpu), perOperation(whole, asked, cpu)
}

// perOperation summarises operations, of which those with a negative time failed.
func perOperation(took []time.Duration, asked uint64, cpu time.Duration) figure {
	good := slices.DeleteFunc(slices.Clone(took), func(d time.Duration) bool { return d < 0 })
	f := times(good).figure(len(took) - len(good))
	f.RPCs, f.CPU = float64(asked)/float64(len(took)), cpu/time.Duration(len(took))
	return f
}
