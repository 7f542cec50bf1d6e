package main

import (
	"fmt"
	"net/netip"
	"time"

	"cell.network/cell/internal/swim"
	"github.com/hashicorp/memberlist"
)

var quietRows = []row{
	{
		name: "live hosts given up in vain, 5 % loss, WAN", peer: members, unit: events,
		ours: source{oursQuiet, falseAlarms}, theirs: source{membersQuiet, falseAlarms},
		goal: bound{none: true},
	},
	{
		name: "own bytes sent by an idle host, WAN", peer: members, unit: traffic,
		ours: source{oursQuiet, idle}, theirs: source{membersQuiet, idle},
		goal: bound{rate: 150},
	},
	{
		name: "all bytes of UDP sent by an idle host, WAN", peer: members, unit: traffic,
		ours: source{oursQuiet, idleUDP}, theirs: source{membersQuiet, idle},
	},
}

const (
	oursQuiet    = "our quiet"
	membersQuiet = "memberlist quiet"
	falseAlarms  = "false alarms"
	idle         = "idle"
	idleUDP      = "idle UDP"
)

const (
	quietLoss = 0.05
	settle    = 2 * time.Minute // after which a network is idle
	idleTime  = 2 * time.Minute
	lookEvery = 5 * time.Second // at who is thought to be dead
)

// quietTime is how long a network of n hosts is watched under loss, for so many
// seconds of hosts. A second of a whole host costs 5 ms of CPU; the million
// belongs to the simulation of package swim, which is that of the detector alone.
func quietTime(s setup, n int) time.Duration {
	return time.Duration(pick(s, 20_000, 200_000)/n) * time.Second
}

// quietOurs has hosts do nothing and counts what they send; then packets are
// lost, and whoever is held for dead is counted.
func quietOurs(s setup, figures map[string]figure) error {
	net, err := newOurs(s, newWAN(s), nil)
	if err != nil {
		return err
	}
	defer net.close()
	if err := net.preseed(); err != nil {
		return err
	}
	time.Sleep(settle)
	own, udp, packets := net.sent()
	cpu := used()
	time.Sleep(idleTime)
	own2, udp2, packets2 := net.sent()
	per := func(n uint64) float64 { return float64(n) / idleTime.Seconds() / float64(s.Nodes) }
	links := 0
	for _, h := range net.hosts {
		links += len(h.node.Host().Network().Conns())
	}
	figures[idle] = figure{Samples: s.Nodes, Rate: per(own2 - own), Note: "membership and rows, as handed to streams"}
	figures[idleUDP] = figure{
		Samples: s.Nodes, Rate: per(udp2 - udp), CPU: (used() - cpu) / time.Duration(s.Nodes) / time.Duration(idleTime/time.Second),
		Note: fmt.Sprintf("%.1f packets/s and %.1f connections a host, each kept alive by QUIC; CPU is for a second of one host", per(packets2-packets), float64(links)/float64(s.Nodes)),
	}

	net.net.SetLoss(quietLoss)
	total := quietTime(s, s.Nodes)
	alarms, doubts := 0, 0
	thought := make(map[[2]int]swim.State)
	members := 0
	for began := time.Now(); time.Since(began) < total; {
		time.Sleep(lookEvery)
		members = 0
		for i, h := range net.hosts {
			for _, m := range h.node.Pulse().Members() {
				pair := [2]int{i, net.index[m.Contact.Node()]}
				if m.State.Gone() && !thought[pair].Gone() {
					alarms++
				}
				if m.State == swim.Suspect && thought[pair] != swim.Suspect {
					doubts++
				}
				if m.State == swim.Alive {
					members++
					delete(thought, pair)
				} else {
					thought[pair] = m.State
				}
			}
		}
	}
	f := figure{Samples: s.Nodes, Failed: alarms}
	f.Note = fmt.Sprintf("%.0f seconds of hosts; %d suspicions seen; a host knows %.0f live ones at the end", total.Seconds()*float64(s.Nodes), doubts, float64(members)/float64(s.Nodes))
	figures[falseAlarms] = f
	if members == 0 {
		return fmt.Errorf("the hosts do not know each other: membership is not at work")
	}
	return nil
}

// sent is what all hosts have sent: own bytes of gossip, bytes and packets of UDP.
func (all *ourHosts) sent() (own, udp, packets uint64) {
	for _, h := range all.hosts {
		own += h.node.Pulse().Sent()
		udp += h.link.bytes.Load()
		packets += h.link.packets.Load()
	}
	return own, udp, packets
}

// quietMembers does the same with memberlist.
func quietMembers(s setup, conf func() *memberlist.Config, latency func(from, to netip.Addr) time.Duration, figures map[string]figure) error {
	all, err := newMembers(s, conf, latency)
	if err != nil {
		return err
	}
	defer all.close()
	time.Sleep(settle)
	bytes := all.bytes.Load()
	time.Sleep(idleTime)
	figures[idle] = figure{Samples: s.Nodes, Rate: float64(all.bytes.Load()-bytes) / idleTime.Seconds() / float64(s.Nodes)}
	all.setLoss(quietLoss)
	total := quietTime(s, s.Nodes)
	before := all.alarms.Load()
	time.Sleep(total)
	figures[falseAlarms] = figure{
		Samples: s.Nodes, Failed: int(all.alarms.Load() - before),
		Note: fmt.Sprintf("%.0f seconds of hosts", total.Seconds()*float64(s.Nodes)),
	}
	return nil
}
