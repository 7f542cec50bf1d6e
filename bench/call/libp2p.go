package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"cell.network/cell/bench/report"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	lpnet "github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const libp2pProtocol = "/bench/echo/1"

// everywhere is where libp2p hosts listen that are to be found on the local
// network.
const everywhere = "/ip4/0.0.0.0/udp/0/quic-v1"

// libp2pAddr is where a host listens.
type libp2pAddr struct {
	ID    string
	Addrs []string
}

func libp2pAddrOf(h host.Host) libp2pAddr {
	a := libp2pAddr{ID: h.ID().String()}
	for _, x := range h.Addrs() {
		a.Addrs = append(a.Addrs, x.String())
	}
	return a
}

func (a libp2pAddr) info() (peer.AddrInfo, error) {
	id, err := peer.Decode(a.ID)
	if err != nil {
		return peer.AddrInfo{}, err
	}
	info := peer.AddrInfo{ID: id}
	for _, s := range a.Addrs {
		x, err := ma.NewMultiaddr(s)
		if err != nil {
			return peer.AddrInfo{}, err
		}
		info.Addrs = append(info.Addrs, x)
	}
	return info, nil
}

// newLibp2p makes a stock host that echoes. Its resource manager is off: 64
// callers come near the limits that it has by default.
func newLibp2p(listen string) (host.Host, error) {
	h, err := libp2p.New(libp2p.ListenAddrStrings(listen), libp2p.ResourceManager(&lpnet.NullResourceManager{}))
	if err != nil {
		return nil, err
	}
	h.SetStreamHandler(libp2pProtocol, func(s lpnet.Stream) {
		defer s.Close()
		body, err := io.ReadAll(s)
		if err == nil {
			_, err = s.Write(body)
		}
		if err != nil {
			_ = s.Reset()
		}
	})
	return h, nil
}

// libp2pCall opens a stream, sends the request, and reads the response to its
// end.
func libp2pCall(ctx context.Context, h host.Host, to peer.ID, body []byte) ([]byte, error) {
	s, err := h.NewStream(ctx, to, libp2pProtocol)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if d, ok := ctx.Deadline(); ok {
		_ = s.SetDeadline(d)
	}
	if _, err := s.Write(body); err != nil {
		_ = s.Reset()
		return nil, fmt.Errorf("write: %w", err)
	}
	if err := s.CloseWrite(); err != nil {
		_ = s.Reset()
		return nil, fmt.Errorf("close write: %w", err)
	}
	out := make([]byte, 0, len(body)+1)
	for {
		n, err := s.Read(out[len(out):cap(out)])
		out = out[:len(out)+n]
		switch {
		case err == io.EOF:
			return out, nil
		case err != nil || len(out) == cap(out):
			_ = s.Reset()
			return nil, fmt.Errorf("read: %w", err)
		}
	}
}

func libp2pPart([]byte) (any, func(), error) {
	h, err := newLibp2p(loopback[0])
	if err != nil {
		return nil, nil, err
	}
	return libp2pAddrOf(h), func() { _ = h.Close() }, nil
}

// libp2pEcho opens a stream for each request, as most programs on libp2p do.
func libp2pEcho() echoer {
	const name = "libp2p 0.51.0, QUIC stream each"
	var addr libp2pAddr
	child, err := report.StartChild("libp2p", nil, &addr)
	if err != nil {
		return absent(name, err)
	}
	fail := func(err error) echoer {
		_ = child.Close()
		return absent(name, err)
	}
	to, err := addr.info()
	if err != nil {
		return fail(err)
	}
	h, err := newLibp2p(loopback[0])
	if err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := h.Connect(ctx, to); err != nil {
		_ = h.Close()
		return fail(err)
	}
	return echoer{
		name: name, cpu: []func() (time.Duration, error){child.CPU},
		echo:  func(ctx context.Context, body []byte) ([]byte, error) { return libp2pCall(ctx, h, to.ID, body) },
		close: func() { _ = h.Close(); _ = child.Close() },
	}
}
