package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
)

// Identify tells where a peer sees this node once for each connection. A
// connection outlives a change of the address translator's mapping, so the
// relays that have a place for this node are asked again, now and then. The
// answer is u8 length, binary multiaddr; the question is empty.
const (
	seenName  = "seen/1"
	seenEvery = 30 * time.Second
	seenTime  = 3 * time.Second
)

var errSeen = errors.New("malformed answer")

func (n *nat) seenProtocol() protocol.ID { return Protocol(n.host.network, seenName) }

// tellSeen answers where a peer is seen at the moment.
func (n *nat) tellSeen(s network.Stream) {
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(seenTime))
	var q *quic.Conn
	if !isQUIC(s.Conn().RemoteMultiaddr()) || !s.Conn().As(&q) {
		_ = s.Reset()
		return
	}
	at, err := quicreuse.ToQuicMultiaddr(q.RemoteAddr(), quic.Version1)
	if err != nil {
		_ = s.Reset()
		return
	}
	raw := at.Bytes()
	_, _ = s.Write(append([]byte{byte(len(raw))}, raw...))
}

// askSeen asks the peer of a direct connection where it sees this node, and
// reports whether that is news.
func (n *nat) askSeen(ctx context.Context, c network.Conn) bool {
	ctx, cancel := context.WithTimeout(ctx, seenTime)
	defer cancel()
	s, err := c.NewStream(ctx)
	if err != nil {
		return false
	}
	defer s.Reset()
	if s, err = begun(s, n.seenProtocol()); err != nil {
		return false
	}
	_ = s.SetDeadline(time.Now().Add(seenTime))
	if err := s.CloseWrite(); err != nil {
		return false
	}
	at, err := readSeen(s)
	return err == nil && n.host.seen.add(c, at)
}

// readSeen reads one answer.
func readSeen(r io.Reader) (ma.Multiaddr, error) {
	var size [1]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, fmt.Errorf("read where this node is seen: %w", err)
	}
	if size[0] == 0 || size[0] > record.MaxAddrSize {
		return nil, fmt.Errorf("read where this node is seen: %d bytes: %w", size[0], errSeen)
	}
	raw := make([]byte, size[0])
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, fmt.Errorf("read where this node is seen: %w", err)
	}
	a, err := ma.NewMultiaddrBytes(raw)
	if err == nil && !oneMachine(a) {
		err = errSeen
	}
	if err != nil {
		return nil, fmt.Errorf("read where this node is seen: %w", err)
	}
	return a, nil
}

// watchSeen keeps asking the relays that have a place for this node, and once
// one of them sees it elsewhere every peer.
func (n *nat) watchSeen(ctx context.Context) {
	t := time.NewTicker(seenEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		moved := false
		for _, id := range n.places.relays() { // one that is gone is noticed elsewhere
			if c := n.host.best(id); c != nil && isQUIC(c.RemoteMultiaddr()) {
				moved = n.askSeen(ctx, c) || moved
			}
		}
		if !moved {
			continue
		}
		var wg sync.WaitGroup
		for _, c := range n.host.Network().Conns() {
			if isQUIC(c.RemoteMultiaddr()) {
				wg.Go(func() { n.askSeen(ctx, c) })
			}
		}
		wg.Wait()
		n.look()
	}
}
