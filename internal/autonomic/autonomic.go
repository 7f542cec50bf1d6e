// Package autonomic decides, from a table of rows, whether a host starts a
// replica of a cell, drains one of its own, or waits.
//
// Every host that knows a cell asks [Decide] for itself; nobody tells another
// what to do. The function is pure: no clock, no randomness, no I/O. The caller
// hands in what it sees ([View]), what it keeps between two decisions for that
// cell ([Memory]) and its own monotonic time, and carries out what concerns itself.
//
// How many. Requests arrive whether or not anybody can answer them, so the law
// counts arrivals, refused ones included: arrivals times what one request costs
// (time in flight, CPU), learnt while nothing was overloaded. What is seen
// directly, requests in flight and CPU, counts too, but moves the population only in
// steps that wait for the effect of the step before: a backlog looks like load.
// The largest count wins, within [Policy.Min] and [Policy.Max].
//
// Who. A replica's generation is one more than the greatest that was there when
// it was born: its age, and the name of the vacancy that it filled. A vacancy belongs
// to one host, by rendezvous hashing over the hosts that have room and code, those
// with fewest replicas of the cell first; the next in line acts after silence. So
// hosts that want different counts still agree on who starts number 7, and
// the owner knows that it did.
//
// A claim counts as a replica until it has been starting for [Policy.Start].
// A host that died is not a reason to grow, demand and Min are: a partition
// looks the same. An exit that its own host saw is certain and heals at once.
//
// Draining is for one's own replicas only, the oldest of the whole cell first, at
// most a tenth of the population at a time, and not while hosts are silent.
package autonomic
