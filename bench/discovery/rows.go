package main

import "time"

// The peers that rows compare with.
const (
	stockDHT = "kad-dht 0.42.2"
	members  = "memberlist 0.5.3"
)

const ms = time.Millisecond

// rows are what this program reports, in this order.
var rows = []row{
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
