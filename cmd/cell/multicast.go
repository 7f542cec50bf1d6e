package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Groups that nothing else uses, so that a check disturbs nobody: neighbours of
// those of the announcements.
var (
	echoGroup4 = netip.MustParseAddr("239.255.67.77")
	echoGroup6 = netip.MustParseAddr("ff02::6376:7")
)

// echoWait is how long a packet may take from this host to itself.
const echoWait = time.Second

// echo sends a packet to a multicast group over one interface and waits to hear
// it there, by IPv4 or, where the interface has none, IPv6.
func echo(ctx context.Context, ifi *net.Interface) (time.Duration, error) {
	group, network := echoGroup4, "udp4"
	if !hasIPv4(ifi) {
		group, network = echoGroup6.WithZone(ifi.Name), "udp6"
	}
	conn, err := net.ListenMulticastUDP(network, ifi, &net.UDPAddr{IP: group.AsSlice()})
	if err != nil {
		return 0, fmt.Errorf("cannot join a multicast group: %w", err)
	}
	defer conn.Close()
	if network == "udp4" {
		p := ipv4.NewPacketConn(conn)
		err = errors.Join(p.SetMulticastInterface(ifi), p.SetMulticastLoopback(true), p.SetMulticastTTL(1))
	} else {
		p := ipv6.NewPacketConn(conn)
		err = errors.Join(p.SetMulticastInterface(ifi), p.SetMulticastLoopback(true), p.SetMulticastHopLimit(1))
	}
	if err != nil {
		return 0, fmt.Errorf("cannot choose the interface: %w", err)
	}
	port := uint16(conn.LocalAddr().(*net.UDPAddr).Port)
	nonce := make([]byte, 16)
	rand.Read(nonce)
	begin := time.Now()
	deadline := begin.Add(echoWait)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	conn.SetReadDeadline(deadline)
	if _, err := conn.WriteToUDPAddrPort(nonce, netip.AddrPortFrom(group, port)); err != nil {
		return 0, fmt.Errorf("cannot send: %w", err)
	}
	for b := make([]byte, 64); ; {
		n, _, err := conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return 0, errors.New("did not hear its own packet")
		}
		if slices.Equal(b[:n], nonce) {
			return time.Since(begin), nil
		}
	}
}

func hasIPv4(ifi *net.Interface) bool {
	addrs, err := ifi.Addrs()
	return err == nil && slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.To4() != nil
	})
}
