package host

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"time"

	"cell.network/cell/internal/identity"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	msmux "github.com/multiformats/go-multistream"
)

// PeerID returns libp2p's form of a node key.
func PeerID(k identity.Key) (peer.ID, error) {
	pub, err := crypto.UnmarshalEd25519PublicKey(k[:])
	if err != nil || k.IsZero() {
		return "", fmt.Errorf("peer of key: %w", identity.ErrKey)
	}
	id, err := peer.IDFromPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("peer of key: %w", err)
	}
	return id, nil
}

// KeyOf returns the node key of a peer. It fails for peers whose key is not Ed25519.
func KeyOf(id peer.ID) (identity.Key, error) {
	pub, err := id.ExtractPublicKey()
	if err != nil {
		return identity.Key{}, fmt.Errorf("key of peer %s: %w", id, err)
	}
	raw, err := pub.Raw()
	if err != nil || pub.Type() != crypto.Ed25519 || len(raw) != identity.KeySize {
		return identity.Key{}, fmt.Errorf("key of peer %s: %w", id, identity.ErrKey)
	}
	return identity.Key(raw), nil
}

// Prefix returns /cell/<16 hex digits>, with which a network's protocols start.
func Prefix(n identity.Network) protocol.ID {
	id := n.ID()
	return protocol.ID("/cell/" + hex.EncodeToString(id[:8]))
}

// Protocol returns the full name of a protocol, such as "lease/1", of network n.
func Protocol(n identity.Network, name string) protocol.ID {
	return Prefix(n) + "/" + protocol.ID(name)
}

// Open starts a stream of one protocol to a peer, dialling it at the addresses
// known where there is no connection. Unlike [host.Host.NewStream] it waits for
// no answer: the protocol's name travels with the first bytes written, and a
// peer that does not speak it fails the first read. Spares one to two round
// trips on a new connection. Where there is nothing but a relayed connection,
// protocols of [Config.Relayed] use it, and others wait for a direct one.
func (h *Host) Open(ctx context.Context, p peer.ID, proto protocol.ID) (network.Stream, error) {
	if slices.Contains(h.relayed, proto) {
		ctx = network.WithAllowLimitedConn(ctx, string(proto))
	}
	return h.openAs(ctx, p, proto)
}

func (h *Host) openAs(ctx context.Context, p peer.ID, proto protocol.ID) (network.Stream, error) {
	s, err := h.stream(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	return begun(s, proto)
}

// begun makes a new stream one of a protocol.
func begun(s network.Stream, proto protocol.ID) (network.Stream, error) {
	if err := s.SetProtocol(proto); err != nil {
		_ = s.Reset()
		return nil, fmt.Errorf("open stream: %w", err)
	}
	return &lazyStream{Stream: s, rw: msmux.NewMSSelect(s, proto)}, nil
}

func (h *Host) stream(ctx context.Context, p peer.ID) (network.Stream, error) {
	c, err := h.swarm.DialPeer(ctx, p)
	if err != nil {
		return nil, err
	}
	if allowed, _ := network.GetAllowLimitedConn(ctx); c.Stat().Limited && !allowed {
		return h.swarm.NewStream(ctx, p) // waits for a direct connection
	}
	return c.NewStream(ctx)
}

// closeTimeout bounds how long closing a stream waits for a protocol's name to be answered.
const closeTimeout = 5 * time.Second

// lazyStream sends its protocol's name with the first bytes written.
type lazyStream struct {
	network.Stream
	rw io.ReadWriteCloser
}

func (s *lazyStream) Read(b []byte) (int, error)  { return s.rw.Read(b) }
func (s *lazyStream) Write(b []byte) (int, error) { return s.rw.Write(b) }

func (s *lazyStream) Close() error {
	_ = s.SetReadDeadline(time.Now().Add(closeTimeout))
	return s.rw.Close()
}

func (s *lazyStream) CloseWrite() error {
	if f, ok := s.rw.(interface{ Flush() error }); ok {
		_ = f.Flush() // where it fails, the next read says so
	}
	return s.Stream.CloseWrite()
}
