// Package faults tests real nodes, each a process of its own with real sockets
// on loopback, with bad inputs, broken machines and hostile peers. It holds
// tests only.
package faults
