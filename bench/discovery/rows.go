package main

import (
	"slices"
	"time"
)

// The peers that rows compare with.
const (
	stockDHT = "kad-dht 0.42.2"
	members  = "memberlist 0.5.3"
)

const ms = time.Millisecond

// rows are what this program reports, in this order.
var rows = slices.Concat(lookupRows, joinedRows, crashRows, quietRows, leaveRows, restartRows, partitionRows, attackRows, forgedRows, natRows)
