package main

import (
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// scenes are what children of this program play.
var scenes = map[string]scene{
	oursLookups:  lookupsOurs,
	stockLookups: lookupsStock,
	oursJoined:   joined,
	oursCrashLAN: func(s setup, f map[string]figure) error { return crashOurs(s, newLAN(s), f) },
	oursCrashWAN: func(s setup, f map[string]figure) error { return crashOurs(s, newWAN(s), f) },
	membersCrashLAN: func(s setup, f map[string]figure) error {
		return crashMembers(s, memberlist.DefaultLANConfig, lan, f)
	},
	membersCrashWAN: func(s setup, f map[string]figure) error {
		return crashMembers(s, memberlist.DefaultWANConfig, planet, f)
	},
	oursQuiet: quietOurs,
	membersQuiet: func(s setup, f map[string]figure) error {
		return quietMembers(s, memberlist.DefaultWANConfig, planet, f)
	},
	oursLeave: leaveOurs,
	membersLeave: func(s setup, f map[string]figure) error {
		return leaveMembers(s, memberlist.DefaultWANConfig, planet, f)
	},
	oursRestart:   restart,
	oursPartition: partitionOurs,
	membersPartition: func(s setup, f map[string]figure) error {
		return partitionMembers(s, memberlist.DefaultWANConfig, planet, f)
	},
	oursAttack:  attackOurs,
	stockAttack: attackStock,
	oursNAT:     nat,
	forgedScene: forged,
}

// lan is a network in which a packet takes half a millisecond.
func lan(_, _ netip.Addr) time.Duration { return 500 * time.Microsecond }
