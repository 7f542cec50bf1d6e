package main

import (
	"net"
	"sync/atomic"
)

// meter counts what a host's sockets send, headers of UDP and IP left out.
type meter struct {
	packets, bytes atomic.Uint64
}

type meteredConn struct {
	net.PacketConn
	m *meter
}

func (m *meter) wrap(c net.PacketConn) net.PacketConn { return meteredConn{c, m} }

func (c meteredConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.m.packets.Add(1)
	c.m.bytes.Add(uint64(len(b)))
	return c.PacketConn.WriteTo(b, to)
}
